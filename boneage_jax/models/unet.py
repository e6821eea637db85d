"""U-Net with batch normalisation (Ronneberger, Fischer and Brox, MICCAI 2015; Iglovikov 2018,
section 3.2).

Two 3x3 convolutions a level, each with batch normalisation and ReLU; 2x2 max-pooling down, a 2x2
transposed convolution up, the level's own map concatenated. Unlike Ronneberger's, convolutions are
padded, so the logits have the image's size.
"""

import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers
from tfds_rsna.errors import UserError


class Pair(nnx.Module):
    """Convolution, batch normalisation, ReLU, twice; the size stays."""

    def __init__(self, inputs, outputs, *, dtype, rngs):
        self.conv1 = layers.conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm1 = layers.norm(outputs, dtype=dtype, rngs=rngs)
        self.conv2 = layers.conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm2 = layers.norm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.norm2(self.conv2(x)))


class Up(nnx.Module):
    """`(x [B, h, w, C], skip [B, 2h, 2w, C/2])` -> `[B, 2h, 2w, C/2]`.

    The transposed convolution's taps do not overlap, so it is a dense layer on each pixel whose
    outputs are laid out as 2x2: the same numbers, and several times faster on a CPU.
    """

    def __init__(self, inputs, *, dtype, rngs):
        self.half = inputs // 2
        self.grow = layers.conv(inputs, 4 * self.half, 1, bias=True, dtype=dtype, rngs=rngs)
        self.pair = Pair(inputs, self.half, dtype=dtype, rngs=rngs)

    def __call__(self, x, skip):
        batch, height, width, _ = x.shape
        x = self.grow(x).reshape(batch, height, width, 2, 2, self.half)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, self.half)
        return self.pair(jnp.concatenate([skip, x], axis=-1))


class Encoder(nnx.Module):
    """The way down of a U-Net, whose names it has: as a backbone it takes a trained one's
    (`init_parts=('backbone/down=down',)`).

    `stages(x [B, H, W, channels]) -> [B, H / 2^level, W / 2^level, width 2^level]`, one for each
    level, the image's own first. Borders are not mirrored: what does not fill a place of the next
    level is left out.
    """

    def __init__(
        self, *, num_outputs=0, channels=1, width=64, depth=4, stem='imagenet', dtype=None, rngs
    ):
        del num_outputs, stem  # of the backbones' interface: an encoder has neither
        depth = depth or 4
        if width < 1:
            raise UserError(f'width={width}: U-Net needs at least 1')
        self.channels, self.smallest_side = channels, 2**depth
        self.strides = tuple(2**level for level in range(depth + 1))
        self.widths = tuple(width * 2**level for level in range(depth + 1))
        self.features = self.widths[-1]
        self.down = nnx.List(
            [
                Pair(inputs, outputs, dtype=dtype, rngs=rngs)
                for inputs, outputs in zip([channels, *self.widths], self.widths)
            ]
        )

    def first_place(self, level):
        """The row, and column, of the pixel about which the first place of map `level` looks."""
        return (self.strides[level] - 1) / 2

    def stages(self, x, *, rngs=None):
        layers.require_input(
            x, self.channels, self.smallest_side, f'U-Net of depth {len(self.strides) - 1}'
        )
        maps = []
        for pair in self.down:
            maps.append(pair(cpu.max_pool(maps[-1], 2, 2) if maps else x))
        return maps


class UNet(nnx.Module):
    """`model(image [B, H, W, 1] in [0, 1], male, rngs=None) -> (logits [B, H, W] float32, aux)` for
    any H and W.

    The sex is not read. `width`: channels of the first level (64 in the paper), doubled at each of
    `depth` poolings. Images are mirrored at their border up to a multiple of 2^depth inside, and
    the logits are cropped back. An image's smallest side is `smallest_side` = 2^depth pixels. With
    several `outputs` K the logits are `[B, H, W, K]`.
    """

    def __init__(self, *, outputs=1, width=64, depth=4, standardise='image', dtype=None, rngs):
        if width < 1 or depth < 1:
            raise UserError(f'width={width}, depth={depth}: U-Net needs at least 1 of each')
        self.depth, self.standardise, self.dtype = depth, standardise, dtype
        self.smallest_side = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nnx.List(
            [
                Pair(inputs, outputs, dtype=dtype, rngs=rngs)
                for inputs, outputs in zip([1, *widths], widths)
            ]
        )
        self.up = nnx.List([Up(channels, dtype=dtype, rngs=rngs) for channels in widths[:0:-1]])
        self.head = layers.conv(width, outputs, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, image, male, *, rngs=None):
        del male, rngs
        layers.require_input(image, 1, self.smallest_side, f'U-Net of depth {self.depth}')
        height, width = image.shape[1:3]
        gaps = [(-side % self.smallest_side) for side in (height, width)]
        top, left = gaps[0] // 2, gaps[1] // 2
        x = layers.standardise(image, self.standardise)
        x = jnp.pad(
            x, ((0, 0), (top, gaps[0] - top), (left, gaps[1] - left), (0, 0)), mode='symmetric'
        )
        x = x if self.dtype is None else x.astype(self.dtype)
        skips = []
        for level, pair in enumerate(self.down):
            x = pair(x if level == 0 else cpu.max_pool(x, 2, 2))
            skips.append(x)
        for up, skip in zip(self.up, reversed(skips[:-1])):
            x = up(x, skip)
        logits = self.head(x)[:, top : top + height, left : left + width].astype(jnp.float32)
        return logits[..., 0] if self.head.out_features == 1 else logits, {}
