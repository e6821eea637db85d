"""Intervals of predicted ages by split conformal prediction, for each sex by itself.

The half width for a sex is the ceil((n + 1) level)-th smallest absolute error of its n validation
images (Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018, algorithm 2; by groups: Vovk 2012). It
then holds the age of a new image of that sex with probability `level` or more, whatever the errors
look like, *if* the image comes from where the validation images came from. Two things weaken that:
validation also chose the checkpoint, and an image of another hospital is not such an image. So the
coverage on the reported splits is always said beside the interval.
"""

import dataclasses
import math
import statistics

import numpy as np

from boneage_jax.data import splits
from boneage_jax.runs import predictions as predictions_lib
from tfds_rsna.errors import UserError

LEVEL = 0.9
SEXES = {'female': False, 'male': True}
PLAIN = {'female': 'girls', 'male': 'boys', 'overall': 'all'}


@dataclasses.dataclass(frozen=True)
class Intervals:
    """`half`: months to either side for 'female' and 'male'; `counts`: validation images each;
    `pooled`: the sexes that have too few images for an interval of their own and take the one of
    all images.
    """

    level: float
    half: dict
    counts: dict
    pooled: tuple = ()

    def bounds(self, prediction, male):
        """(lower, upper) in months `[N]` for predictions `[N]` in months and sexes `[N]`; no age is
        below 0.
        """
        half = np.where(np.asarray(male, bool), self.half['male'], self.half['female'])
        prediction = np.asarray(prediction, np.float64)
        return np.maximum(prediction - half, 0.0), np.maximum(prediction + half, 0.0)

    def lines(self):
        """What a person should know of them, in plain words."""
        widths = ', '.join(
            f'{self.half[sex]:.1f} for {PLAIN[sex]} ({self.counts[sex]:,} images)' for sex in SEXES
        )
        lines = [
            f'{100 * self.level:g}% intervals, months to either side, from the errors on validation: {widths}.'
        ]
        for sex in self.pooled:
            lines.append(
                f'{PLAIN[sex].capitalize()}: {self.counts[sex]} validation images are too few for an interval '
                f'of their own ({fewest(self.level)} are needed); they have that of all images.'
            )
        return lines


def fewest(level=LEVEL):
    """The least number of images that gives an interval at `level`: 9 for 90%."""
    return next(n for n in range(1, 10**6) if _rank(n, level) <= n)


def fit(predictions, *, split='validation', level=LEVEL):
    """Intervals from one split of a run's predictions (the columns that `predictions.read` gives).

    A sex with fewer than `fewest(level)` images takes the interval of all images.

    Raises:
        UserError: the split has too few images altogether, or a level that is not between 0 and 1.
    """
    splits.selecting(split, 'the intervals')
    if not 0 < level < 1:
        raise UserError(f'level={level}: expected a number between 0 and 1, as 0.9')
    images = predictions_lib.of_split(predictions, split)
    error, male = np.abs(images['prediction'] - images['age']), images['male']
    if len(error) < fewest(level):
        raise UserError(
            f'{len(error)} {split} images are too few for a {100 * level:g}% interval; at least '
            f'{fewest(level)} are needed'
        )
    errors = {sex: error[male == value] for sex, value in SEXES.items()}
    pooled = tuple(sex for sex, own in errors.items() if len(own) < fewest(level))
    half = {sex: quantile(error if sex in pooled else own, level) for sex, own in errors.items()}
    return Intervals(level, half, {sex: len(own) for sex, own in errors.items()}, pooled)


def coverage(intervals, predictions, split):
    """How many images of a split lie in their interval: `{'overall' | 'female' | 'male': {'value',
    'lower', 'upper', 'count'}}`, shares from 0 to 1 with their 95% Wilson intervals. Sexes without
    images are absent.
    """
    images = predictions_lib.of_split(predictions, split)
    lower, upper = intervals.bounds(images['prediction'], images['male'])
    inside = (lower <= images['age']) & (images['age'] <= upper)
    groups = {
        'overall': inside,
        **{sex: inside[images['male'] == value] for sex, value in SEXES.items()},
    }
    return {
        name: _share(int(group.sum()), len(group)) for name, group in groups.items() if len(group)
    }


def wilson(inside, count, level=0.95):
    """Wilson's interval of a share `inside / count`: (lower, upper)."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, extra = inside / count, z * z / count
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _share(inside, count):
    lower, upper = wilson(inside, count)
    return {'value': inside / count, 'lower': lower, 'upper': upper, 'count': count}


def quantile(errors, level):
    """The half width that split conformal prediction gives the share `level`, from absolute errors
    `[N]`.
    """
    return float(np.sort(errors)[_rank(len(errors), level) - 1])


def _rank(count, level):
    """Position of the half width among the sorted errors, from 1. Rounded: 0.9 * 10 may come out
    above 9.
    """
    return math.ceil(round((count + 1) * level, 9))
