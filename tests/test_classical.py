"""PCA and linear regression: learns what is linear, chooses on validation, keeps the sexes apart."""

import numpy as np
import pytest

from boneage_jax import classical


def data(count, seed, noise=0.1):
    rng = np.random.default_rng(seed)
    male, months = rng.random(count) < 0.5, rng.uniform(20, 220, count).astype(np.float32)
    images = rng.normal(0, noise, (count, 8, 8, 1))
    images[:, 2] += (np.where(male, months, 240 - months) / 240)[:, None, None]  # boys brighten with age, girls darken
    return (np.clip(images, 0, 1) * 255).astype(np.uint8), months, male


def test_learns_a_linear_age_for_each_sex():
    model = classical.fit_pca_linear(data(400, 0), data(100, 1), components=(1, 3, 30))
    images, months, male = data(100, 2)
    error = np.abs(model.predict(images, male) - months).mean()
    assert error < 12 < np.abs(model.predict(images, ~male) - months).mean()  # wrong sex, wrong sign
    for sex in (False, True):
        assert model.components[sex] == min(model.curve[sex], key=model.curve[sex].get)


def test_too_few_films_of_one_sex():
    images, months, male = data(60, 0)
    with pytest.raises(ValueError, match='2 male training films are too few for 5 principal components'):
        keep = np.flatnonzero(~male).tolist() + np.flatnonzero(male)[:2].tolist()
        classical.fit_pca_linear((images[keep], months[keep], male[keep]), data(20, 1), components=(5,))
