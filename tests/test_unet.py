"""U-Net: any input size, its size, its transposed convolution; a run of configs/unet.py from images
to figures.
"""

import csv
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax import config as c
from boneage_jax import models
from boneage_jax.models import unet
from boneage_jax.runs import predictor
from boneage_jax.training import loop

CONFIG = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'unet.py'


@functools.cache
def tiny(**options):
    """In one program, or each of its draws would be compiled alone."""
    model = nnx.jit(lambda: models.build('unet', **({'width': 4, 'depth': 2} | options)))()
    model.eval()
    return model


apply = nnx.jit(lambda model, image: model(image, None))


def test_size_of_the_original():
    """Ronneberger's 64 to 1,024 channels; the usual implementation with batch normalisation has
    31,036,481 parameters, and here each of a transposed convolution's four places has a bias of its
    own.
    """
    model = nnx.eval_shape(lambda: models.build('unet'))
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == 31_036_481 + 3 * (512 + 256 + 128 + 64)


@pytest.mark.parametrize('size', [(4, 4), (33, 50)])
def test_any_size_gives_logits_of_that_size(size):
    logits, aux = apply(tiny(), np.random.default_rng(0).random((2, *size, 1), np.float32))
    assert logits.shape == (2, *size) and logits.dtype == jnp.float32 and aux == {}
    assert jnp.isfinite(logits).all() and jnp.std(logits) > 0


def test_images_are_mirrored_at_their_border():
    model, image = (
        tiny(standardise='fixed'),
        np.random.default_rng(0).random((1, 33, 50, 1), np.float32),
    )
    padded = np.pad(image, ((0, 0), (1, 2), (1, 1), (0, 0)), mode='symmetric')
    np.testing.assert_allclose(
        apply(model, image)[0], apply(model, padded)[0][:, 1:34, 1:51], atol=1e-5
    )


def test_up_is_a_transposed_convolution():
    up = nnx.jit(lambda: unet.Up(6, dtype=None, rngs=nnx.Rngs(0)))()
    up.pair = lambda x: x
    x = np.random.default_rng(1).normal(size=(2, 4, 5, 6)).astype(np.float32)
    grown = up(x, np.zeros((2, 8, 10, 3), np.float32))[..., 3:]
    kernel = np.asarray(up.grow.kernel[...]).reshape(6, 2, 2, 3).transpose(1, 2, 0, 3)
    kernel = kernel[::-1, ::-1]  # XLA correlates
    expected = jax.lax.conv_transpose(
        x, kernel, (2, 2), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    np.testing.assert_allclose(grown, expected, atol=1e-5)


def test_every_parameter_has_a_gradient():
    model, image = tiny(), np.random.default_rng(2).random((2, 16, 24, 1), np.float32)
    gradients = nnx.jit(nnx.grad(lambda m: jnp.square(m(image, None)[0]).sum()))(model)
    flat = {
        '/'.join(map(str, path)): np.asarray(value[...])
        for path, value in nnx.to_flat_state(gradients)
    }
    assert len(flat) > 30 and not [name for name, value in flat.items() if not value.any()]


def test_refusals():
    with pytest.raises(ValueError, match='at least 4 pixels a side, found 3x40'):
        tiny()(jnp.zeros((1, 3, 40, 1)), None)
    with pytest.raises(ValueError, match='depth=0'):
        models.build('unet', depth=0)


def test_run_leaves_overlap_of_every_image(tmp_path):
    report = loop.train(c.load(f'{CONFIG}:tiny,jaccard=literal')[1], tmp_path)
    assert report['selected_by'] == 'validation iou_miss'
    with (tmp_path / 'predictions.csv').open() as file:
        rows = list(csv.DictReader(file))
    for name in ('validation', 'holdout'):
        iou = [float(row['iou']) for row in rows if row['split'] == name]
        overall = report['splits'][name]['overall']
        assert len(iou) == 8 and np.mean(iou) == pytest.approx(overall['iou']['value'], abs=1e-3)
        assert overall['iou']['value'] <= overall['dice']['value'] <= 1
    assert (tmp_path / 'figures' / 'training.png').exists()
    logits, _ = predictor.Predictor(tmp_path)(np.zeros((3, 40, 40, 1), np.uint8))
    assert logits.shape == (3, 40, 40)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert {'loss', 'iou_miss'} <= set(lines[0])
