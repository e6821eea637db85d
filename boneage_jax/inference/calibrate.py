"""A run calibrated to a site's own readings: images are read, lines are fitted and judged.

`calibration` holds the line itself; what is written here is what `predict` takes.
"""

import pathlib
import tempfile
from collections.abc import Mapping

import numpy as np

from boneage_jax import cli
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import UnreadableError
from boneage_jax.inference import calibration, intervals, predict
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runs import predictor
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from tfds_rsna import whole_month_labels
from tfds_rsna.errors import UserError
from tfds_rsna.labels import MONTHS

_NEEDED = ('id', 'male', 'age', 'prediction')
_COLUMNS = ('id', 'male', 'age', 'before', 'after')


def calibrate(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    place: pathlib.Path | None = None,
    labels: pathlib.Path | None = None,
    predictions: pathlib.Path | None = None,
    split: str = 'validation',
    overwrite: bool = False,
    **options,
) -> dict:
    """Fits a line for each sex, judges it, and writes both; returns the report.

    Args:
        workdir: the run, an exported file, or the name of a shipped network.
        output: the calibration to write, a JSON file; `..._images.csv` goes beside it.
        place: the site's images.
        labels: the table of their sexes and ages.
        predictions: instead of these two, a CSV with `id`, `male`, `age`, `prediction`.
        split: of a CSV with a column `split`, the images that count.
        overwrite: replace an output that exists.
        options: `columns`, `age_unit`, `batch_size`, `sex` as `predict.predict` takes them.

    Raises:
        UserError: arguments that do not fit together, too few images, or a reported split.
    """
    output = pathlib.Path(output)
    if (place is None) == (predictions is None):
        raise UserError('give either --input with --labels, or --predictions')
    cli.refuse_existing(output, overwrite, (place, labels, predictions))
    if not files.is_special(output):
        cli.refuse_existing(_images_of(output), overwrite, (place, labels, predictions))
    step = predictor.step_of(workdir)
    if predictions is not None:
        images = read(predictions, split)
    elif labels is None:
        raise UserError('--labels: give the table with the sex and age of each image')
    else:
        images = _predicted(workdir, place, labels, options)

    name = calibration.identify(workdir, step)
    signals = intervals.signals_of(images)
    fitted, report, after = calibration.fit(
        images['prediction'],
        images['age'],
        images['male'],
        name,
        scaled=_scaled(workdir),
        signals=signals,
    )
    about = {
        'workdir': str(workdir),
        'step': step,
        'judged': 'each image by the line of all others',
        'commit': workdir_lib.provenance()['commit'],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    if not files.is_special(output):
        _write_images(_images_of(output), images, after)
    calibration.write(output, fitted, report, about)
    _print(fitted, report, output)
    return report


def _scaled(workdir):
    """The network's own intervals by image, None where it has none."""
    try:
        fitted, _ = intervals.of_network(workdir)
    except intervals.MissingIntervalsError:
        return None
    return fitted.scaled


def _images_of(output):
    """The table of every image that is written beside the calibration."""
    return output.with_name(f'{output.stem}_images.csv')


def _predicted(workdir, place, labels, options):
    """The site's images as `read` gives them, predicted now."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'ages.csv'
        try:
            predict.predict(workdir, place, path, labels=labels, **options)
        except UnreadableError as error:  # the others are there
            log.info(str(error))
        return read(path, 'validation')


def read(path: pathlib.Path, split: str) -> dict[str, np.ndarray]:
    """The images of a CSV whose age and sex are known: `id`, `male`, `age`, `prediction`, `[N]`.

    Of a CSV with a column `split` only the images of `split` count. Raises UserError where columns
    are missing, no image has an age, ages are outside of childhood or in years, or the images are
    of a split that is reported.
    """
    path = pathlib.Path(path)
    try:
        images = predictions_lib.read(path, required=_NEEDED, skip_incomplete=True)
    except OSError as error:
        raise UserError(
            f'{path}: {error.strerror}; give the CSV that predict or score wrote'
        ) from error
    except UserError as error:
        raise UserError(
            f'{error} The images that count have an age and a sex; ages come into the CSV of '
            'predict with --labels'
        ) from error
    if 'split' in images:
        splits_lib.selecting(split, 'the calibration')
        found = predictions_lib.splits(images)
        if split not in found:
            raise UserError(
                f'{path}: no image of the split {split}; it has {", ".join(found)} (--split)'
            )
        images = predictions_lib.of_split(images, split)
    _require_months(images['age'], images['prediction'], path)
    ages = dict(zip(images['id'].tolist(), images['age'].tolist()))
    whole_month_labels.refuse(ages, str(path))
    return images


def _require_months(age, prediction, path):
    """Refuses ages `[N]` that no child has in months, or that are predictions `[N]` in years."""
    low, high = MONTHS
    outside = age[(age < low) | (age > high)]
    if len(outside):
        raise UserError(
            f'{path}: {len(outside)} of {len(age)} ages are outside of {low:g} to {high:g} months, '
            f'the first: {outside[0]:g}; give the column age in months, and leave out the images '
            'whose age is not known'
        )
    error = np.abs(age - prediction).mean()
    in_years = np.abs(12 * age - prediction).mean()
    if in_years < error / 2 and age.max() < high / 10:
        raise UserError(
            f'{path}: the ages ({age.min():g} to {age.max():g}) look like years beside predictions '
            f'in months: 12 times the age is {in_years:.1f} months off on average, the age itself '
            f'{error:.1f}. Give the column age in months'
        )


def _write_images(path, images, after):
    rows = []
    columns = (images[name] for name in _NEEDED)
    for image, male, age, before, left_out in zip(*columns, after):
        rows.append((image, bool(male), f'{age:.2f}', f'{before:.2f}', f'{left_out:.2f}'))
    files.write_table(path, _COLUMNS, rows)


def _print(fitted: calibration.Calibration, report: Mapping, output):
    for group, found in report.items():
        line = f'{group}, {found["images"]} images'
        if group in fitted.lines:
            intercept, slope = fitted.lines[group]
            line += f': age = {intercept:+.1f} + {slope:.3f} x prediction'
        log.info(line)
        for figure, name in (('mae', 'MAE'), ('bias', 'bias')):
            before = _with_interval(found['before'][figure])
            after = _with_interval(found['after'][figure])
            log.info(
                f'  {name}, months (95% interval): before {before}, after, left out one by one, '
                f'{after}'
            )
        log.info(f'  difference of the MAE: {_with_interval(found["mae_difference"])}')
    if report['overall']['mae_difference']['upper'] >= 0:
        log.info(
            'The gain is not certain: its interval holds zero. More images of the site would tell.'
        )
    for line in fitted.intervals().lines():
        log.info(line.replace('the errors on validation', "the left-out images' errors"))
    log.info(f'{output}; use it with predict --calibration={output}')


def _with_interval(found):
    return f'{found["value"]:+.2f} ({found["lower"]:+.2f} to {found["upper"]:+.2f})'
