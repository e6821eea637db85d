"""Straight lines, one for each sex, from a run's ages to a site's own readings.

`calibrate` makes them and `predict` uses them. A site reads images its own way and has its own
population: a network trained elsewhere may be off there by a shift and a slope. So
age = intercept + slope x prediction, by least squares on images of that site. What the line is
worth comes from leaving out each image once: the line of the others judges it.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from boneage_jax.inference import intervals
from boneage_jax.runs import exported
from boneage_jax.runtime import files
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

FEWEST = 20  # images of a sex: below that the line's own error is of the size of what it mends


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A site's lines for the network of one run.

    Attributes:
        lines: {sex: (intercept months, slope)} of the sexes that the site gave images of.
        half: {sex: months to either side that held 90% of the left-out images}.
        counts: {sex: the site's images}.
        run: what `identify` gives for the network.
        scaled: intervals by image, whose factors are from the left-out images and whose scales are
            the network's own; None where they are the same for all images of a sex.
    """

    lines: dict
    half: dict
    counts: dict
    run: str
    scaled: intervals.Scaled | None = None

    def apply(self, prediction: Sequence, male: Sequence) -> np.ndarray:
        """Months `[N]` calibrated; `male` `[N]` bool. UserError for a sex without a line."""
        prediction = np.asarray(prediction, np.float64)
        male = np.asarray(male, bool)
        for sex, value in intervals.SEXES.items():
            if (male == value).any() and sex not in self.lines:
                raise UserError(
                    f'the calibration has no line for {sex} images: the site gave none; calibrate '
                    'with images of both sexes'
                )
        out = prediction.copy()
        for sex, (intercept, slope) in self.lines.items():
            chosen = male == intervals.SEXES[sex]
            out[chosen] = np.maximum(intercept + slope * prediction[chosen], 0.0)
        return out

    def intervals(self) -> intervals.Intervals:
        """90% intervals around calibrated ages, from the errors of the left-out images."""
        wider = max(self.half.values())
        return intervals.Intervals(
            intervals.LEVEL,
            {sex: self.half.get(sex, wider) for sex in intervals.SEXES},
            {sex: self.counts.get(sex, 0) for sex in intervals.SEXES},
            scaled=self.scaled,
        )


def fit(
    prediction: Sequence,
    age: Sequence,
    male: Sequence,
    run: str,
    *,
    scaled: intervals.Scaled | None = None,
    signals: Mapping[str, np.ndarray] | None = None,
) -> tuple[Calibration, dict, np.ndarray]:
    """Fits a line for each sex to a site's images, and judges it on images left out.

    Args:
        prediction: months `[N]`.
        age: the site's own readings, months `[N]`.
        male: bool `[N]`.
        run: what `identify` gives for the network.
        scaled: the network's own intervals by image, whose scales are kept; None has none.
        signals: what these take of the images, `{name: [N]}`, as `intervals.signals_of` gives it.
            Where some are missing or no positive numbers, intervals are the same for all images.

    Returns:
        The calibration, a report, and each image's age by the line of all others `[N]`. The
        report holds, for all images and each sex, MAE and bias before and after, the latter of
        left-out images, and the paired difference of the MAE, each with its 95% interval.

    Raises:
        UserError: a sex has fewer than FEWEST images, or all its predictions are the same.
    """
    prediction = np.asarray(prediction)
    age = np.asarray(age)
    male = np.asarray(male)
    counts = {sex: int((male == value).sum()) for sex, value in intervals.SEXES.items()}
    _require_enough(counts)

    lines = {}
    half = {}
    left_out = np.zeros(len(age))
    groups = {'overall': np.ones(len(age), bool)}
    for sex, value in intervals.SEXES.items():
        if not counts[sex]:
            continue
        chosen = male == value
        groups[sex] = chosen
        lines[sex], left_out[chosen] = _line(prediction[chosen], age[chosen], sex)
        half[sex] = intervals.quantile(np.abs(left_out[chosen] - age[chosen]), intervals.LEVEL)

    report = {}
    for name, chosen in groups.items():
        report[name] = _judged(prediction[chosen] - age[chosen], left_out[chosen] - age[chosen])
    if scaled is not None:
        scaled = _rescaled(scaled, signals or {}, np.abs(left_out - age), male, half)
    fitted = Calibration(lines, half, {sex: counts[sex] for sex in lines}, run, scaled)
    return fitted, report, left_out


def _rescaled(scaled, signals, error, male, half):
    """Intervals by image with the network's scales, and factors of left-out errors `[N]`."""
    scales = {}
    factor = {}
    typical = {}
    for sex, value in intervals.SEXES.items():
        scales[sex] = scaled.scales[sex]
        factor[sex] = max(half.values())
        typical[sex] = (factor[sex],) * 3
        chosen = male == value
        if not chosen.any():
            continue
        if any(name not in signals for name in scales[sex].weights):
            return None
        own = {name: signals[name][chosen] for name in scales[sex].weights}
        relative = np.broadcast_to(scales[sex](own), chosen.sum())
        if not np.isfinite(relative).all():
            return None
        factor[sex] = intervals.quantile(error[chosen] / relative, intervals.LEVEL)
        widths = factor[sex] * relative
        typical[sex] = (float(widths.mean()), *np.quantile(widths, [0.05, 0.95]).tolist())
    return intervals.Scaled(scales, factor, typical)


def _require_enough(counts):
    few = any(0 < count < FEWEST for count in counts.values())
    if few or not any(counts.values()):
        found = ', '.join(f'{count} {sex}' for sex, count in counts.items())
        raise UserError(
            f'too few images to calibrate with: {found}; each sex needs {FEWEST} at least (or '
            'none: then images of that sex cannot be calibrated)'
        )


def _judged(before, after):
    """The report of a group, from its errors `[N]` before and after."""
    delta, lower, upper = metrics.paired_difference(after, before)
    return {
        'images': len(before),
        'before': metrics.intervals({'mae': np.abs(before), 'bias': before}),
        'after': metrics.intervals({'mae': np.abs(after), 'bias': after}),
        'mae_difference': {'value': delta, 'lower': lower, 'upper': upper, 'count': len(before)},
    }


def _line(x, y, sex):
    """((intercept, slope), each image's age by the line of all others [N])."""
    spread = ((x - x.mean()) ** 2).sum()
    if spread < 1e-6:
        raise UserError(
            f'all {len(x)} {sex} images have the same predicted age ({x[0]:.1f} months): no line '
            'can be fitted'
        )
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    fitted = y.mean() + slope * (x - x.mean())
    leverage = 1 / len(x) + (x - x.mean()) ** 2 / spread
    # Leaving an image out changes its residual by the factor 1 / (1 - leverage) (Allen 1974): no
    # refitting.
    left_out = np.maximum(y - (y - fitted) / (1 - np.minimum(leverage, 0.999)), 0.0)
    return (float(y.mean() - slope * x.mean()), float(slope)), left_out


def identify(place: pathlib.Path | str, step: int) -> str:
    """Names a network: a run's configuration, or a file's content, and the checkpoint's step."""
    place = exported.find(place)
    if exported.is_file(place):
        return f'{exported.digest(place)[:16]}-{step}'
    try:
        config = (place / 'config.json').read_bytes()
    except OSError as error:
        raise UserError(
            f'{place}: no run lies there ({error.strerror}); give the --workdir of a training'
        ) from error
    return f'{hashlib.sha256(config).hexdigest()[:16]}-{step}'


def write(path: pathlib.Path, calibration: Calibration, report: Mapping, about: Mapping) -> None:
    """Writes a calibration with the report that `fit` gave, and `about`: how it was made."""
    found = {**about, **dataclasses.asdict(calibration), 'level': intervals.LEVEL, 'report': report}
    files.write_json(pathlib.Path(path), found)


def read(path: pathlib.Path, run: str) -> Calibration:
    """The calibration in a file, for the network `run`.

    Raises UserError where the file holds none, or that of another network.
    """
    try:
        found = json.loads(pathlib.Path(path).read_text())
        lines = {}
        for sex, (intercept, slope) in found['lines'].items():
            lines[sex] = (float(intercept), float(slope))
        scaled = intervals.scaled_from(found['scaled']) if found.get('scaled') else None
        calibration = Calibration(lines, found['half'], found['counts'], found['run'], scaled)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}: not a calibration as boneage_jax.calibrate writes it ({error})'
        ) from error
    if calibration.run != run:
        raise UserError(
            f'{path} was made for another network ({calibration.run}, here {run}): a line fitted '
            'to its errors says nothing of these; calibrate this run'
        )
    return calibration
