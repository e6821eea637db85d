"""Disturbances of images: what each does, and that nothing of them is random."""

import numpy as np
import pytest

from boneage_jax.analysis import robustness
from tfds_rsna.errors import UserError

IMAGES = np.random.default_rng(0).integers(40, 200, (3, 48, 40, 1), np.uint8)


@pytest.mark.parametrize('kind', robustness.KINDS)
def test_every_kind_keeps_the_form_and_changes_the_image(kind):
    for strength in robustness.KINDS[kind].strengths[-1:]:
        out = robustness.disturb(IMAGES, kind, strength)
        assert out.shape == IMAGES.shape and out.dtype == np.uint8
        assert (out != IMAGES).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(out, robustness.disturb(IMAGES, kind, strength))


def test_what_they_do():
    np.testing.assert_array_equal(robustness.disturb(IMAGES, 'inversion', 1.0), 255 - IMAGES)
    np.testing.assert_array_equal(robustness.disturb(IMAGES, 'flip', 1.0), IMAGES[:, :, ::-1])
    assert (
        np.abs(robustness.disturb(IMAGES, 'brightness', 0.1).astype(int) - IMAGES - 25.5).max() < 1
    )
    flat = robustness.disturb(IMAGES, 'contrast', 0.5)
    assert flat.std() == pytest.approx(IMAGES.std() / 2, rel=0.02) and flat.mean() == pytest.approx(
        IMAGES.mean(), abs=0.6
    )
    square = IMAGES[:, 4:44]  # turned by a right angle, a square lands on itself
    turned = robustness.disturb(square, 'rotation', 90.0)
    assert np.abs(turned.astype(int) - np.rot90(square, 1, (1, 2))).max() <= 1
    covered = robustness.disturb(IMAGES, 'marker removed', 0.25)
    assert (covered[:, 12:36] == IMAGES[:, 12:36]).all() and (
        covered[:, :, 10:30] == IMAGES[:, :, 10:30]
    ).all()
    assert all(len(np.unique(image[:12, :10])) == 1 for image in covered)
    marked = robustness.disturb(IMAGES, 'marker added', 0.2)
    white = marked[0, ..., 0] == 255
    assert 4 < white.sum() < 40 and not white[12:].any() and white[2:10, 2].all()
    assert robustness.disturb(IMAGES, 'resolution', 4.0).std() < IMAGES.std() / 2
    smooth = np.tile(np.arange(48, dtype=np.uint8)[None, :, None, None] * 4, (3, 1, 40, 1))
    fine = robustness.disturb(smooth, 'jpeg', 90.0).astype(int) - smooth
    coarse = robustness.disturb(smooth, 'jpeg', 10.0).astype(int) - smooth
    assert 0 < np.abs(fine).mean() < 1 < np.abs(coarse).mean() < 8
    with pytest.raises(UserError, match="kind 'blur': expected one of rotation, flip"):
        robustness.disturb(IMAGES, 'blur', 1.0)
