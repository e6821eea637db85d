"""How far an age may be off, relative to other images: a small fit of signals of the network.

The scale of an image is a product of powers, `prod signal ** weight`, with weights that are not
negative: it never falls where a signal grows. Weights minimise the negative log-likelihood of
absolute errors that are exponential with that mean, `mean(error / scale + log scale)`, which is
convex in them. A signal is held within its limits on the images of the fit, so that no image is
given an interval beyond those that were seen.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize

from tfds_rsna.errors import UserError

SIGNALS = ('spread',)  # columns of a table that a scale may take
FOLDS = 10
_RIDGE = 1e-3  # on squared weights: a signal that varies little gets none that is large


@dataclasses.dataclass(frozen=True)
class Scale:
    """A fitted scale.

    Attributes:
        weights: `{signal: power}`, none negative.
        limits: `{signal: (lowest, highest)}` of the images of the fit.
        centres: `{signal: geometric mean}` of these, at which the scale is 1.
    """

    weights: dict
    limits: dict
    centres: dict

    def __call__(self, signals: Mapping[str, Sequence]) -> np.ndarray:
        """The scales `[N]` of images by their signals `{name: [N]}`.

        NaN where one of the signals is no positive, finite number; UserError where one is missing.
        """
        known = {}
        for name in self.weights:
            if name not in signals:
                raise UserError(f'the intervals need the signal {name!r} of every image')
            values = np.asarray(signals[name], np.float64)
            known[name] = np.where(usable(values), values, np.nan)
        return self.product(known)

    def product(self, signals: Mapping, library=np):
        """The scales of arrays of signals, all positive, by numpy or by jax.numpy."""
        logarithm = library.zeros(())
        for name, weight in self.weights.items():
            held = library.clip(signals[name], *self.limits[name])
            logarithm = logarithm + weight * library.log(held / self.centres[name])
        return library.exp(logarithm)


def usable(values: np.ndarray) -> np.ndarray:
    """Which values `[N]` a scale can take: the positive, finite ones, bool `[N]`."""
    values = np.asarray(values, np.float64)
    return np.isfinite(values) & (values > 0)


def fit(signals: Mapping[str, np.ndarray], error: np.ndarray) -> Scale:
    """The scale of absolute errors `[N]` by signals `{name: [N]}`, all positive and finite."""
    logarithms = {name: np.log(values) for name, values in signals.items()}
    means = {name: values.mean() for name, values in logarithms.items()}
    centred = np.stack([logarithms[name] - means[name] for name in signals], axis=1)
    design = np.column_stack([np.ones(len(error)), centred])

    def loss(weights):
        logarithm = design @ weights
        ratio = error * np.exp(-logarithm)
        value = (ratio + logarithm).mean() + _RIDGE * (weights[1:] ** 2).sum()
        slope = design.T @ (1 - ratio) / len(error)
        slope[1:] += 2 * _RIDGE * weights[1:]
        return value, slope

    start = np.zeros(design.shape[1])
    start[0] = np.log(max(error.mean(), 1e-9))
    bounds = [(None, None)] + [(0, None)] * len(signals)
    found = optimize.minimize(loss, start, jac=True, method='L-BFGS-B', bounds=bounds)
    weights = dict(zip(signals, found.x[1:].tolist(), strict=True))
    limits = {name: (float(v.min()), float(v.max())) for name, v in signals.items()}
    return Scale(weights, limits, {name: float(np.exp(mean)) for name, mean in means.items()})


def cross_fitted(signals: Mapping[str, np.ndarray], error: np.ndarray) -> np.ndarray:
    """The scale `[N]` of each image by a fit of all images outside its fold, of `FOLDS`."""
    fold = np.random.default_rng(0).permutation(len(error)) % FOLDS
    found = np.empty(len(error))
    for number in range(FOLDS):
        own = fold == number
        others = fit({name: values[~own] for name, values in signals.items()}, error[~own])
        found[own] = others({name: values[own] for name, values in signals.items()})
    return found
