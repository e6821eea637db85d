"""Intervals of predicted ages by split conformal prediction, for each sex by itself.

The half width for a sex is the ceil((n + 1) level)-th smallest absolute error of its n validation
images (Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018, algorithm 2; by groups: Vovk 2012). The
interval then holds the age of a new image of that sex with probability `level` or more, whatever
the errors look like, *if* the image comes from where the validation images came from. Two things
weaken that: validation also chose the checkpoint, and an image of another hospital is not such an
image. So the coverage on the reported splits always goes with the interval.

Where the network tells how sure it is (`scale.SIGNALS`: the spread of its distribution), the
interval is scaled: the score of an image is its absolute error divided by its scale, and the
interval is the quantile of the scores times the scale of the new image (normalised conformal
prediction, Papadopoulos, Vovk, Gammerman 2011; Lei et al. 2018, section 5.2). The scale is fitted
to the validation images of a sex too, so each of their scores takes the scale of a fit without its
fold of ten (cross-conformal, Vovk 2015). A sex whose scaled intervals are no narrower on validation
has constant ones.
"""

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from boneage_jax.data import splits
from boneage_jax.inference import scale as scale_lib
from boneage_jax.runs import exported
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runtime import log
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

LEVEL = 0.9
FEWEST_SCALED = 100  # images of a fit of a scale
_WORTH = 0.999  # of the constant width: a scale that saves less is left out
SEXES = {'female': False, 'male': True}
PLAIN = {'female': 'girls', 'male': 'boys', 'overall': 'all'}


class MissingIntervalsError(UserError):
    """A network has no intervals, and nothing is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Scaled:
    """Intervals that are wider for some images than for others.

    Attributes:
        scales: for 'female' and 'male' the relative widths, from what the network tells of an
            image. That of a sex whose intervals would be no narrower takes no signal: it is 1.
        factor: months to either side at scale 1, for each sex.
        typical: months to either side of their images: (mean, 5% quantile, 95% quantile).
    """

    scales: dict
    factor: dict
    typical: dict

    def widths(self, male: np.ndarray, signals: Mapping[str, Sequence]) -> np.ndarray:
        """Months to either side `[N]`; NaN where a signal is no positive number."""
        widths = np.empty(len(male))
        for sex, value in SEXES.items():
            chosen = male == value
            own = {name: np.asarray(signals[name])[chosen] for name in self.scales[sex].weights}
            widths[chosen] = self.factor[sex] * self.scales[sex](own)
        return widths

    def names(self) -> list[str]:
        """The signals that it takes."""
        return sorted({name for scale in self.scales.values() for name in scale.weights})


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How far the ages of a run's images may be from its predictions.

    Attributes:
        level: the share of images that the intervals hold.
        half: months to either side for 'female' and 'male', the same for all their images. Where
            there is `scaled`, of images whose signals are not known.
        counts: images of each that they are from.
        pooled: the sexes that have too few images for an interval of their own; they take the one
            of all images.
        split: whose errors they are from.
        scaled: intervals by image; None where they are the same for all images of a sex.
    """

    level: float
    half: dict
    counts: dict
    pooled: tuple = ()
    split: str = splits.SELECTING
    scaled: Scaled | None = None

    def widths(self, male: Sequence, signals: Mapping[str, Sequence]) -> np.ndarray:
        """Months to either side `[N]` for sexes `[N]` and what `Task.signals` gives, `{name: [N]}`.

        An image with a signal that is missing, or is no positive number, has the constant width.
        """
        male = np.asarray(male, bool)
        constant = _by_sex(self.half, male)
        if self.scaled is None or any(name not in signals for name in self.scaled.names()):
            return constant
        own = self.scaled.widths(male, signals)
        return np.where(np.isfinite(own), own, constant)

    def bounds(
        self, prediction: Sequence, male: Sequence, signals: Mapping[str, Sequence] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) in months `[N]` for predictions `[N]` in months and sexes `[N]`.

        `signals` as of `widths`; without them widths are constant. No age is below 0.
        """
        half = self.widths(male, signals or {})
        prediction = np.asarray(prediction, np.float64)
        return np.maximum(prediction - half, 0.0), np.maximum(prediction + half, 0.0)

    def lines(self) -> list[str]:
        """What a person should know of them, in plain words."""
        widths = []
        for sex in SEXES:
            widths.append(f'{self._width(sex)} for {PLAIN[sex]} ({self.counts[sex]:,} images)')
        of_image = ''
        if self.scaled:
            of_image = f' by the {" and ".join(self.scaled.names())} of each image'
        lines = [
            f'{100 * self.level:g}% intervals{of_image}, months to either side, from the errors on '
            f'{self.split}: {", ".join(widths)}.'
        ]
        for sex in self.pooled:
            lines.append(
                f'{PLAIN[sex].capitalize()}: {self.counts[sex]} {self.split} images are too few '
                f'for an interval of their own ({fewest(self.level)} are needed); they have that '
                'of all images.'
            )
        return lines

    def _width(self, sex):
        if self.scaled is None:
            return f'{self.half[sex]:.1f}'
        mean, low, high = self.scaled.typical[sex]
        if low == high:
            return f'{mean:.1f}'
        return f'{mean:.1f} on average, {low:.1f} to {high:.1f} in nine of ten,'


def _by_sex(values, male):
    return np.where(np.asarray(male, bool), values['male'], values['female'])


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
    scaled = _scaled(images, error, half, level, split)
    return Intervals(level, half, counts, tuple(pooled), split, scaled)


def signals_of(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns `{name: [N]}` of a table that say how sure the network was."""
    return {name: table[name] for name in scale_lib.SIGNALS if name in table}


def _scaled(images, error, half, level, split):
    """Scaled intervals, None and a line where they cannot be had or are no narrower."""
    signals = signals_of(images)
    if not signals or len(error) < FEWEST_SCALED:
        return None
    for name, values in signals.items():
        bad = np.flatnonzero(~scale_lib.usable(values))
        if len(bad):
            log.info(
                f'Intervals are the same for every image of a sex: {name} is no positive number '
                f'for {len(bad)} of {len(values)} {split} images, first {images["id"][bad[0]]}: '
                f'{values[bad[0]]}.'
            )
            return None

    scales = {}
    factor = {}
    typical = {}
    for sex, value in SEXES.items():
        own = images['male'] == value
        if own.sum() < FEWEST_SCALED:
            own = np.ones(len(own), bool)
        of_sex = {name: values[own] for name, values in signals.items()}
        fold_scales = scale_lib.cross_fitted(of_sex, error[own])
        factor[sex] = quantile(error[own] / fold_scales, level)
        scales[sex] = scale_lib.fit(of_sex, error[own])
        ratio = (factor[sex] * fold_scales).mean() / half[sex]
        if not ratio < _WORTH:
            log.info(
                f'Intervals of {PLAIN[sex]} are the same for every image: scaled by '
                f'{" and ".join(signals)} they have {100 * ratio:.1f}% of that width on {split}.'
            )
            scales[sex] = scale_lib.Scale({}, {}, {})
            factor[sex] = half[sex]
        widths = factor[sex] * np.broadcast_to(scales[sex](of_sex), own.sum())
        typical[sex] = (float(widths.mean()), *np.quantile(widths, [0.05, 0.95]).tolist())
    scaled = Scaled(scales, factor, typical)
    return scaled if scaled.names() else None


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
        return from_document(text)
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: its intervals are damaged ({error!r}); export it again'
        ) from error


def from_document(text: str) -> tuple[Intervals, dict[str, dict]]:
    """What `document` was given, from its text; raises errors of many kinds where it is damaged.

    Texts of earlier releases have no `scaled`, and the same interval for all images of a sex.
    """
    saved = json.loads(text)
    half = {sex: float(saved['half'][sex]) for sex in SEXES}
    counts = {sex: int(saved['counts'][sex]) for sex in SEXES}
    scaled = scaled_from(saved['scaled']) if saved.get('scaled') else None
    split = saved.get('split', splits.SELECTING)
    pooled = tuple(saved['pooled'])
    fitted = Intervals(float(saved['level']), half, counts, pooled, split, scaled)
    return fitted, dict(saved['coverage'])


def scaled_from(saved: Mapping) -> Scaled:
    """`Scaled` from its fields as JSON has them; raises errors of many kinds for others."""
    scales = {sex: _scale_from(saved['scales'][sex]) for sex in SEXES}
    factor = {sex: float(saved['factor'][sex]) for sex in SEXES}
    typical = {sex: _numbers(saved['typical'][sex], 3) for sex in SEXES}
    if not np.isfinite(list(factor.values())).all():
        raise ValueError(f'no factors: {factor}')
    return Scaled(scales, factor, typical)


def _scale_from(saved):
    weights = {name: float(value) for name, value in saved['weights'].items()}
    limits = {name: _numbers(saved['limits'][name], 2) for name in weights}
    centres = {name: float(saved['centres'][name]) for name in weights}
    if not np.isfinite(list(weights.values())).all() or not all(c > 0 for c in centres.values()):
        raise ValueError(f'no scale: {saved}')
    return scale_lib.Scale(weights, limits, centres)


def _numbers(values, count):
    found = tuple(float(value) for value in values)
    if len(found) != count:
        raise ValueError(f'{count} numbers expected, found {values}')
    return found


def document(fitted: Intervals, covered: Mapping[str, dict]) -> str:
    """What an exported file holds of what `of_network` gave."""
    return json.dumps({**dataclasses.asdict(fitted), 'coverage': covered}, separators=(',', ':'))


def coverage(
    intervals: Intervals, predictions: Mapping[str, np.ndarray], split: str
) -> dict[str, dict]:
    """How many images of a split are in their interval, and how wide these are.

    `{'overall' | 'female' | 'male': {'value', 'lower', 'upper', 'count', 'width',
    'constant_width'}}`: shares from 0 to 1 with their 95% Wilson intervals, and the mean width in
    months from end to end, beside that of intervals that are the same for every image of a sex.
    Sexes without images are absent.
    """
    judged = _Judged(intervals, predictions_lib.of_split(predictions, split))
    groups = {'overall': np.ones(len(judged.inside), bool)}
    for sex, value in SEXES.items():
        groups[sex] = judged.images['male'] == value
    return judged.by(groups)


def conditional_coverage(
    intervals: Intervals, predictions: Mapping[str, np.ndarray], split: str
) -> dict[str, dict[str, dict]]:
    """The figures of `coverage` by groups: by stage of puberty, width, and flag.

    `{'by_sex' | 'by_stage' | 'by_width' | 'by_flag': {group: figures}}`. Widths are in thirds of
    the images of a sex, where they differ. Flags where the table has a column `flags`.
    """
    judged = _Judged(intervals, predictions_lib.of_split(predictions, split))
    images = judged.images
    stages = metrics.puberty_stage(images['age'], images['male'])
    found = {
        'by_sex': judged.by({sex: images['male'] == value for sex, value in SEXES.items()}),
        'by_stage': judged.by({name: stages == name for name in metrics.STAGES['male']}),
    }
    if intervals.scaled:
        found['by_width'] = judged.by(_thirds(judged.widths, images['male']))
    if 'flags' in images:
        flags = [
            {flag for flag in (text or '').split(';') if flag} for text in images['flags'].tolist()
        ]
        groups = {'none': np.array([not each for each in flags], bool)}
        groups['any'] = ~groups['none']
        for name in sorted(set().union(*flags)):
            groups[name] = np.array([name in each for each in flags], bool)
        found['by_flag'] = judged.by(groups)
    return found


def _thirds(widths, male):
    """`{name: images [N] bool}`: the narrowest, middle and widest third of each sex."""
    place = np.zeros(len(widths), int)
    for value in SEXES.values():
        own = np.flatnonzero(male == value)
        place[own[np.argsort(widths[own], kind='stable')]] = (
            3 * np.arange(len(own)) // max(len(own), 1)
        )
    return {name: place == k for k, name in enumerate(('narrowest', 'middle', 'widest'))}


class _Judged:
    """The images of one split, each with its interval."""

    def __init__(self, intervals, images):
        self.images = images
        signals = signals_of(images)
        self.widths = intervals.widths(images['male'], signals)
        lower, upper = intervals.bounds(images['prediction'], images['male'], signals)
        self.inside = (lower <= images['age']) & (images['age'] <= upper)
        self._width = upper - lower
        lower, upper = intervals.bounds(images['prediction'], images['male'])
        self._constant = upper - lower

    def by(self, groups):
        """The figures of each of `{name: images [N] bool}` that has images."""
        found = {}
        for name, chosen in groups.items():
            count = int(chosen.sum())
            if not count:
                continue
            hits = int(self.inside[chosen].sum())
            lower, upper = wilson(hits, count)
            found[name] = {
                'value': hits / count,
                'lower': lower,
                'upper': upper,
                'count': count,
                'width': float(self._width[chosen].mean()),
                'constant_width': float(self._constant[chosen].mean()),
            }
        return found


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
