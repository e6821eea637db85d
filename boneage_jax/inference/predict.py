"""Image files in, ages out: months, years, a 90% interval, and a picture of what was looked at.

    python -m boneage_jax.predict --workdir=runs/a --input=images/ --labels=images.csv --output=ages.csv --overlays=ages/
    python -m boneage_jax.predict --workdir=runs/a --input=1377.png --sex=female --output=1377.csv

Images (PNG, JPEG, TIFF, DICOM; a file, a folder, a zip) are prepared as the run's own were. OUTPUT
holds `id,file,male,prediction,years,lower,upper[,age]`, ages in months (of a classifier also the
class, its months and the probabilities). An image that cannot be read does not stop the others: it
is listed in OUTPUT's neighbour `..._rejected.csv`, and the exit status is 1. Whether an image shows
a hand at all is not checked: the network gives every picture an age.
"""

import concurrent.futures
import json
import pathlib
import re
import sys

import numpy as np
import tqdm

from boneage_jax import figures
from boneage_jax.errors import UnreadableError
from boneage_jax.inference import calibration as calibration_lib
from boneage_jax.inference import intervals
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runs.predictor import Predictor, read_config, read_task
from boneage_jax.runtime import files, log, setup
from boneage_jax.stages import records
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import listing
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Archive
from tfds_rsna.parallel import pools
from tfds_rsna.problems import Problems

SHOWN = 5  # so few images are also printed
_CARRIED = 'coco_keypoints'  # points that every stage moves with the image and none asks about


def predict(
    workdir,
    place,
    output,
    *,
    labels=None,
    sex=None,
    overlays=None,
    overwrite=False,
    batch_size=0,
    columns=None,
    age_unit='months',
    calibration=None,
):
    """Predicts the images at `place` with the best network of the run in `workdir` and writes
    `output`.

    Args:
        labels: a table of sexes and, where known, ages; `columns` (`id`, `male`, `months`, `image`)
            and `age_unit` say how to read it, see `listing.listing`.
        sex: 'male' or 'female', of the images whose sex no table gives.
        overlays: a folder for one picture an image.
        batch_size: images at once; 0 = as in training.
        calibration: a file of `boneage_jax.calibrate`, made for this very network: ages and
        intervals are the site's.

    Returns:
        The rows of `output` as dicts; what is not known is None.

    Raises:
        UserError: see the message; nothing was written.
        Unreadable: at the end, where some images could not be read.
    """
    workdir, place, output = (
        pathlib.Path(workdir),
        pathlib.Path(place).expanduser(),
        pathlib.Path(output),
    )
    if sex not in (None, 'male', 'female'):
        raise UserError(f"--sex={sex}: expected 'male' or 'female'")
    if output.exists() and not overwrite:
        raise UserError(f'{output} exists; give another --output, or --overwrite')
    config = read_config(workdir)
    if read_task(workdir).months is None:
        raise UserError(
            f'{workdir} holds a run of the task {config.task.name!r}, which predicts no ages'
        )
    setup.set_up_jax(config)
    with Archive() as archive:
        listed, lines = listing.listing(
            archive,
            place,
            pathlib.Path(labels).expanduser() if labels else None,
            columns=columns,
            age_unit=age_unit,
        )
        for line in lines:
            log.info(f'{labels}: {line}')
        predictor = Predictor(workdir, batch_size=batch_size)
        site = calibration and calibration_lib.read(
            calibration, calibration_lib.identify(workdir, predictor.step)
        )
        male = _sexes(listed, sex, labels, config.data.sex, read=predictor.needs_sex or site)
        fitted = site.intervals() if site else _fit_intervals(workdir)
        if site:
            log.info(f'Ages and 90% intervals are calibrated by {calibration}.')
        _warn_of_training_images(workdir, listed)
        pictures = _name_pictures(listed, overlays, overwrite)
        problems, rows = Problems('skip'), []
        for chunk in _chunks(listed, predictor, problems, keep=bool(pictures)):
            sexes = [male[example.id] for example, *_ in chunk]
            months, classes, aux = _months(
                predictor, np.stack([seen['image'] for _, seen, _ in chunk]), sexes
            )
            months = site.apply(months, sexes) if site else months
            for i, (example, seen, native) in enumerate(chunk):
                of_classes = {name: values[i] for name, values in classes.items()}
                row = _row(example, place, sexes[i], float(months[i]), fitted, of_classes)
                rows.append(row)
                if pictures:
                    _draw(
                        pictures[example.id],
                        row,
                        native,
                        seen,
                        {name: _item(value, i) for name, value in aux.items()},
                    )
    rejected = output.with_name(f'{output.stem}_rejected.csv')
    if rows:
        output.parent.mkdir(parents=True, exist_ok=True)
        files.write_table(output, *_table(rows))
    if len(problems):
        rejected.parent.mkdir(parents=True, exist_ok=True)
        problems.write(rejected)
    else:
        rejected.unlink(missing_ok=True)  # of an earlier call
    _say(rows, output, overlays)
    if len(problems):
        raise UnreadableError(
            '\n'.join(
                [
                    f'{len(problems)} of {len(listed)} images were not predicted (listed in {rejected})',
                    *problems.lines(),
                ]
            )
        )
    return rows


def see(images, data):
    """Images, each [H, W] uint8, as the network of `config.data` sees them: for each `{'image':
    uint8 [rows, columns, 1], 'matrix': ..}`, or None where the run's own preprocessing left it out.

    `matrix` [2, 3] takes places (row, column) on what the network sees to places on the image, in
    both of which pixel (r, c) covers [r, r + 1] x [c, c + 1]: three points are carried through all
    that is done to the image.
    """
    points = [
        np.array([[0, 0], [rows, 0], [0, columns]], np.float32)
        for rows, columns in (x.shape for x in images)
    ]
    images_seen = records.process(
        [{'id': '', 'image': image, _CARRIED: three} for image, three in zip(images, points)], data
    )
    return [
        example and {'image': example['image'], 'matrix': _matrix(example[_CARRIED], three)}
        for example, three in zip(images_seen, points)
    ]


def _matrix(seen, native):
    """The [2, 3] that takes three points [3, 2] (pixel centres) on what is seen to those on the
    image, in edges.
    """
    return np.linalg.solve(np.c_[np.asarray(seen, np.float64) + 0.5, np.ones(3)], native + 0.5).T


def in_years(months):
    """136.2 -> '11 years 4 months'; below zero counts as zero."""
    years, rest = divmod(max(0, round(months)), 12)
    return f'{years} year{"s" * (years != 1)} {rest} month{"s" * (rest != 1)}'


def _sexes(listed, sex, labels, trained_on, *, read):
    """{id: male or None}; UserError that names the images whose sex the network reads and nobody
    knows, or is of the other sex than all that it was `trained_on` ('male', 'female', or 'both').
    """
    given = None if sex is None else sex == 'male'
    male = {example.id: given if example.male is None else example.male for example in listed}

    def named(examples):
        return f'{", ".join(examples[:SHOWN])}{" and so on" if len(examples) > SHOWN else ""}'

    unknown = [name for name, value in male.items() if value is None]
    if unknown and (read or trained_on != 'both'):
        why = (
            'this network reads it' if read else f'this network has seen {trained_on} images alone'
        )
        raise UserError(
            f'the sex of {len(unknown)} of {len(listed)} images is not known, and {why}: {named(unknown)}. '
            + (
                f'Mend their rows in {labels}, or give --sex=male or --sex=female for them'
                if labels
                else 'Give --labels=CSV with the columns id and male, or --sex=male or --sex=female for all of them'
            )
        )
    others = [
        name
        for name, value in male.items()
        if trained_on != 'both' and value != (trained_on == 'male')
    ]
    if others:
        raise UserError(
            f'{len(others)} of {len(listed)} images are not {trained_on}, and this network was trained on {trained_on} '
            f'images alone: {named(others)}. Leave them out, or give the run of another network'
        )
    return male


def _fit_intervals(workdir):
    """The run's intervals, or None; says what they are worth, or why there are none."""
    path = workdir / 'predictions.csv'
    if not path.exists():
        log.info(
            f'No intervals: {workdir} is not finished, so the errors on its validation images are not known yet.'
        )
        return None
    predictions = predictions_lib.read(path)
    try:
        fitted = intervals.fit(predictions)
    except UserError as error:
        log.info(f'No intervals: {error}.')
        return None
    for line in fitted.lines():
        log.info(line)
    for split in dict.fromkeys(predictions['split']):
        if split != 'validation':
            shares = intervals.coverage(fitted, predictions, split)
            log.info(
                f'On {split} they hold '
                + ', '.join(
                    f'{100 * s["value"]:.1f}% of {s["count"]:,} images'
                    + ('' if name == 'overall' else f' of {intervals.PLAIN[name]}')
                    + f' ({100 * s["lower"]:.1f} to {100 * s["upper"]:.1f})'
                    for name, s in shares.items()
                )
                + '; images from elsewhere may fare worse.'
            )
    return fitted


def _warn_of_training_images(workdir, listed):
    path = workdir / 'splits.json'
    known = {example.id for example in listed} & set(
        json.loads(path.read_text())['train'] if path.exists() else ()
    )
    if known:
        log.info(
            f'{len(known)} of {len(listed)} images have the ids of images that this run was trained on '
            f'({", ".join(sorted(known)[:SHOWN])}{", ..." if len(known) > SHOWN else ""}): if they are the same, '
            'their ages are recalled, not predicted, and errors and intervals mean nothing.'
        )


def _name_pictures(listed, folder, overwrite):
    """{id: path} of the pictures to draw, empty where none are wanted."""
    if not folder:
        return {}
    paths = {
        example.id: pathlib.Path(folder) / f'{re.sub("[^-._A-Za-z0-9]", "_", example.id)}.png'
        for example in listed
    }
    if len(set(paths.values())) < len(paths):  # ids that differ only in what no file name can hold
        paths = {
            name: path.with_stem(f'{path.stem}_{i}') for i, (name, path) in enumerate(paths.items())
        }
    there = [path for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise UserError(
            f'{there[0]} exists ({len(there)} pictures); give another folder to --overlays, or --overwrite'
        )
    return paths


def _chunks(listed, predictor, problems, *, keep):
    """Lists of (image, what the network sees, native image or None), decoded by threads one batch
    ahead.
    """
    size = predictor.batch_size

    def read(example):
        return decoding.decode(example.entry.read(), example.entry.path)

    with (
        concurrent.futures.ThreadPoolExecutor(pools.cores()) as pool,
        tqdm.tqdm(total=len(listed), unit='image', disable=not sys.stderr.isatty()) as bar,
    ):

        def submit(start):
            return [
                (example, pool.submit(read, example)) for example in listed[start : start + size]
            ]

        ahead = submit(0)
        for start in range(0, len(listed), size):
            jobs, ahead = ahead, submit(start + size)
            decoded = []
            for example, job in jobs:
                try:
                    decoded.append((example, job.result()))
                except (UserError, OSError) as error:
                    problems.add(
                        'image that cannot be read',
                        example.id,
                        example.entry.path,
                        str(error).removeprefix(f'{example.entry.path}: '),
                    )
            chunk = []
            for (example, image), seen in zip(
                decoded, see([image for _, image in decoded], predictor.config.data)
            ):
                if seen is None:
                    problems.add(
                        'image that the preprocessing left out',
                        example.id,
                        example.entry.path,
                        'no hand was found as the stages of data.stages need it',
                    )
                else:
                    chunk.append((example, seen, image if keep else None))
            if chunk:
                yield chunk
            bar.update(len(jobs))


def _months(predictor, images, male):
    """(months [N], columns of a classifier {name: [N]}, aux) as the run's evaluation had them:
    averaged with the mirror image under `flip_tta`.
    """
    male = np.array([bool(value) for value in male])
    prediction, aux = predictor.predict_tta(images, male)
    classes = predictor.task.classes(prediction) if predictor.task.classes else {}
    return (
        np.asarray(predictor.task.months(prediction)),
        {name: np.asarray(values).tolist() for name, values in classes.items()},
        aux,
    )


def _row(example, place, male, months, fitted, classes):
    lower = upper = None
    if fitted:
        low, high = fitted.bounds([months] * 2, [True, False] if male is None else [male] * 2)
        lower, upper = float(low.min()), float(high.max())  # of an unknown sex: the wider one
    file = (
        place
        if place.is_file() and place.name == example.entry.path
        else place / example.entry.path
    )
    return {
        'id': example.id,
        'file': str(file),
        'male': male,
        'prediction': months,
        'years': in_years(months),
        'lower': lower,
        'upper': upper,
        **classes,
        'age': example.months,
    }


def _table(rows):
    """(columns, lines) of OUTPUT; a column `age` where at least one is known."""
    names = [
        name for name in rows[0] if name != 'age' or any(row['age'] is not None for row in rows)
    ]
    return names, [
        [f'{row[name]:.2f}' if isinstance(row[name], float) else row[name] for name in names]
        for row in rows
    ]


def _caption(row):
    """The lines that say what came out for an image."""
    sex = {True: ' (boy)', False: ' (girl)', None: ''}[row['male']]
    lines = [f'{row["id"]}{sex}: {row["years"]}', f'{row["prediction"]:.1f} months']
    if row['lower'] is not None:
        lines[1] += (
            f', {100 * intervals.LEVEL:g}% interval {row["lower"]:.0f} to {row["upper"]:.0f}'
        )
    if 'class_months' in row:
        lines.append(f'class {row["class"]}: {row["class_months"]} months')
    return lines + (
        [] if row['age'] is None else [f'labelled {in_years(row["age"])}, {row["age"]:.1f} months']
    )


def _item(value, i):
    return [part[i] for part in value] if isinstance(value, list) else value[i]


def _draw(path, row, native, seen, aux):
    maps = {
        f'relation, res{level}': values
        for level, values in enumerate(aux.get('relation_maps', ()), start=3)
    }
    if 'attention' in aux:
        maps['attention'] = aux['attention']
    figures.overlay(
        native,
        '\n'.join(_caption(row)),
        path,
        boxes=aux.get('part_boxes'),
        valid=aux.get('part_valid'),
        maps=maps,
        boxes_of_maps={'attention': aux.get('map_box')},
        size=seen['image'].shape[:2],
        matrix=seen['matrix'],
    )


def _say(rows, output, overlays):
    if not rows:
        return
    for row in rows if len(rows) <= SHOWN else ():
        print('; '.join(_caption(row)), flush=True)
    known = np.array([row['prediction'] - row['age'] for row in rows if row['age'] is not None])
    if len(known):
        lower, upper = metrics.bootstrap(np.abs(known))
        log.info(
            f'MAE {np.abs(known).mean():.2f} months (95% interval {lower:.2f} to {upper:.2f}) on the '
            f'{len(known):,} images whose age is known; bias {known.mean():+.2f}.'
        )
    log.info(
        f'{len(rows):,} image{"s" * (len(rows) > 1)}: {output}'
        + (f'; pictures: {overlays}' if overlays else '')
    )
