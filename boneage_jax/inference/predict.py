"""Image files in, a CSV of ages with intervals out.

`predict` goes from the user's files to OUTPUT: list them, check that the network can predict them,
decode and prepare them as in training, predict batch by batch, write.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from boneage_jax import cli
from boneage_jax.data import id_spaces
from boneage_jax.errors import UnreadableError
from boneage_jax.inference import calibration as calibration_lib
from boneage_jax.inference import hand_check, members, neighbours, pictures, scale
from boneage_jax.inference import images as images_lib
from boneage_jax.inference.intervals import wilson
from boneage_jax.runs import exported, shipped, training_ids
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runtime import files, log, setup
from boneage_jax.tasks import metrics
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import listing
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Archive, printable
from tfds_rsna.problems import REJECTED_HEADER, Problems

SHOWN = 5  # so few images are also printed


def predict(
    workdir: pathlib.Path | str | Sequence[pathlib.Path] | None,
    place: pathlib.Path,
    output: pathlib.Path | None,
    *,
    labels: pathlib.Path | None = None,
    sex: str | None = None,
    overlays: pathlib.Path | None = None,
    overwrite: bool = False,
    batch_size: int = 0,
    columns: dict[str, str] | None = None,
    age_unit: str = 'months',
    calibration: pathlib.Path | None = None,
    distance: bool = False,
    accept_all: bool = False,
) -> list[dict]:
    """Predicts the images at `place` with the best network of a run, and writes `output`.

    Args:
        workdir: the run, or an exported file, or the name of a shipped network; of several the mean
            of their ages; None is the shipped one that predicts ages.
        place: an image, a folder of images, or a zip of them.
        output: the CSV to write; None writes nothing, and every age is printed.
        labels: a table of sexes and, where known, ages.
        sex: 'male' or 'female', of the images whose sex no table gives; without it the header of a
            DICOM counts.
        overlays: a folder for one picture an image.
        overwrite: replace an output that exists.
        batch_size: images at once; 0 = as in training.
        columns: the table's `id`, `male`, `months` and `image` columns; see `listing.listing`.
        age_unit: of the table: 'months' or 'years'.
        calibration: a file of `boneage_jax.calibrate`, made for this very network; ages and
            intervals are then the site's.
        distance: also tell how far each image is from the training images, see `neighbours`.
        accept_all: predict what shows no hand too, see `hand_check`.

    Returns:
        The rows of `output` as dicts; what is not known is None, as is all that is predicted for an
        image that was refused.

    Raises:
        UserError: see the message; nothing was written.
        UnreadableError: at the end, where some images could not be read or were refused.
    """
    workdirs = _networks(workdir)
    place = pathlib.Path(place).expanduser()
    output = None if output is None else pathlib.Path(output)
    if sex not in (None, 'male', 'female'):
        raise UserError(f"--sex={sex}: expected 'male' or 'female'")
    if output:
        cli.refuse_existing(output, overwrite, (place, labels, calibration))
    rejected = _rejected(output)
    configs = members.read_configs(workdirs)
    config = configs[str(workdirs[0])]
    if distance and len(workdirs) > 1:
        raise UserError('--distance is of one network; give --workdir one, or leave it out')
    reference = neighbours.read(workdirs[0]) if distance else None
    for each in workdirs:
        _tell_of_shipped(each)
    setup.set_up_jax(config)

    problems = Problems('skip')
    with Archive(tolerant=True) as archive:
        listed = _listed(archive, place, labels, columns, age_unit, problems)
        predictor = members.MeanPredictor(workdirs, batch_size=batch_size)
        site = _site(calibration, predictor)
        reads_sex = predictor.needs_sex or site is not None
        sexes = _sexes(listed, sex, labels, trained_on=config.data.sex, reads_sex=reads_sex)
        intervals = site.intervals() if site else members.fit_intervals(workdirs)
        if site:
            log.info(f'Ages and 90% intervals are calibrated by {calibration}.')
        _warn_of_training_images(workdirs, config, listed)
        paths = pictures.name_pictures(listed, overlays, overwrite)

        rows = []
        for batch in images_lib.see_in_batches(
            listed,
            config.data,
            problems,
            batch_size=predictor.first.batch_size,
            keep_native=bool(paths),
            check=hand_check.checker(accept_all),
        ):
            accepted = [seen for seen in batch if not seen.refusal]
            found, aux = _predicted(predictor, accepted, place, sexes, site, intervals)
            if reference and accepted:
                _add_distances(found, reference.quantile(aux['embeddings']))
            rows += _with_refused(found, batch, place, sexes)
            if paths:
                for index, (row, seen) in enumerate(zip(found, accepted)):
                    pictures.draw(paths[row['id']], row, seen, aux, index)
                for seen in batch:
                    if seen.refusal:
                        pictures.draw_refused(paths[seen.listed.id], seen)

    if output:
        _write(rows, output, problems, rejected)
    _report(rows, output, overlays)
    if len(problems):
        predicted = sum(row['status'] == predictions_lib.OK for row in rows)
        raise UnreadableError(
            f'{len(problems)} of {predicted + len(problems)} images were not predicted'
            + (f' (listed in {rejected})\n' if rejected else '\n')
            + '\n'.join(problems.lines())
        )
    return rows


# What there is, and whether this network can predict it


def _networks(workdir):
    """Where the networks are: of one place, of several, or the shipped one of ages."""
    if workdir is None:
        return [shipped.ages()]
    several = [workdir] if isinstance(workdir, str | os.PathLike) else workdir
    return list(map(exported.find, several))


def _tell_of_shipped(workdir):
    """Says in a line that the network is one that comes with the code, and on which terms.

    A line more, where the networks that prepare images for it are others by now.
    """
    if not exported.is_file(workdir):
        return
    header = exported.read(workdir)
    name = shipped.name_of(workdir)
    if name:
        terms = ' '.join(exported.text(header, 'terms').split())
        log.info(
            f'Predicted with {name}, the network that comes with the code: for research, no '
            f'medical device. {terms}'.rstrip()
        )
    changed = exported.changed_networks(header)
    if changed:
        log.info(
            f'{workdir}: its images were prepared by another {", ".join(changed)} than the one '
            'that comes with this version of the code: ages may differ from those it was judged by.'
        )


def _listed(archive, place, labels, columns, age_unit, problems):
    table = pathlib.Path(labels).expanduser() if labels else None
    listed, lines = listing.listing(archive, place, table, columns=columns, age_unit=age_unit)
    for line in lines:
        log.info(line.replace('data.image_folder.', '--'))
    for path, reason in archive.failures.items():
        problems.add('zip that cannot be opened', '', path, reason)
    return listed


def _site(path, predictor):
    """The site's calibration in a file, None where none is given."""
    if path is None:
        return None
    if len(predictor.places) > 1:
        raise UserError(
            f'--calibration={path} is of one network; give --workdir one, or leave it out'
        )
    identity = calibration_lib.identify(predictor.places[0], predictor.first.step)
    return calibration_lib.read(path, identity)


def _sexes(listed, sex, labels, *, trained_on, reads_sex):
    """`{id: male or None}` of the images.

    Args:
        listed: the images.
        sex: 'male' or 'female' for those whose sex no table gives, or None. Where that is None the
            images' own headers count.
        labels: the table, for the message.
        trained_on: 'male', 'female' or 'both': the images that the network was trained on.
        reads_sex: whether the network, or its calibration, needs the sex.

    Raises:
        UserError: it names the images whose sex is needed and not known, or is another than that
            of all images that the network was trained on.
    """
    given = None if sex is None else sex == 'male'
    male = {}
    from_header = []
    for file in listed:
        known = [value for value in (file.male, given, file.header_male) if value is not None]
        male[file.id] = known[0] if known else None
        if file.header_male is not None and len(known) == 1:
            from_header.append(file.id)
    if from_header:
        log.info(
            f"PatientSex of the file's own header is taken for {len(from_header)} of {len(listed)} "
            f'images: {_first(from_header)}.'
        )
    unlike = [file.id for file in listed if file.header_male not in (None, male[file.id])]
    if unlike:
        log.info(
            f'PatientSex in the header is the other sex for {len(unlike)} of {len(listed)} images '
            f'(flag {decoding.OTHER_SEX}): {_first(unlike)}. They are predicted as '
            f'{"--labels or " if labels else ""}--sex says.'
        )

    unknown = [image for image, value in male.items() if value is None]
    if unknown and (reads_sex or trained_on != 'both'):
        if reads_sex:
            why = 'this network reads it'
        else:
            why = f'this network has seen {trained_on} images alone'
        if labels:
            advice = (
                f'Mend or add their rows in {labels}, or give --sex=male or --sex=female for them'
            )
        else:
            advice = (
                'Give --labels=CSV with the columns id and male, or --sex=male or --sex=female for '
                'all of them'
            )
        raise UserError(
            f'the sex of {len(unknown)} of {len(listed)} images is not known, and {why}: '
            f'{_first(unknown)}. {advice}'
        )

    if trained_on != 'both':
        others = [image for image, value in male.items() if value != (trained_on == 'male')]
        if others:
            raise UserError(
                f'{len(others)} of {len(listed)} images are not {trained_on}, and this network was '
                f'trained on {trained_on} images alone: {_first(others)}. Leave them out, or give '
                'the run of another network'
            )
    return male


def _first(images, more=' and so on'):
    """The first few of a list of ids."""
    text = ', '.join(images[:SHOWN])
    return text + more if len(images) > SHOWN else text


def _warn_of_training_images(workdirs, config, listed):
    """Says which images have the ids of training images; phantoms' are numbers without meaning."""
    if config.data.source == 'hand_phantom':
        return
    ids = [file.id for file in listed]
    found = set()
    for workdir in workdirs:
        if exported.is_file(workdir) or (workdir / 'splits.json').exists():
            # A user's files declare no id space: any image of that id may be theirs.
            found.update(training_ids.of(workdir).among(ids, id_spaces.UNDECLARED))
    known = sorted(found)
    if known:
        which = 'this run was' if len(workdirs) == 1 else 'one or more of these runs were'
        log.info(
            f'{len(known)} of {len(listed)} images have the ids of images that {which} '
            f'trained on ({_first(known, more=", ...")}): if they are the same, their ages are '
            'recalled, not predicted, and errors and intervals mean nothing.'
        )


# Predicting


def _add_distances(rows, quantiles):
    """`distance_quantile` of each row, see `neighbours.Reference.quantile`; before the age."""
    for row, quantile in zip(rows, quantiles, strict=True):
        age = row.pop('age')
        row['distance_quantile'] = float(quantile)
        row['age'] = age


def _predicted(predictor, batch, place, sexes, site, intervals):
    """(rows of OUTPUT, the network's auxiliary outputs) of a batch."""
    if not batch:
        return [], {}
    male = [sexes[seen.listed.id] for seen in batch]
    months, columns, aux = predictor.ages(np.stack([seen.image for seen in batch]), male)
    if site:
        months = site.apply(months, male)
    signals = {name: columns[name] for name in scale.SIGNALS if name in columns}
    rows = []
    for i, seen in enumerate(batch):
        own = {name: values[i] for name, values in signals.items()}
        lower, upper = _interval(intervals, months[i], male[i], own)
        row = {
            'id': seen.listed.id,
            'file': _path(seen.listed, place),
            'male': male[i],
            'prediction': float(months[i]),
            'years': pictures.in_years(float(months[i])),
            'lower': lower,
            'upper': upper,
            'status': predictions_lib.OK,
            'flags': _flags(seen, male[i]),
        }
        for name, values in columns.items():
            row[name] = values[i]
        row['age'] = seen.listed.months
        rows.append(row)
    return rows, aux


def _with_refused(found, batch, place, sexes):
    """The rows `found` of the accepted images, with those of the refused ones in their places."""
    accepted = iter(found)
    rows = []
    for seen in batch:
        if not seen.refusal:
            rows.append(next(accepted))
            continue
        male = sexes[seen.listed.id]
        row = {'id': seen.listed.id, 'file': _path(seen.listed, place), 'male': male}
        row |= dict.fromkeys(('prediction', 'years', 'lower', 'upper'))
        row |= {'status': predictions_lib.REFUSED, 'flags': _flags(seen, male)}
        rows.append(row | {'age': seen.listed.months})
    return rows


def _flags(seen, male):
    """The flags of an image and of its preparation, each once, joined by ';'."""
    flags = [flag for flag in seen.flags.split(';') if flag]
    if None not in (male, seen.listed.header_male) and male != seen.listed.header_male:
        flags.append(decoding.OTHER_SEX)
    return ';'.join(dict.fromkeys(flags))


def _interval(intervals, months, male, signals):
    """(lower, upper) in months; of an unknown sex the wider one, None without intervals."""
    if intervals is None:
        return None, None
    sexes = [True, False] if male is None else [male]
    of_sexes = {name: [value] * len(sexes) for name, value in signals.items()}
    lower, upper = intervals.bounds([float(months)] * len(sexes), sexes, of_sexes)
    return float(lower.min()), float(upper.max())


def _path(file, place):
    if place.is_file() and file.entry.file == place and file.entry.packed is None:
        return printable(str(place))
    return printable(str(place / file.entry.path))


# What is written and printed


def _write(rows, output, problems, rejected):
    """Writes OUTPUT, and the list of what could not be predicted, each where there is any."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if rows:
        _write_rows(rows, output)
    if rejected and len(problems):
        with files.replacing(rejected) as temporary:
            problems.write(temporary)
    elif rejected:
        rejected.unlink(missing_ok=True)  # of an earlier call


def _rejected(output):
    """Where the images that could not be predicted are listed.

    None without an output, and beside a device or a pipe.

    Raises UserError where a file of that name is there which no earlier call wrote.
    """
    if output is None or files.is_special(output):
        return None
    path = output.with_name(f'{output.stem}_rejected.csv')
    if path.exists():
        with path.open('rb') as file:
            is_ours = file.readline().strip() == REJECTED_HEADER.encode()
        if not is_ours:
            raise UserError(
                f'{path} exists, where the images that cannot be predicted would be listed, and is '
                'no such list; move it away, or give another --output'
            )
    return path


def _write_rows(rows: list[Mapping], output):
    """OUTPUT, with the digits of a run's own predictions.csv; `age` where at least one is known."""
    names = list(max(rows, key=len))  # a refused image has no classes
    if all(row['age'] is None for row in rows):
        names.remove('age')
    lines = []
    for row in rows:
        lines.append([_cell(row.get(name)) for name in names])
    files.write_table(output, names, lines)


def _cell(value):
    return evaluate.show(value) if isinstance(value, float) else value


def _report(rows, output, overlays):
    if not rows:
        return
    if len(rows) <= SHOWN or not output:
        for row in rows:
            print('; '.join(pictures.caption(row)), flush=True)

    flagged = {}
    for row in rows:
        for flag in filter(None, row['flags'].split(';')):
            flagged.setdefault(flag, []).append(row['id'])
    for flag, ids in flagged.items():
        log.info(f'Flag {flag}: {len(ids):,} of {len(rows):,} images: {_first(ids)}.')
    known = [row for row in rows if None not in (row['age'], row['prediction'])]
    errors = np.array([row['prediction'] - row['age'] for row in known])
    if len(errors):
        lower, upper = metrics.bootstrap(np.abs(errors))
        log.info(
            f'MAE {np.abs(errors).mean():.2f} months (95% interval {lower:.2f} to {upper:.2f}) on '
            f'the {len(errors):,} images whose age is known; bias {errors.mean():+.2f}.'
        )
    _report_coverage([row for row in known if row['lower'] is not None])
    images = '1 image' if len(rows) == 1 else f'{len(rows):,} images'
    drawn = f'; pictures: {overlays}' if overlays else ''
    if output:
        log.info(f'{images}: {output}{drawn}')
    else:
        log.info(f'{images}{drawn}. --output=ages.csv writes a table.')


def _report_coverage(rows):
    """Says what the intervals hold of images whose age is known, and of the flagged ones."""
    if not rows:
        return
    inside = [row['lower'] <= row['age'] <= row['upper'] for row in rows]
    line = f'90% intervals hold {_share(inside)} images whose age is known'
    flagged = [held for held, row in zip(inside, rows) if row['flags']]
    if flagged:
        line += f', {_share(flagged)} flagged ones'
    log.info(f'{line}.')


def _share(inside):
    lower, upper = wilson(sum(inside), len(inside))
    return (
        f'{100 * np.mean(inside):.1f}% ({100 * lower:.1f} to {100 * upper:.1f}) of {len(inside):,}'
    )
