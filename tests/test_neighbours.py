"""Reduced embeddings of training images: distances and neighbours as computed by hand."""

import numpy as np
import pytest
from scipy.spatial import distance as distances_lib

from boneage_jax.inference import neighbours
from boneage_jax.runs import exported
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError


def embeddings_of(count, features=12, rank=4, seed=0):
    """Embeddings that lie in few dimensions, as those of networks mostly do."""
    generator = np.random.default_rng(seed)
    basis = np.random.default_rng(1).normal(size=(rank, features))
    return (generator.normal(size=(count, rank)) @ basis + 3).astype(np.float32)


def fitted(count=60):
    vectors = embeddings_of(count)
    months = np.arange(count) * 2.0
    return vectors, months, neighbours.fit(vectors, months, np.arange(count) % 2 == 0)


def file_of(reference, folder):
    path = folder / 'a.safetensors'
    about = {'format': tensors.FORMAT, 'format_version': str(exported.VERSION), 'step': '1'}
    about |= {'config': '{}', 'task': '{}', 'trained_on': '[]'}
    tensors.write(path, {'kernel': np.ones(3, np.float32)} | reference, about)
    return path


def test_distances_are_those_of_the_whole_embeddings():
    vectors, months, reference = fitted()
    new = embeddings_of(7, seed=5)
    # With all components and the rest's length nothing is lost but digits.
    by_hand = np.sort(distances_lib.cdist(new, vectors), axis=1)[:, : neighbours.COUNT]
    found = reference.nearest(new)
    np.testing.assert_allclose(found.distance, by_hand, rtol=0.01)
    np.testing.assert_allclose(reference.distance(new), by_hand.mean(1), rtol=0.01)
    nearest = distances_lib.cdist(new, vectors).argmin(1)
    assert found.months[:, 0].tolist() == months[nearest].tolist()
    assert found.male[:, 0].tolist() == (nearest % 2 == 0).tolist()
    own = reference.nearest(vectors, count=1)
    assert own.months[:, 0].tolist() == months.tolist() and own.distance.max() < 0.05


def test_what_the_components_leave_out_counts():
    """An image off the training images' plane is far, however near it is to them on the plane."""
    generator = np.random.default_rng(0)
    plane = np.zeros((80, 100), np.float32)
    plane[:, :2] = generator.normal(size=(80, 2))
    reference = neighbours.fit(plane, np.arange(80.0), np.zeros(80, bool))
    off = plane[:1].copy()
    off[0, 99] = 50.0
    assert reference.distance(off)[0] == pytest.approx(50.0, rel=0.01)
    assert reference.quantile(off)[0] == 1.0


def test_quantiles_are_of_each_image_left_out():
    vectors, _, reference = fitted()
    between = distances_lib.cdist(vectors, vectors) + np.diag(np.full(len(vectors), np.inf))
    left_out = np.sort(np.sort(between, axis=1)[:, : neighbours.COUNT].mean(1))
    np.testing.assert_allclose(reference.leave_one_out, left_out, rtol=0.01)
    for new in embeddings_of(7, seed=5):
        share = (
            left_out
            < distances_lib.cdist([new], vectors)[0][
                np.argsort(distances_lib.cdist([new], vectors)[0])[: neighbours.COUNT]
            ].mean()
        ).mean()
        assert reference.quantile(new[None])[0] == pytest.approx(share, abs=1.5 / len(vectors))
    assert reference.quantile(vectors[:1] + 1000)[0] == 1.0
    middle = reference.quantile(vectors.mean(0, keepdims=True))[0]
    assert middle < reference.quantile(vectors.max(0, keepdims=True))[0]


def test_a_file_gives_back_what_was_fitted(tmp_path):
    _, _, reference = fitted()
    path = file_of(reference.arrays(), tmp_path)
    found = neighbours.read(path)
    for name in ('mean', 'components', 'vectors', 'months', 'male', 'leave_one_out'):
        np.testing.assert_array_equal(getattr(found, name), getattr(reference, name))
    assert list(tensors.read(path)[0]) == ['kernel']  # no parameters of the network
    assert set(tensors.read_beside(path)) == set(neighbours._PARTS)


@pytest.mark.parametrize('count, features', [(12_000, 512), (2_000, 2048), (20_000, 64)])
def test_it_keeps_within_its_megabyte(count, features):
    dimensions = neighbours._dimensions(count, features)
    vectors = np.ones((count, dimensions + 1), np.float32)
    components = np.ones((dimensions, features), np.float32)
    quantiles = np.ones(neighbours._LEVELS, np.float32)
    labels = np.ones(count, np.float32)
    whole = neighbours.Reference(components[0], components, vectors, labels, labels > 0, quantiles)
    used = sum(array.nbytes for array in whole.arrays().values())
    assert used + 2_000 <= neighbours.LIMIT
    more = used + 2 * (count + features)
    assert dimensions == neighbours.DIMENSIONS or more + 2_000 > neighbours.LIMIT
    assert dimensions >= 20


def test_many_images_are_thinned_evenly_by_age(monkeypatch):
    monkeypatch.setattr(neighbours, 'MOST', 30)
    months = np.random.default_rng(0).permutation(90).astype(np.float32)
    reference = neighbours.fit(embeddings_of(90), months, months > 40)
    assert len(reference.vectors) == 30
    assert np.diff(reference.months).max() <= 4 and np.ptp(reference.months) == 89
    assert (reference.male == (reference.months > 40)).all()


def test_what_is_refused(tmp_path):
    vectors, months, reference = fitted()
    male = np.zeros(len(months), bool)
    with pytest.raises(UserError, match='19 training images are too few; 20 are needed'):
        neighbours.fit(vectors[:19], months[:19], male[:19])
    for bad in (vectors * np.nan, np.ones_like(vectors)):
        with pytest.raises(UserError, match='all the same or not finite'):
            neighbours.fit(bad, months, male)
    with pytest.raises(UserError, match=r'expected \[N, 12\].*found \[60, 11\]'):
        reference.distance(vectors[:, 1:])
    with pytest.raises(UserError, match='some are not finite'):
        reference.quantile(vectors * np.inf)
    with pytest.raises(UserError, match='count=61: expected 1 to 60 training images'):
        reference.nearest(vectors, 61)
    with pytest.raises(UserError, match='a workdir holds no reduced embeddings'):
        neighbours.read(tmp_path)
    with pytest.raises(UserError, match='a.safetensors holds no embeddings of its training images'):
        neighbours.read(file_of({}, tmp_path))
    parts = reference.arrays()
    del parts[f'{tensors.BESIDE}months']
    with pytest.raises(UserError, match='its embeddings lack months; export it again'):
        neighbours.read(file_of(parts, tmp_path))
