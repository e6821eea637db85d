"""Image files in, a CSV of ages with intervals out.

`predict` goes from the user's files to OUTPUT: list them, check that the network can predict them,
decode and prepare them as in training, predict batch by batch, write.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from boneage_jax import cli
from boneage_jax.errors import UnreadableError
from boneage_jax.inference import ages, pictures
from boneage_jax.inference import images as images_lib
from boneage_jax.inference.intervals import wilson
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runtime import files, log
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import listing
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Archive
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
    place = pathlib.Path(place).expanduser()
    output = None if output is None else pathlib.Path(output)
    if sex not in (None, 'male', 'female'):
        raise UserError(f"--sex={sex}: expected 'male' or 'female'")
    if output:
        cli.refuse_existing(output, overwrite, (place, labels, calibration))
    rejected = _rejected(output)
    networks = ages.Networks(workdir)
    config = networks.config
    reference = networks.reference() if distance else None

    problems = Problems('skip')
    with Archive(tolerant=True) as archive:
        listed = _listed(archive, place, labels, columns, age_unit, problems)
        reader = networks.load(
            batch_size=batch_size, calibration=calibration, accept_all=accept_all
        )
        sexes = _sexes(listed, sex, labels, trained_on=config.data.sex, reads_sex=reader.reads_sex)
        _warn_of_training_images(networks.places, config, listed)
        paths = pictures.name_pictures(listed, overlays, overwrite)

        rows = []
        for batch in images_lib.see_in_batches(
            listed,
            config.data,
            problems,
            batch_size=reader.batch_size,
            keep_native=bool(paths),
            check=reader.check,
        ):
            male = [sexes[seen.listed.id] for seen in batch]
            found, aux = reader.rows(batch, male, place)
            predicted = [row for row in found if row['status'] == predictions_lib.OK]
            if reference and predicted:
                _add_distances(predicted, reference.quantile(aux['embeddings']))
            rows += found
            if paths:
                _draw(paths, found, batch, aux)

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


def _listed(archive, place, labels, columns, age_unit, problems):
    table = pathlib.Path(labels).expanduser() if labels else None
    listed, lines = listing.listing(archive, place, table, columns=columns, age_unit=age_unit)
    for line in lines:
        log.info(line.replace('data.image_folder.', '--'))
    for path, reason in archive.failures.items():
        problems.add('zip that cannot be opened', '', path, reason)
    return listed


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
        male[file.id] = ages.known_sex(file, given)
        if file.header_male is not None and given is None and file.male is None:
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
    """Says which images have the ids of training images."""
    training = ages.training_images(workdirs, config)
    known = ages.trained_on(training, [file.id for file in listed])
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


def _draw(paths, rows, batch, aux):
    """Draws the pictures of a batch; `aux` are the outputs of those that were not refused."""
    index = 0
    for row, seen in zip(rows, batch, strict=True):
        if seen.refusal:
            pictures.draw_refused(paths[row['id']], seen)
        else:
            pictures.draw(paths[row['id']], row, seen, aux, index)
            index += 1


# What is written and printed


def _write(rows, output, problems, rejected):
    """Writes OUTPUT, and the list of what could not be predicted, each where there is any."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if rows:
        files.write_table(output, *ages.table(rows))
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
