"""Calibrate a run to a site's own readings: a straight line for each sex, judged on images that it
did not see.

    python -m boneage_jax.calibrate --workdir=runs/a --input=images/ --labels=site.csv --output=site.json
    python -m boneage_jax.calibrate --workdir=runs/a --predictions=ages.csv --output=site.json

OUTPUT is what `predict --calibration=site.json` takes; beside it `site_images.csv` holds every
image before and after, the latter by the line of all other images. Images come as files with a
table of sexes and ages, or as the CSV of `predict` or `score` with ages in it. Images of a split
that this project reports (holdout, test) are refused: what is calibrated on them cannot be measured
on them. A sex needs 20 images.
"""

import csv
import pathlib
import tempfile

import numpy as np

from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import UnreadableError
from boneage_jax.inference import calibration, predict
from boneage_jax.runs import predictor
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from tfds_rsna.errors import UserError
from tfds_rsna.labels import MALE

_COLUMNS = ('id', 'male', 'age', 'before', 'after')


def calibrate(
    workdir,
    output,
    *,
    place=None,
    labels=None,
    predictions=None,
    split='validation',
    overwrite=False,
    **options,
):
    """Fits, judges and writes; returns the report.

    Args:
        place, labels: images and the table of their sexes and ages; `options` (`columns`,
            `age_unit`, `batch_size`) as `predict.predict` takes them.
        predictions: instead of these a CSV with `id`, `male`, `age`, `prediction`; of one with a
            column `split` the images of `split` count.
    """
    output = pathlib.Path(output)
    if (place is None) == (predictions is None):
        raise UserError('give either --input with --labels, or --predictions')
    if output.exists() and not overwrite:
        raise UserError(f'{output} exists; give another --output, or --overwrite')
    step = predictor.step_of(workdir)
    if predictions is None:
        if labels is None:
            raise UserError('--labels: give the table with the sex and age of each image')
        with tempfile.TemporaryDirectory() as folder:
            predictions = pathlib.Path(folder) / 'ages.csv'
            try:
                predict.predict(workdir, place, predictions, labels=labels, **options)
            except UnreadableError as error:  # the others are there
                log.info(str(error))
            images = read(predictions, split)
    else:
        images = read(predictions, split)
    fitted, report, after = calibration.fit(
        images['prediction'], images['age'], images['male'], calibration.identify(workdir, step)
    )
    about = {
        'workdir': str(workdir),
        'step': step,
        'judged': 'each image by the line of all others',
        'commit': workdir_lib.provenance()['commit'],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(
        output.with_name(f'{output.stem}_images.csv'),
        _COLUMNS,
        [
            (name, bool(male), f'{age:.2f}', f'{before:.2f}', f'{late:.2f}')
            for name, male, age, before, late in zip(
                images['id'], images['male'], images['age'], images['prediction'], after
            )
        ],
    )
    calibration.write(output, fitted, report, about)
    _say(fitted, report, output)
    return report


def read(path, split):
    """`{'id', 'male', 'age', 'prediction'}` of the images of a CSV whose age and sex are known.

    Raises UserError where columns lack, no image has an age, or the images are of a split that is
    reported.
    """
    path = pathlib.Path(path)
    try:
        with path.open(newline='') as file:
            reader = csv.DictReader(file)
            names, rows = reader.fieldnames or [], list(reader)
    except OSError as error:
        raise UserError(
            f'{path}: {error.strerror}; give the CSV that predict or score wrote'
        ) from error
    missing = [name for name in ('id', 'male', 'age', 'prediction') if name not in names]
    if missing:
        raise UserError(
            f'{path}: no column {", ".join(missing)}; found {", ".join(names) or "nothing"}. Ages come into the '
            'CSV of predict with --labels'
        )
    if 'split' in names:
        splits_lib.selecting(split, 'the calibration')
        found = dict.fromkeys(row['split'] for row in rows)
        rows = [row for row in rows if row['split'] == split]
        if not rows:
            raise UserError(
                f'{path}: no image of the split {split}; it has {", ".join(found)} (--split)'
            )
    images = []
    for line, row in enumerate(rows, 2):
        male = MALE.get((row['male'] or '').strip().lower())
        try:
            if row['age'] and male is not None:
                images.append((row['id'], male, float(row['age']), float(row['prediction'])))
        except (TypeError, ValueError) as error:
            raise UserError(f'{path}, row {line}: cannot read {row} ({error})') from error
    if not images:
        raise UserError(f'{path}: no image whose age and sex are known')
    ids, male, age, prediction = zip(*images)
    return {
        'id': list(ids),
        'male': np.array(male),
        'age': np.array(age),
        'prediction': np.array(prediction),
    }


def _say(fitted, report, output):
    def show(found):
        return f'{found["value"]:+.2f} ({found["lower"]:+.2f} to {found["upper"]:+.2f})'

    for name, of in report.items():
        line = fitted.lines.get(name)
        log.info(
            f'{name}, {of["images"]} images'
            + (f': age = {line[0]:+.1f} + {line[1]:.3f} x prediction' if line else '')
        )
        for figure, unit in (('mae', 'MAE'), ('bias', 'bias')):
            log.info(
                f'  {unit}, months (95% interval): before {show(of["before"][figure])}, after, left out one by one, '
                f'{show(of["after"][figure])}'
            )
        log.info(f'  difference of the MAE: {show(of["mae_difference"])}')
    if report['overall']['mae_difference']['upper'] >= 0:
        log.info(
            'The gain is not certain: its interval holds zero. More images of the site would tell.'
        )
    log.info(f'{output}; use it with predict --calibration={output}')
