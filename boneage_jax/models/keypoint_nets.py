"""Networks that find key points of a hand.

Iglovikov 2018's VGG regression (section 3.3), and heat maps of a U-Net.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers, unet
from boneage_jax.preprocess import keypoints as points_lib
from tfds_rsna.errors import UserError


class KeypointVGG(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male)` -> `(points [B, K, 2], {})`, 0 to 1 from edge to edge.

    Three blocks of two 3x3 convolutions with ELU and a 2x2 max-pool, then three dense layers with
    dropout, as the paper says; their widths are ours. The sex is not read.

    Args:
        size: (rows, columns) of the images.
        points: K.
        width: channels of the first block, doubled at each.
        hidden_units: of each of the two hidden dense layers.
        dropout: after each of them; draws from `rngs`.
        standardise: see `layers.standardise`.
        dtype: of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: images too small for the blocks; when called, images of another size.
    """

    smallest_side = 8

    def __init__(
        self,
        *,
        size: tuple[int, int] = (130, 100),
        points: int = 3,
        width: int = 64,
        hidden_units: int = 512,
        dropout: float = 0.25,
        standardise: str = 'image',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if min(size) < self.smallest_side:
            raise UserError(
                f'data.size={tuple(size)}: expected at least {self.smallest_side} pixels a side'
            )
        self.size = tuple(size)
        self.points = points
        self.standardise = standardise
        self.dtype = dtype
        self.blocks = nnx.List()
        inputs = 1
        for block in range(3):
            outputs = width << block
            first = layers.conv(inputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs)
            second = layers.conv(outputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs)
            self.blocks.append(nnx.List([first, second]))
            inputs = outputs
        flat = (size[0] // 8) * (size[1] // 8) * inputs
        self.dense = nnx.List(
            [
                layers.linear(flat, hidden_units, dtype=dtype, rngs=rngs),
                layers.linear(hidden_units, hidden_units, dtype=dtype, rngs=rngs),
            ]
        )
        self.head = layers.linear(hidden_units, 2 * points, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict]:
        del male
        layers.require_size(image, self.size, 'key-point network')
        x = layers.cast(layers.standardise(image, self.standardise), self.dtype)
        for first, second in self.blocks:
            x = nnx.elu(second(nnx.elu(first(x))))
            x = cpu.max_pool(x, 2, 2)
        x = x.reshape(x.shape[0], -1)
        for layer in self.dense:
            x = self.dropout(nnx.elu(layer(x)), rngs=rngs)
        points = 0.5 + self.head(x.astype(jnp.float32)).reshape(-1, self.points, 2)
        return points, {}


class KeypointMaps(nnx.Module):
    """The same from heat maps: a U-Net's map for each point, read at its peak.

    No gradient passes through that. aux: `heatmaps`, logits `[B, H, W, K]` float32, which the task
    trains; `heights` `[B, K]`, the peak's probability over its image: small where the network found
    nothing.
    """

    def __init__(
        self,
        *,
        points: int = 3,
        width: int = 16,
        depth: int = 4,
        standardise: str = 'image',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        self.unet = unet.UNet(
            outputs=points,
            width=width,
            depth=depth,
            standardise=standardise,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, _ = self.unet(image, male, rngs=rngs)
        batch, height, width, count = logits.shape
        shares = jax.nn.softmax(logits.reshape(batch, -1, count), axis=1).reshape(logits.shape)
        found, heights = points_lib.peaks(jax.lax.stop_gradient(shares))
        points = points_lib.normalise(found, (height, width))
        return points, {'heatmaps': logits, 'heights': heights}


HEADS = ('regression', 'heatmaps')


def keypoint_net(
    *,
    head: str = 'regression',
    size: tuple[int, int] = (130, 100),
    points: int = 3,
    width: int = 32,
    depth: int = 4,
    hidden_units: int = 512,
    dropout: float = 0.25,
    standardise: str = 'image',
    dtype=None,
    rngs: nnx.Rngs,
) -> KeypointVGG | KeypointMaps:
    """The network of `head`: 'regression' is a `KeypointVGG`, 'heatmaps' a `KeypointMaps`.

    `size`, `hidden_units` and `dropout` are of the first alone, `depth` of the second.
    """
    common = dict(points=points, width=width, standardise=standardise, dtype=dtype, rngs=rngs)
    if head == 'regression':
        return KeypointVGG(size=size, hidden_units=hidden_units, dropout=dropout, **common)
    if head == 'heatmaps':
        return KeypointMaps(depth=depth, **common)
    raise UserError(f'model.head={head!r}: expected one of {", ".join(HEADS)}')
