"""ConvNeXt-Tiny (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, CVPR 2022): torchvision's, NHWC.

No batch normalisation: an image's features do not depend on the batch, in training either.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import layers

BLOCKS = (3, 3, 9, 3)  # in each stage
EXPANSION = 4
LEAST_SCALE = 1e-6  # what a block's output is multiplied by at first
_draw = nnx.initializers.truncated_normal(0.02)
gelu = functools.partial(jax.nn.gelu, approximate=False)


def norm(features: int, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Each place's channels to mean 0 and deviation 1."""
    return nnx.LayerNorm(
        features,
        epsilon=1e-6,
        dtype=dtype,
        param_dtype=jnp.float32,
        use_fast_variance=False,
        rngs=rngs,
    )


def same(x: jax.Array) -> jax.Array:
    """Where torchvision turns channels to the end and back, which they are here already."""
    return x


class Block(nnx.Module):
    """Depthwise 7x7, widen, narrow, all added to the input: `[B, H, W, C]` -> the same shape.

    In training the block is left out of an image with probability `drop`, and scaled up where it is
    not (stochastic depth, Huang et al. 2016).
    """

    def __init__(self, channels: int, *, drop: float, dtype, rngs: nnx.Rngs):
        wide = EXPANSION * channels
        self.block = nnx.List(
            [
                layers.conv(
                    channels,
                    channels,
                    7,
                    groups=channels,
                    bias=True,
                    init=_draw,
                    dtype=dtype,
                    rngs=rngs,
                ),
                same,
                norm(channels, dtype=dtype, rngs=rngs),
                layers.linear(channels, wide, init=_draw, dtype=dtype, rngs=rngs),
                gelu,
                layers.linear(wide, channels, init=_draw, dtype=dtype, rngs=rngs),
                same,
            ]
        )
        self.layer_scale = nnx.Param(jnp.full(channels, LEAST_SCALE, jnp.float32))
        self.drop = nnx.Dropout(drop, broadcast_dims=(1, 2, 3))

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = x
        for layer in self.block:
            y = layer(y)
        scale = self.layer_scale[...].astype(y.dtype)[None, None, None]
        return x + self.drop(y * scale, rngs=rngs)


class ConvNeXt(nnx.Module):
    """`[B, H, W, channels]` float32 -> logits `[B, num_outputs]`, or features without a head.

    The features are pooled and normalised. `stages(x)` gives the four maps, strides 4, 8, 16, 32
    (2, 4, 8, 16 with `stem='small'`: the same kernel of 4x4, every two pixels).

    Args:
        num_outputs: of the head, 0 = no head.
        channels: of the images.
        width: channels of the first stage, doubled at each.
        depth: blocks in each stage, 0 = the paper's.
        stem: 'imagenet' or 'small'.
        stochastic_depth: of the last block, the others in proportion to their place; draws from
            `rngs`.
        dtype: of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: when called, images with a side below 32 pixels.
    """

    smallest_side = 32

    def __init__(
        self,
        *,
        num_outputs: int = 1000,
        channels: int = 3,
        width: int = 96,
        depth: int = 0,
        stem: str = 'imagenet',
        stochastic_depth: float = 0.1,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        layers.require_stem(stem)
        self.channels = channels
        first = 2 if stem == 'small' else 4
        self.strides = tuple(first << level for level in range(len(BLOCKS)))
        self.widths = tuple(width << level for level in range(len(BLOCKS)))
        self.features = self.widths[-1]
        counts = [depth or count for count in BLOCKS]
        options = {'dtype': dtype, 'rngs': rngs}
        conv = functools.partial(layers.conv, bias=True, init=_draw, **options)
        padding = (4 - first) // 2
        stem_conv = conv(channels, width, 4, stride=first, padding=padding)
        self.body = nnx.List()  # torchvision's `features`, place by place
        self.body.append(nnx.List([stem_conv, norm(width, **options)]))
        done = 0  # blocks so far
        for level, (outputs, count) in enumerate(zip(self.widths, counts, strict=True)):
            if level:
                inputs = self.widths[level - 1]
                narrowed = conv(inputs, outputs, 2, stride=2, padding=0)
                self.body.append(nnx.List([norm(inputs, **options), narrowed]))
            stage = nnx.List()
            for _ in range(count):
                drop = stochastic_depth * done / max(sum(counts) - 1, 1)
                stage.append(Block(outputs, drop=drop, **options))
                done += 1
            self.body.append(stage)
        self.last_norm = norm(self.features, dtype=None, rngs=rngs)
        output = None
        if num_outputs:
            output = layers.linear(self.features, num_outputs, init=_draw, **options)
        self.output = output

    def first_place(self, level: int) -> float:
        """The row, and column, of the pixel about which the first place of map `level` looks."""
        return (self.strides[level] - 1) / 2  # the middle of the pixels that it is made of

    def stages(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """`[B, H, W, channels]` -> four maps `[B, h, w, c]` in the compute type."""
        layers.require_input(x, self.channels, self.smallest_side, 'ConvNeXt')
        maps = []
        for place, part in enumerate(self.body):
            for layer in part:
                x = layer(x, rngs=rngs) if isinstance(layer, Block) else layer(x)
            if place % 2:
                maps.append(x)
        return maps

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        features = self.last_norm(layers.global_average_pool(self.stages(x, rngs=rngs)[-1]))
        if self.output is None:
            return features
        return self.output(features)
