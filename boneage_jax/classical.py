"""The baselines without a network (Castillo et al. 2018, section "Baseline models"): scikit-learn on flattened pixels.

Arrays in, predictions out; `train.py` reads the records and writes the same files as for a network.
"""

import dataclasses

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from tfds_rsna.errors import UserError


@dataclasses.dataclass(frozen=True)
class PCALinear:
    """One PCA and linear regression per sex; `components` {sex: number kept}, `curve` {sex: {number: validation MAE}}."""

    models: dict
    components: dict
    curve: dict

    def predict(self, images, male):
        """`images` uint8 `[N, H, W, 1]`, `male` bool `[N]` -> months float32 `[N]`."""
        months = np.empty(len(male), np.float32)
        for sex, (pca, regression) in self.models.items():
            rows = np.flatnonzero(male == sex)
            if len(rows):
                months[rows] = regression.predict(pca.transform(_flat(images[rows]))[:, :self.components[sex]])
        return months


def fit_pca_linear(train, validation, *, components, seed=0):
    """Fits PCA + linear regression for each sex apart, as the paper does.

    `train`, `validation`: `(images uint8 [N, H, W, 1], months [N], male bool [N])`. `components`: the numbers tried; the
    one with the smallest validation MAE is kept. Raises UserError where a sex has fewer training films than components.
    """
    models, kept, curve = {}, {}, {}
    for sex in (False, True):
        images, months = _of_sex(train, sex)
        most = max(components)
        if len(months) <= most:
            raise UserError(f'{len(months)} {"male" if sex else "female"} training films are too few for {most} '
                             'principal components; lower model.components')
        pca = PCA(most, svd_solver='randomized', random_state=seed).fit(_flat(images))
        scores, (other, truth) = pca.transform(_flat(images)), _of_sex(validation, sex)
        candidates = {n: LinearRegression().fit(scores[:, :n], months) for n in components}
        others = pca.transform(_flat(other)) if len(truth) else scores
        truth = truth if len(truth) else months
        curve[sex] = {n: float(np.abs(m.predict(others[:, :n]) - truth).mean()) for n, m in candidates.items()}
        kept[sex] = min(curve[sex], key=curve[sex].get)
        models[sex] = (pca, candidates[kept[sex]])
    return PCALinear(models, kept, curve)


def _of_sex(data, sex):
    images, months, male = data
    return images[male == sex], months[male == sex]


def _flat(images):
    return images.reshape(len(images), -1).astype(np.float32) / 255
