"""Disturbances of films: what each does, and that nothing of them is random."""

import numpy as np
import pytest

from boneage_jax.analysis import robustness
from tfds_rsna.errors import UserError

FILMS = np.random.default_rng(0).integers(40, 200, (3, 48, 40, 1), np.uint8)


@pytest.mark.parametrize('kind', robustness.KINDS)
def test_every_kind_keeps_the_form_and_changes_the_film(kind):
    for strength in robustness.KINDS[kind][0][-1:]:
        out = robustness.disturb(FILMS, kind, strength)
        assert out.shape == FILMS.shape and out.dtype == np.uint8
        assert (out != FILMS).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(out, robustness.disturb(FILMS, kind, strength))


def test_what_they_do():
    np.testing.assert_array_equal(robustness.disturb(FILMS, 'inversion', 1.0), 255 - FILMS)
    np.testing.assert_array_equal(robustness.disturb(FILMS, 'flip', 1.0), FILMS[:, :, ::-1])
    assert np.abs(robustness.disturb(FILMS, 'brightness', 0.1).astype(int) - FILMS - 25.5).max() < 1
    flat = robustness.disturb(FILMS, 'contrast', 0.5)
    assert flat.std() == pytest.approx(FILMS.std() / 2, rel=0.02) and flat.mean() == pytest.approx(FILMS.mean(), abs=0.6)
    square = FILMS[:, 4:44]  # turned by a right angle, a square lands on itself
    turned = robustness.disturb(square, 'rotation', 90.0)
    assert np.abs(turned.astype(int) - np.rot90(square, 1, (1, 2))).max() <= 1
    covered = robustness.disturb(FILMS, 'marker removed', 0.25)
    assert (covered[:, 12:36] == FILMS[:, 12:36]).all() and (covered[:, :, 10:30] == FILMS[:, :, 10:30]).all()
    assert all(len(np.unique(film[:12, :10])) == 1 for film in covered)
    marked = robustness.disturb(FILMS, 'marker added', 0.2)
    white = marked[0, ..., 0] == 255
    assert 4 < white.sum() < 40 and not white[12:].any() and white[2:10, 2].all()
    assert robustness.disturb(FILMS, 'resolution', 4.0).std() < FILMS.std() / 2
    with pytest.raises(UserError, match="kind 'blur': expected one of rotation, flip"):
        robustness.disturb(FILMS, 'blur', 1.0)
