"""Networks that find key points of a hand: Iglovikov 2018's VGG regression (section 3.3), and heat
maps of a U-Net.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers, unet
from boneage_jax.preprocess import keypoints as points_lib
from tfds_rsna.errors import UserError


class KeypointVGG(nnx.Module):
    """`model(image [B, H, W, 1] in [0, 1], male, rngs=None) -> (points [B, K, 2], aux)`, 0 to 1
    from edge to edge.

    Three blocks of two 3x3 convolutions with ELU and a 2x2 max-pool, then three dense layers with
    dropout, as the paper says; their widths (`width`, doubled at each block; `dense`) are ours. The
    sex is not read. Images have one `size`.
    """

    smallest_side = 8

    def __init__(
        self,
        *,
        size=(130, 100),
        points=3,
        width=64,
        dense=512,
        dropout=0.25,
        standardise='image',
        dtype=None,
        rngs,
    ):
        if min(size) < self.smallest_side:
            raise UserError(
                f'data.size={tuple(size)}: expected at least {self.smallest_side} pixels a side'
            )
        self.size, self.points, self.standardise, self.dtype = (
            tuple(size),
            points,
            standardise,
            dtype,
        )
        widths = [1, *(width << block for block in range(3))]
        self.blocks = nnx.List(
            [
                nnx.List(
                    [
                        layers.conv(inputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs),
                        layers.conv(outputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs),
                    ]
                )
                for inputs, outputs in zip(widths, widths[1:])
            ]
        )
        flat = (size[0] // 8) * (size[1] // 8) * widths[-1]
        self.dense = nnx.List(
            [
                layers.linear(flat, dense, dtype=dtype, rngs=rngs),
                layers.linear(dense, dense, dtype=dtype, rngs=rngs),
            ]
        )
        self.head = layers.linear(dense, 2 * points, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, image, male, *, rngs=None):
        del male
        if image.shape[1:3] != self.size:
            raise UserError(
                f'this key-point network takes images of {self.size[0]}x{self.size[1]}, found '
                f'{image.shape[1]}x{image.shape[2]}; give it images of data.size'
            )
        x = layers.standardise(image, self.standardise)
        x = x if self.dtype is None else x.astype(self.dtype)
        for first, second in self.blocks:
            x = nnx.elu(second(nnx.elu(first(x))))
            x = cpu.max_pool(x, 2, 2)
        x = x.reshape(x.shape[0], -1)
        for layer in self.dense:
            x = self.dropout(nnx.elu(layer(x)), rngs=rngs)
        points = 0.5 + self.head(x.astype(jnp.float32)).reshape(-1, self.points, 2)
        return points, {}


class KeypointMaps(nnx.Module):
    """The same from heat maps: a U-Net's map for each point, read at its peak (no gradient passes
    through that).

    aux: `heatmaps`, logits `[B, H, W, K]` float32, which the task trains; `heights` `[B, K]`, the
    peak's probability over its image: small where the network found nothing.
    """

    def __init__(self, *, points=3, width=16, depth=4, standardise='image', dtype=None, rngs):
        self.unet = unet.UNet(
            outputs=points,
            width=width,
            depth=depth,
            standardise=standardise,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, image, male, *, rngs=None):
        logits, _ = self.unet(image, male, rngs=rngs)
        batch, height, width, count = logits.shape
        shares = jax.nn.softmax(logits.reshape(batch, -1, count), axis=1).reshape(logits.shape)
        found, heights = points_lib.peaks(jax.lax.stop_gradient(shares))
        return points_lib.normalise(found, (height, width)), {
            'heatmaps': logits,
            'heights': heights,
        }


HEADS = ('regression', 'heatmaps')


def keypoint_net(
    *,
    head='regression',
    size=(130, 100),
    points=3,
    width=32,
    depth=4,
    dense=512,
    dropout=0.25,
    standardise='image',
    dtype=None,
    rngs,
):
    """The network of `head`: 'regression' (`size`, `dense` and `dropout` are its own) or 'heatmaps'
    (`depth` is).
    """
    common = dict(points=points, width=width, standardise=standardise, dtype=dtype, rngs=rngs)
    if head == 'regression':
        return KeypointVGG(size=size, dense=dense, dropout=dropout, **common)
    if head == 'heatmaps':
        return KeypointMaps(depth=depth, **common)
    raise UserError(f'model.head={head!r}: expected one of {", ".join(HEADS)}')
