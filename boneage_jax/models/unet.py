"""U-Net with batch normalisation (Ronneberger et al., MICCAI 2015; Iglovikov 2018, section 3.2).

Two 3x3 convolutions a level, each with batch normalisation and ReLU; 2x2 max-pooling down, a 2x2
transposed convolution up, the level's own map concatenated. Unlike Ronneberger's, convolutions are
padded, so the logits have the image's size.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers
from tfds_rsna.errors import UserError


class Pair(nnx.Module):
    """Convolution, batch normalisation, ReLU, twice; the size stays."""

    def __init__(self, inputs: int, outputs: int, *, dtype, rngs: nnx.Rngs):
        self.conv1 = layers.conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm1 = layers.norm(outputs, dtype=dtype, rngs=rngs)
        self.conv2 = layers.conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm2 = layers.norm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.norm2(self.conv2(x)))


class Up(nnx.Module):
    """`(x [B, h, w, C], skip [B, 2h, 2w, C/2])` -> `[B, 2h, 2w, C/2]`.

    The transposed convolution's taps do not overlap, so it is a dense layer on each pixel whose
    outputs are laid out as 2x2: the same numbers, and several times faster on a CPU.
    """

    def __init__(self, inputs: int, *, dtype, rngs: nnx.Rngs):
        self.half = inputs // 2
        self.grow = layers.conv(inputs, 4 * self.half, 1, bias=True, dtype=dtype, rngs=rngs)
        self.pair = Pair(inputs, self.half, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        batch, height, width, _ = x.shape
        x = self.grow(x).reshape(batch, height, width, 2, 2, self.half)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, self.half)
        return self.pair(jnp.concatenate([skip, x], axis=-1))


class Encoder(nnx.Module):
    """The way down of a U-Net as a backbone, under the same names, so that it can take its weights.

    `stages(x)` gives one map for each level, the image's own first: `[B, H, W, channels]` -> `[B, H
    / 2^level, W / 2^level, width 2^level]`. Borders are not mirrored: what does not fill a place of
    the next level is left out.

    Args:
        num_outputs: not used: an encoder has no head.
        channels: of the images.
        width: channels of the first level, doubled at each.
        depth: poolings, 0 = 4.
        stem: not used: an encoder has no stem.
        dtype: of computing.
        rngs: where the parameters are drawn from.
    """

    def __init__(
        self,
        *,
        num_outputs: int = 0,
        channels: int = 1,
        width: int = 64,
        depth: int = 4,
        stem: str = 'imagenet',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        del num_outputs, stem
        depth = depth or 4
        if width < 1:
            raise UserError(f'width={width}: U-Net needs at least 1')
        self.channels = channels
        self.smallest_side = 2**depth
        self.strides = tuple(2**level for level in range(depth + 1))
        self.widths = tuple(width * 2**level for level in range(depth + 1))
        self.features = self.widths[-1]
        self.down = _pairs_down(channels, self.widths, dtype=dtype, rngs=rngs)

    def first_place(self, level: int) -> float:
        """The row, and column, of the pixel about which the first place of map `level` looks."""
        return (self.strides[level] - 1) / 2

    def stages(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """`[B, H, W, channels]` -> a map `[B, h, w, c]` of each level in the compute type."""
        del rngs
        layers.require_input(
            x, self.channels, self.smallest_side, f'U-Net of depth {len(self.strides) - 1}'
        )
        return _go_down(self.down, x)


class UNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male)` -> `(logits float32, {})`, for any H and W.

    The logits are `[B, H, W]` for one output, else `[B, H, W, outputs]`. The sex is not read.
    Images are mirrored at their border up to a multiple of 2^depth inside, and the logits are
    cropped back. An image's smallest side is `smallest_side` = 2^depth pixels.

    Args:
        outputs: maps an image.
        width: channels of the first level (64 in the paper), doubled at each pooling.
        depth: poolings.
        standardise: see `layers.standardise`.
        dtype: of computing.
        rngs: where the parameters are drawn from.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        width: int = 64,
        depth: int = 4,
        standardise: str = 'image',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if width < 1 or depth < 1:
            raise UserError(f'width={width}, depth={depth}: U-Net needs at least 1 of each')
        self.depth = depth
        self.standardise = standardise
        self.dtype = dtype
        self.smallest_side = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = _pairs_down(1, widths, dtype=dtype, rngs=rngs)
        self.up = nnx.List([Up(channels, dtype=dtype, rngs=rngs) for channels in widths[:0:-1]])
        self.head = layers.conv(width, outputs, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict]:
        del male, rngs
        layers.require_input(image, 1, self.smallest_side, f'U-Net of depth {self.depth}')
        height, width = image.shape[1:3]
        rows = _both_sides(-height % self.smallest_side)
        columns = _both_sides(-width % self.smallest_side)
        x = layers.standardise(image, self.standardise)
        x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode='symmetric')
        *skips, x = _go_down(self.down, layers.cast(x, self.dtype))
        for up, skip in zip(self.up, reversed(skips)):
            x = up(x, skip)
        top = rows[0]
        left = columns[0]
        logits = self.head(x)[:, top : top + height, left : left + width].astype(jnp.float32)
        if self.head.out_features == 1:
            logits = logits[..., 0]
        return logits, {}


def _pairs_down(channels, widths, *, dtype, rngs):
    """A `Pair` for each level."""
    pairs = nnx.List()
    inputs = channels
    for outputs in widths:
        pairs.append(Pair(inputs, outputs, dtype=dtype, rngs=rngs))
        inputs = outputs
    return pairs


def _go_down(pairs, x):
    """The map of each level."""
    maps = []
    for pair in pairs:
        if maps:
            x = cpu.max_pool(x, 2, 2)
        x = pair(x)
        maps.append(x)
    return maps


def _both_sides(gap):
    """`gap` pixels, half of them before and the rest after."""
    return gap // 2, gap - gap // 2
