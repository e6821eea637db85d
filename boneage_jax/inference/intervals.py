"""Intervals of predicted ages by split conformal prediction, for each sex by itself.

The half width for a sex is the ceil((n + 1) level)-th smallest absolute error of its n validation
images (Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018, algorithm 2; by groups: Vovk 2012). The
interval then holds the age of a new image of that sex with probability `level` or more, whatever
the errors look like, *if* the image comes from where the validation images came from. Two things
weaken that: validation also chose the checkpoint, and an image of another hospital is not such an
image. So the coverage on the reported splits always goes with the interval.
"""

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from boneage_jax.data import splits
from boneage_jax.runs import exported
from boneage_jax.runs import predictions as predictions_lib
from tfds_rsna.errors import UserError

LEVEL = 0.9
SEXES = {'female': False, 'male': True}
PLAIN = {'female': 'girls', 'male': 'boys', 'overall': 'all'}


class MissingIntervalsError(UserError):
    """A network has no intervals, and nothing is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How far the ages of a run's images may be from its predictions.

    Attributes:
        level: the share of images that the intervals hold.
        half: months to either side for 'female' and 'male'.
        counts: images of each that they are from.
        pooled: the sexes that have too few images for an interval of their own; they take the one
            of all images.
        split: whose errors they are from.
    """

    level: float
    half: dict
    counts: dict
    pooled: tuple = ()
    split: str = splits.SELECTING

    def bounds(self, prediction: Sequence, male: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) in months `[N]` for predictions `[N]` in months and sexes `[N]`.

        No age is below 0.
        """
        half = np.where(np.asarray(male, bool), self.half['male'], self.half['female'])
        prediction = np.asarray(prediction, np.float64)
        return np.maximum(prediction - half, 0.0), np.maximum(prediction + half, 0.0)

    def lines(self) -> list[str]:
        """What a person should know of them, in plain words."""
        widths = []
        for sex in SEXES:
            widths.append(f'{self.half[sex]:.1f} for {PLAIN[sex]} ({self.counts[sex]:,} images)')
        lines = [
            f'{100 * self.level:g}% intervals, months to either side, from the errors on '
            f'{self.split}: {", ".join(widths)}.'
        ]
        for sex in self.pooled:
            lines.append(
                f'{PLAIN[sex].capitalize()}: {self.counts[sex]} {self.split} images are too few '
                f'for an interval of their own ({fewest(self.level)} are needed); they have that '
                'of all images.'
            )
        return lines


def fewest(level: float = LEVEL) -> int:
    """The least number of images that gives an interval at `level`: 9 for 90%."""
    return next(n for n in range(1, 10**6) if _rank(n, level) <= n)


def fit(
    predictions: Mapping[str, np.ndarray], *, split: str = 'validation', level: float = LEVEL
) -> Intervals:
    """Intervals from one split of a run's predictions (a table as `predictions.read` gives it).

    A sex with fewer than `fewest(level)` images takes the interval of all images.

    Raises:
        MissingIntervalsError: the split has too few images altogether.
        UserError: a level that is not between 0 and 1.
    """
    splits.selecting(split, 'the intervals')
    return _fit(predictions, split, level)


def fit_out_of_fold(predictions: Mapping[str, np.ndarray], *, level: float = LEVEL) -> Intervals:
    """The same from the split `fold` of all folds of a cross-validation.

    Its errors are of networks that have not seen the image (Barber, Candes, Ramdas, Tibshirani
    2021, cross-validation+). No interval is judged on these images.
    """
    return _fit(predictions, splits.FOLD, level)


def _fit(predictions, split, level):
    if not 0 < level < 1:
        raise UserError(f'level={level}: expected a number between 0 and 1, as 0.9')
    images = predictions_lib.of_split(predictions, split)
    error = np.abs(images['prediction'] - images['age'])
    least = fewest(level)
    if len(error) < least:
        raise MissingIntervalsError(
            f'{len(error)} {split} images are too few for a {100 * level:g}% interval; at least '
            f'{least} are needed'
        )

    half = {}
    counts = {}
    pooled = []
    for sex, value in SEXES.items():
        own = error[images['male'] == value]
        counts[sex] = len(own)
        if len(own) < least:
            pooled.append(sex)
            own = error
        half[sex] = quantile(own, level)
    return Intervals(level, half, counts, tuple(pooled), split)


def of_network(place: pathlib.Path | str) -> tuple[Intervals, dict[str, dict]]:
    """The intervals of a network, and what `coverage` says of them, by split.

    Those of a run come from its predictions.csv, those of an exported file are in its metadata.

    Args:
        place: a workdir, a file of `boneage export`, or the name of a shipped network.

    Raises:
        MissingIntervalsError: there are none; the message says why.
        UserError: what should hold them is damaged.
    """
    path = exported.find(place)
    if exported.is_file(path):
        return _of_file(path)
    table = path / 'predictions.csv'
    if not table.exists():
        raise MissingIntervalsError(
            f'{place} is not finished, so the errors on its validation images are not known yet'
        )
    predictions = predictions_lib.read(table)
    fitted = fit(predictions)
    found = {}
    for split in predictions_lib.splits(predictions):
        if split != splits.SELECTING:
            found[split] = coverage(fitted, predictions, split)
    return fitted, found


def _of_file(path):
    text = exported.read(path).metadata.get(exported.INTERVALS)
    if not text:
        raise MissingIntervalsError(
            f'{path} does not hold the errors on validation images: it was exported by an earlier '
            'release, or from a run without them; give the workdir of its run, or a --calibration'
        )
    try:
        saved = json.loads(text)
        half = {sex: float(saved['half'][sex]) for sex in SEXES}
        counts = {sex: int(saved['counts'][sex]) for sex in SEXES}
        fitted = Intervals(float(saved['level']), half, counts, tuple(saved['pooled']))
        return fitted, dict(saved['coverage'])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: its intervals are damaged ({error!r}); export it again'
        ) from error


def document(fitted: Intervals, covered: Mapping[str, dict]) -> str:
    """What an exported file holds of what `of_network` gave."""
    return json.dumps({**dataclasses.asdict(fitted), 'coverage': covered}, separators=(',', ':'))


def coverage(
    intervals: Intervals, predictions: Mapping[str, np.ndarray], split: str
) -> dict[str, dict]:
    """How many images of a split are in their interval.

    `{'overall' | 'female' | 'male': {'value', 'lower', 'upper', 'count'}}`: shares from 0 to 1 with
    their 95% Wilson intervals. Sexes without images are absent.
    """
    images = predictions_lib.of_split(predictions, split)
    lower, upper = intervals.bounds(images['prediction'], images['male'])
    inside = (lower <= images['age']) & (images['age'] <= upper)
    groups = {'overall': inside}
    for sex, value in SEXES.items():
        groups[sex] = inside[images['male'] == value]

    shares = {}
    for name, group in groups.items():
        if len(group):
            hits = int(group.sum())
            low, high = wilson(hits, len(group))
            share = {'value': hits / len(group), 'lower': low, 'upper': high, 'count': len(group)}
            shares[name] = share
    return shares


def wilson(inside: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share `inside / count`: (lower, upper)."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share = inside / count
    extra = z * z / count
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def quantile(errors: np.ndarray, level: float) -> float:
    """The half width that split conformal prediction gives the share `level`.

    `errors` are absolute errors `[N]`.
    """
    return float(np.sort(errors)[_rank(len(errors), level) - 1])


def _rank(count, level):
    """Position of the half width among the sorted errors, from 1."""
    # Rounded first: 0.9 * 10 may come out above 9.
    return math.ceil(round((count + 1) * level, 9))
