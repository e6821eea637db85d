"""Inception-V3 (Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016), NHWC.

Arrangement and names are torchvision's. Against the paper: its table 1 is not the network that the
authors released and everybody uses, which this is. Average pools count the zeros at the border (the
authors' do not). torchvision's weights come from the authors', and expect pixels as (x - 0.5) /
0.5, not ImageNet's mean and deviation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers
from tfds_rsna.errors import UserError


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max-pool, stride 2, no padding."""
    return cpu.max_pool(x, 3, 2)


def average_pool(x: jax.Array) -> jax.Array:
    """3x3 average pool, stride 1; zeros beyond the border count."""
    return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding=((1, 1), (1, 1)))


def chain(x: jax.Array, *layers: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The last layer's output, each fed with the one before."""
    for layer in layers:
        x = layer(x)
    return x


class ConvNorm(nnx.Module):
    """Convolution, batch normalisation (epsilon 1e-3), rectifier; `padding` as in layers.conv."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | None = None,
        deviation: float = 0.1,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.conv = layers.conv(
            inputs,
            outputs,
            size,
            stride=stride,
            padding=padding,
            init=nnx.initializers.normal(deviation),
            dtype=dtype,
            rngs=rngs,
        )
        self.bn = layers.norm(outputs, epsilon=1e-3, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.bn(self.conv(x)))


# The blocks. `conv(inputs, outputs, size, ...)` makes a ConvNorm from the channels of the full
# network. All map `[B, H, W, inputs]` to their branches side by side; B and D halve the grid.


class InceptionA(nnx.Module):
    """Figure 5: 1x1, 5x5, two 3x3, a pool."""

    def __init__(self, conv: Callable[..., ConvNorm], inputs: int, pooled: int):
        self.branch1x1 = conv(inputs, 64, 1)
        self.branch5x5_1 = conv(inputs, 48, 1)
        self.branch5x5_2 = conv(48, 64, 5)
        self.branch3x3dbl_1 = conv(inputs, 64, 1)
        self.branch3x3dbl_2 = conv(64, 96, 3)
        self.branch3x3dbl_3 = conv(96, 96, 3)
        self.branch_pool = conv(inputs, pooled, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                self.branch1x1(x),
                chain(x, self.branch5x5_1, self.branch5x5_2),
                chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
                chain(x, average_pool, self.branch_pool),
            ],
            axis=-1,
        )


class InceptionB(nnx.Module):
    """Figure 10: 35x35 to 17x17."""

    def __init__(self, conv: Callable[..., ConvNorm], inputs: int):
        self.branch3x3 = conv(inputs, 384, 3, stride=2, padding=0)
        self.branch3x3dbl_1 = conv(inputs, 64, 1)
        self.branch3x3dbl_2 = conv(64, 96, 3)
        self.branch3x3dbl_3 = conv(96, 96, 3, stride=2, padding=0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                self.branch3x3(x),
                chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
                max_pool(x),
            ],
            axis=-1,
        )


class InceptionC(nnx.Module):
    """Figure 6 with n = 7: 7x7 convolutions as 1x7 and 7x1."""

    def __init__(self, conv: Callable[..., ConvNorm], inputs: int, inner: int):
        self.branch1x1 = conv(inputs, 192, 1)
        self.branch7x7_1 = conv(inputs, inner, 1)
        self.branch7x7_2 = conv(inner, inner, (1, 7))
        self.branch7x7_3 = conv(inner, 192, (7, 1))
        self.branch7x7dbl_1 = conv(inputs, inner, 1)
        self.branch7x7dbl_2 = conv(inner, inner, (7, 1))
        self.branch7x7dbl_3 = conv(inner, inner, (1, 7))
        self.branch7x7dbl_4 = conv(inner, inner, (7, 1))
        self.branch7x7dbl_5 = conv(inner, 192, (1, 7))
        self.branch_pool = conv(inputs, 192, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                self.branch1x1(x),
                chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
                chain(
                    x,
                    self.branch7x7dbl_1,
                    self.branch7x7dbl_2,
                    self.branch7x7dbl_3,
                    self.branch7x7dbl_4,
                    self.branch7x7dbl_5,
                ),
                chain(x, average_pool, self.branch_pool),
            ],
            axis=-1,
        )


class InceptionD(nnx.Module):
    """17x17 to 8x8."""

    def __init__(self, conv: Callable[..., ConvNorm], inputs: int):
        self.branch3x3_1 = conv(inputs, 192, 1)
        self.branch3x3_2 = conv(192, 320, 3, stride=2, padding=0)
        self.branch7x7x3_1 = conv(inputs, 192, 1)
        self.branch7x7x3_2 = conv(192, 192, (1, 7))
        self.branch7x7x3_3 = conv(192, 192, (7, 1))
        self.branch7x7x3_4 = conv(192, 192, 3, stride=2, padding=0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                chain(x, self.branch3x3_1, self.branch3x3_2),
                chain(
                    x,
                    self.branch7x7x3_1,
                    self.branch7x7x3_2,
                    self.branch7x7x3_3,
                    self.branch7x7x3_4,
                ),
                max_pool(x),
            ],
            axis=-1,
        )


class InceptionE(nnx.Module):
    """Figure 7: branches that fork into 1x3 and 3x1."""

    def __init__(self, conv: Callable[..., ConvNorm], inputs: int):
        self.branch1x1 = conv(inputs, 320, 1)
        self.branch3x3_1 = conv(inputs, 384, 1)
        self.branch3x3_2a = conv(384, 384, (1, 3))
        self.branch3x3_2b = conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = conv(inputs, 448, 1)
        self.branch3x3dbl_2 = conv(448, 384, 3)
        self.branch3x3dbl_3a = conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = conv(384, 384, (3, 1))
        self.branch_pool = conv(inputs, 192, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        single = self.branch3x3_1(x)
        double = chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        return jnp.concatenate(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                chain(x, average_pool, self.branch_pool),
            ],
            axis=-1,
        )


class InceptionAux(nnx.Module):
    """The auxiliary head (figure 8): `[B, H, W, inputs]` -> logits `[B, num_outputs]`.

    H and W are 17 or more.
    """

    def __init__(
        self,
        conv: Callable[..., ConvNorm],
        inputs: int,
        features: int,
        num_outputs: int,
        *,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.conv0 = conv(inputs, 128, 1)
        self.conv1 = conv(128, 768, 5, padding=0, deviation=0.01)
        self.fc = layers.linear(
            features, num_outputs, init=nnx.initializers.normal(0.001), dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.avg_pool(x, (5, 5), strides=(3, 3))
        return self.fc(layers.global_average_pool(self.conv1(self.conv0(x))))


class InceptionV3(nnx.Module):
    """`[B, H, W, channels]` float32 -> logits `[B, num_outputs]`, or features without a head.

    With `aux_logits` a call in training mode gives (logits, auxiliary logits), both `[B,
    num_outputs]`; the authors add the second's loss at weight 0.3 (0.4 in torchvision's recipe). In
    evaluation the auxiliary head is idle.

    `stages(x)` gives the last map of each grid: strides 2, 4, 8, 16, 32, less a border, since the
    stem does not pad (299 pixels: 147, 71, 35, 17, 8). `stem='small'` takes the stride from the
    first convolution and leaves out the first max-pool: strides 1, 1, 2, 4, 8, at 112 pixels twice
    the work of 299 with the original stem.

    Args:
        num_outputs: of the head, 0 = no head.
        channels: of the images.
        width: channels of the first convolution, an even number; all others in proportion.
        depth: how many of the equal blocks of each grid are kept, 0 = all.
        stem: 'imagenet' or 'small'.
        dropout: before the head; draws from `rngs`.
        aux_logits: whether there is an auxiliary head.
        dtype: of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: when called, a side below 75 pixels (21 with `stem='small'`), in training with
            `aux_logits` below 299 (77).
    """

    smallest_side = 75

    def __init__(
        self,
        *,
        num_outputs: int = 1000,
        channels: int = 3,
        width: int = 32,
        depth: int = 0,
        stem: str = 'imagenet',
        dropout: float = 0.5,
        aux_logits: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        layers.require_stem(stem)
        if width < 2 or width % 2:
            raise UserError(f'width={width}: expected an even number; 32 is the full network')

        def scaled(channels):
            return channels * width // 32

        def conv(inputs, outputs, size, **options):
            return ConvNorm(
                scaled(inputs), scaled(outputs), size, **options, dtype=dtype, rngs=rngs
            )

        self.small_stem = stem == 'small'
        self.channels = channels
        self.deterministic = False  # eval() and train() set it, as in nnx.Dropout
        if self.small_stem:
            stride = 1
            self.strides = (1, 1, 2, 4, 8)
            self.first_places = (2, 3, 4, 6, 10)
            self.smallest_side = 21
            self.smallest_side_aux = 77
        else:
            stride = 2
            self.strides = (2, 4, 8, 16, 32)
            self.first_places = (3, 9, 13, 21, 37)
            self.smallest_side = 75
            self.smallest_side_aux = 299
        finest = 256 if depth == 1 else 288  # channels of the 35x35 grid
        self.widths = tuple(scaled(channels) for channels in (64, 192, finest, 768, 2048))
        self.features = self.widths[-1]
        self.Conv2d_1a_3x3 = ConvNorm(
            channels,
            scaled(32),
            3,
            stride=stride,
            padding=0,
            dtype=dtype,
            rngs=rngs,
        )
        self.Conv2d_2a_3x3 = conv(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = conv(32, 64, 3)
        self.Conv2d_3b_1x1 = conv(64, 80, 1)
        self.Conv2d_4a_3x3 = conv(80, 192, 3, padding=0)
        grids = []
        for grid in _grids(finest, depth):
            names = []
            for suffix, block, *numbers in grid:
                names.append(f'Mixed_{suffix}')
                setattr(self, names[-1], block(conv, *numbers))
            grids.append(tuple(names))
        self.grids = tuple(grids)
        auxiliary = None
        if num_outputs and aux_logits:
            auxiliary = InceptionAux(conv, 768, scaled(768), num_outputs, dtype=dtype, rngs=rngs)
        self.AuxLogits = auxiliary
        self.dropout = nnx.Dropout(dropout)
        head = None
        if num_outputs:
            head = layers.linear(
                self.features,
                num_outputs,
                init=nnx.initializers.normal(0.1),
                dtype=dtype,
                rngs=rngs,
            )
        self.fc = head

    def first_place(self, level: int) -> int:
        """The row, and column, of the pixel about which the first place of map `level` looks.

        Nothing there is padded.
        """
        return self.first_places[level]

    def stages(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """`[B, H, W, channels]` -> five maps `[B, h, w, c]` in the compute type."""
        layers.require_input(x, self.channels, self.smallest_side, 'Inception-V3')
        x = chain(x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)
        maps = [x]
        if not self.small_stem:
            x = max_pool(x)
        x = chain(x, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3)
        maps.append(x)
        x = max_pool(x)
        for grid in self.grids:
            for name in grid:
                x = getattr(self, name)(x)
            maps.append(x)
        return maps

    def __call__(
        self, x: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        auxiliary = self.AuxLogits is not None and not self.deterministic
        if auxiliary and min(x.shape[1:3]) < self.smallest_side_aux:
            raise UserError(
                'the auxiliary head of Inception-V3 trains on images of at least '
                f'{self.smallest_side_aux} pixels a side, found {x.shape[1]}x{x.shape[2]}; '
                'set aux_logits=False, or data.size'
            )
        maps = self.stages(x)
        features = layers.global_average_pool(maps[-1])
        if self.fc is None:
            return features
        logits = self.fc(self.dropout(features, rngs=rngs))
        if auxiliary:
            return logits, self.AuxLogits(maps[-2])
        return logits


def _grids(finest, depth):
    """[[(name, block, its channels, ...), ...] of the 35x35, the 17x17 and the 8x8 grid].

    `finest` is the channels of the first; `depth` > 0 keeps so many of a grid's equal blocks.
    """
    count = depth or 4
    first = [
        ('5b', InceptionA, 192, 32),
        ('5c', InceptionA, 256, 64),
        ('5d', InceptionA, 288, 64),
    ]
    second = [
        ('6b', InceptionC, 480 + finest, 128),
        ('6c', InceptionC, 768, 160),
        ('6d', InceptionC, 768, 160),
        ('6e', InceptionC, 768, 192),
    ]
    third = [('7b', InceptionE, 1280), ('7c', InceptionE, 2048)]
    return [
        first[:count],
        [('6a', InceptionB, finest), *second[:count]],
        [('7a', InceptionD, 768), *third[:count]],
    ]
