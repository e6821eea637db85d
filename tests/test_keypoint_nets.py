"""The two key-point networks: shapes, refusals, and that heat maps are read where they peak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boneage_jax import models
from boneage_jax.preprocess import keypoints
from tfds_rsna.errors import UserError

SMALL = dict(size=(40, 32), width=4, hidden_units=8, depth=2)


@pytest.mark.parametrize('head', ['regression', 'heatmaps'])
def test_points_of_a_batch(head):
    net = models.build('keypoints', head=head, **SMALL)
    net.eval()
    image = jax.random.uniform(jax.random.key(0), (2, 40, 32, 1))
    points, aux = net(image, None)
    assert points.shape == (2, 3, 2) and points.dtype == jnp.float32
    again, _ = net(0.5 * image + 0.2, None)  # exposure is taken out
    np.testing.assert_allclose(points, again, atol=1e-3)
    if head == 'heatmaps':
        assert aux['heatmaps'].shape == (2, 40, 32, 3)
        best = np.asarray(aux['heatmaps']).reshape(2, -1, 3).argmax(1)
        found = np.stack([best // 32, best % 32], -1)
        assert np.abs(np.asarray(keypoints.denormalise(points, (40, 32))) - found).max() <= 0.51


def test_refusals():
    with pytest.raises(UserError, match="model.head='maps': expected one of regression, heatmaps"):
        models.build('keypoints', head='maps')
    net = models.build('keypoints', **SMALL)
    with pytest.raises(
        UserError, match='takes images of 40x32, found 48x32; give it images of data.size'
    ):
        net(jnp.zeros((1, 48, 32, 1)), None)
    with pytest.raises(UserError, match='at least 8 pixels'):
        models.build('keypoints', size=(7, 20))
