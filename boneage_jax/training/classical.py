"""The baselines without a network (Castillo et al. 2018, section "Regression").

scikit-learn on flattened pixels: arrays in, predictions out; classical_trainer.py reads the records
and writes the same files as for a network. One model per sex, as in the paper: principal components
of the pixels, then linear regression, or logistic regression over the months 1 to 200.
"""

import dataclasses

import ml_collections
import numpy as np
from scipy import optimize, special
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from tfds_rsna.errors import UserError

MONTHS = (1, 200)  # the youngest and the oldest class of the logistic regression, as printed


class Linear:
    """Least squares on the components' scores `[N, n]`; columns: `prediction` (months)."""

    def __init__(self, options):
        del options
        self.model = LinearRegression()

    def fit(self, scores, months):
        self.model.fit(scores, months)
        return self

    def columns(self, scores):
        return {'prediction': self.model.predict(scores).astype(np.float32)}


class Logistic:
    """One sigmoid a month against all others (section IV.A.2), L2 penalty on scores scaled to
    deviation 1.

    The objective is that of scikit-learn's
    `OneVsRestClassifier(LogisticRegression(C=inverse_penalty))`, all months at once: one by one
    they take minutes. Columns in months: `argmax`, the likeliest class, the paper's reading;
    `expectation`, the mean of the classes weighted by their sigmoids; `prediction`, that of the two
    which `options.predicts` names.
    """

    def __init__(self, options):
        if options.predicts not in ('argmax', 'expectation'):
            raise UserError(
                f"model.predicts={options.predicts!r}: expected 'argmax' or 'expectation'"
            )
        self.predicts = options.predicts
        self.inverse_penalty = options.inverse_penalty

    def fit(self, scores, months):
        self.months, place = np.unique(month_classes(months), return_inverse=True)
        self.deviation = np.maximum(scores.std(0), 1e-6)
        inputs = self._inputs(scores)
        truth = np.eye(len(self.months))[place]
        # The intercept, the last input, is not penalised.
        penalised = np.ones((inputs.shape[1], 1))
        penalised[-1] = 0.0
        penalty = penalised / self.inverse_penalty

        def loss(flat):
            weights = flat.reshape(-1, len(self.months))
            logits = inputs @ weights
            unlikelihood = np.logaddexp(0, logits).sum() - (truth * logits).sum()
            value = unlikelihood + (penalty * weights**2).sum() / 2
            gradient = inputs.T @ (special.expit(logits) - truth) + penalty * weights
            return value, gradient.ravel()

        start = np.zeros((inputs.shape[1], len(self.months)))
        start[-1] = special.logit(np.clip(truth.mean(0), 1e-4, 1 - 1e-4))
        found = optimize.minimize(
            loss,
            start.ravel(),
            jac=True,
            method='L-BFGS-B',
            options={'maxiter': 300, 'ftol': 1e-7, 'gtol': 1e-2},
        )
        self.weights = found.x.reshape(start.shape)
        return self

    def _inputs(self, scores):
        return np.c_[scores / self.deviation, np.ones(len(scores))]

    def shares(self, scores):
        """`[N, K]`: the sigmoids, divided by their sum."""
        logits = self._inputs(scores) @ self.weights
        log_sigmoids = -np.logaddexp(0, -logits)
        return special.softmax(log_sigmoids, axis=1)

    def columns(self, scores):
        shares = self.shares(scores)
        found = {
            'argmax': self.months[shares.argmax(1)].astype(np.float32),
            'expectation': (shares @ self.months).astype(np.float32),
        }
        return {'prediction': found[self.predicts], **found}


MODELS = {'pca_linear': Linear, 'pca_logistic': Logistic}


def month_classes(months: np.ndarray) -> np.ndarray:
    """Ages `[N]` in months -> their classes, int: whole months.

    Those below the first and above the last class count to it.
    """
    return np.clip(np.rint(np.asarray(months, np.float64)).astype(int), *MONTHS)


@dataclasses.dataclass(frozen=True)
class PCARegression:
    """What was fitted, by sex (True: boys).

    Attributes:
        models: {sex: (pca, regression)}.
        components: {sex: the number kept}.
        curve: {sex: {number tried: validation MAE}}.
    """

    models: dict
    components: dict
    curve: dict

    def predict(self, images: np.ndarray, male: np.ndarray) -> dict[str, np.ndarray]:
        """`images` uint8 `[N, H, W, 1]`, `male` bool `[N]` -> `{column: float32 [N]}`, months.

        Raises UserError for a sex that no model was fitted on.
        """
        missing = set(np.unique(male).tolist()) - set(self.models)
        if missing:
            raise UserError(
                f'no {_name(missing.pop())} images were trained on, yet some are to be predicted'
            )
        columns = {}
        for sex, (pca, regression) in self.models.items():
            rows = np.flatnonzero(male == sex)
            if len(rows):
                scores = pca.transform(_flat(images[rows]))[:, : self.components[sex]]
                for name, values in regression.columns(scores).items():
                    columns.setdefault(name, np.empty(len(male), np.float32))[rows] = values
        return columns


def fit(
    train: tuple, validation: tuple, options: ml_collections.ConfigDict, *, seed: int = 0
) -> PCARegression:
    """Fits PCA and the regression `options.name` of `MODELS` for each sex apart, as the paper does.

    Args:
        train: `(images uint8 [N, H, W, 1], months [N], male bool [N])`.
        validation: the same.
        options: `config.model`. `options.components` are the numbers of components tried; the one
            with the smallest validation MAE is kept.
        seed: of the randomised PCA.

    Raises:
        UserError: a sex has fewer training images than components.
    """
    models = {}
    kept = {}
    curve = {}
    most = max(options.components)
    for sex in sorted(set(train[2].tolist())):
        images, months = _of_sex(train, sex)
        if len(months) <= most:
            raise UserError(
                f'{len(months)} {_name(sex)} training images are too few for {most} '
                'principal components; lower model.components'
            )
        pca = PCA(most, svd_solver='randomized', random_state=seed).fit(_flat(images))
        scores = pca.transform(_flat(images))
        other_images, truth = _of_sex(validation, sex)
        if len(truth):
            other_scores = pca.transform(_flat(other_images))
        else:
            other_scores, truth = scores, months
        candidates = {}
        curve[sex] = {}
        for count in options.components:
            model = MODELS[options.name](options).fit(scores[:, :count], months)
            predicted = model.columns(other_scores[:, :count])['prediction']
            candidates[count] = model
            curve[sex][count] = float(np.abs(predicted - truth).mean())
        kept[sex] = min(curve[sex], key=curve[sex].get)
        models[sex] = (pca, candidates[kept[sex]])
    return PCARegression(models, kept, curve)


def _name(sex):
    return 'male' if sex else 'female'


def _of_sex(data, sex):
    images, months, male = data
    return images[male == sex], months[male == sex]


def _flat(images):
    return images.reshape(len(images), -1).astype(np.float32) / 255
