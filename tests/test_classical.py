"""Principal components and regressions: they learn, choose on validation, keep the sexes apart."""

import types

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from boneage_jax import config as c
from boneage_jax.training import classical
from tfds_rsna.errors import UserError


def options(name='pca_linear', components=(1, 3, 30), predicts='argmax'):
    return types.SimpleNamespace(
        name=name, components=components, predicts=predicts, inverse_penalty=1.0
    )


def data(count, seed, noise=0.1, months=None):
    rng = np.random.default_rng(seed)
    male = rng.random(count) < 0.5
    months = (
        rng.uniform(20, 220, count).astype(np.float32)
        if months is None
        else rng.choice(months, count).astype(np.float32)
    )
    images = rng.normal(0, noise, (count, 8, 8, 1))
    images[:, 2] += (np.where(male, months, 240 - months) / 240)[
        :, None, None
    ]  # boys brighten with age, girls darken
    return (np.clip(images, 0, 1) * 255).astype(np.uint8), months, male


def test_learns_a_linear_age_for_each_sex():
    model = classical.fit(data(400, 0), data(100, 1), options())
    images, months, male = data(100, 2)
    error = np.abs(model.predict(images, male)['prediction'] - months).mean()
    assert (
        error < 12 < np.abs(model.predict(images, ~male)['prediction'] - months).mean()
    )  # wrong sex, wrong sign
    for sex in (False, True):
        assert model.components[sex] == min(model.curve[sex], key=model.curve[sex].get)


def test_logistic_regression_reads_its_classes_both_ways():
    ages = (30, 90, 150, 215)
    train = data(300, 0, months=ages)
    for predicts in ('argmax', 'expectation'):
        model = classical.fit(
            train, data(80, 1, months=ages), options('pca_logistic', (2,), predicts)
        )
        images, months, male = data(80, 2, months=ages)
        columns = model.predict(images, male)
        np.testing.assert_array_equal(columns['prediction'], columns[predicts])
    assert set(columns['argmax'].tolist()) <= {30.0, 90.0, 150.0, 200.0}  # 215 counts as 200
    assert np.abs(columns['argmax'] - np.minimum(months, 200)).mean() < 20
    assert (columns['expectation'] > 30).all() and (columns['expectation'] < 200).all()


def test_all_months_at_once_are_scikit_learns_one_by_one():
    rng = np.random.default_rng(0)
    scores, months = rng.normal(0, 3, (200, 4)), rng.choice([10, 20, 30], 200)
    scores[:, 0] += months / 10
    ours = classical.Logistic(options('pca_logistic')).fit(scores, months)
    theirs = OneVsRestClassifier(LogisticRegression(C=1.0, tol=1e-8)).fit(
        scores / ours.deviation, months
    )
    np.testing.assert_allclose(
        ours.shares(scores), theirs.predict_proba(scores / ours.deviation), atol=5e-3
    )


def test_months_become_classes():
    np.testing.assert_array_equal(
        classical.month_classes([0.2, 1.4, 99.6, 200, 228]), [1, 1, 100, 200, 200]
    )


def test_one_sex_alone_and_too_few_images():
    images, months, male = data(60, 0)
    one = (images[male], months[male], male[male])
    model = classical.fit(one, one, options(components=(2,)))
    assert set(model.models) == {True}
    with pytest.raises(UserError, match='no female images were trained on'):
        model.predict(images, male)
    with pytest.raises(
        UserError, match='2 male training images are too few for 5 principal components'
    ):
        keep = np.flatnonzero(~male).tolist() + np.flatnonzero(male)[:2].tolist()
        classical.fit(
            (images[keep], months[keep], male[keep]), data(20, 1), options(components=(5,))
        )
    with pytest.raises(UserError, match="model.predicts='mode'"):
        classical.Logistic(options(predicts='mode'))


def test_the_papers_thirds():
    data = c.load('configs/classical.py:rsna100,thirds,row=male logistic')[1].data
    assert (data.validation + 7000, data.holdout, data.sex) == (8000, 4000, 'male')
