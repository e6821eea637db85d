"""EfficientNet-B0 (Tan, Le, ICML 2019, table 1) and -Lite: torchvision's arrangement, NHWC.

B0 against the authors' TensorFlow code: strided convolutions pad both sides alike, and batch
normalisation has PyTorch's constants (epsilon 1e-5, momentum .1; theirs 1e-3, .01). Weights that
torchvision or timm trained expect that.

Lite (Liu, Tan 2020, in the authors' code): rectifiers up to 6, nothing squeezed and excited, and
the stem, the head and the depth of the first and the last stage are those of B0 at any size. Its
weights are the authors' own, so it pads as TensorFlow does and has their epsilon. The momentum is
.1 all the same (ours): a run is shorter than ImageNet's. It reads (g - 127) / 128 of grey values g.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
from flax import nnx

from boneage_jax.models import layers

# Table 1, stages 2 to 8: expansion, kernel, stride, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# The authors' for depthwise kernels, variance 2 / size^2 (PyTorch's fan-out ignores the groups).
depthwise_init = jax.nn.initializers.variance_scaling(2.0, 'fan_in', 'truncated_normal')
# Between -1 / sqrt(outputs) and that.
head_init = jax.nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')


@dataclasses.dataclass(frozen=True)
class Variant:
    """What EfficientNets differ in.

    Attributes:
        width: factor of the channels of all stages.
        depth: factor of their numbers of blocks.
        activation: behind all but the last convolution of a block.
        excites: whether blocks squeeze and excite.
        fixed_ends: whether stem, head and the depth of the outer stages take no factor.
        padding: of the convolutions, see `layers.conv`.
        epsilon: of batch normalisation.
    """

    width: float = 1.0
    depth: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu
    excites: bool = True
    fixed_ends: bool = False
    padding: str | None = None
    epsilon: float = 1e-5


B0 = Variant()
LITE = Variant(
    activation=jax.nn.relu6, excites=False, fixed_ends=True, padding='SAME', epsilon=1e-3
)
VARIANTS = {
    'efficientnet_b0': B0,
    'efficientnet_lite0': LITE,
    'efficientnet_lite1': dataclasses.replace(LITE, depth=1.1),
    'efficientnet_lite2': dataclasses.replace(LITE, width=1.1, depth=1.2),
}


def conv_norm(inputs, outputs, size, *, stride=1, groups=1, variant=B0, dtype, rngs):
    """[convolution, batch normalisation], as torchvision numbers them."""
    conv = layers.conv(
        inputs,
        outputs,
        size,
        stride=stride,
        padding=variant.padding,
        groups=groups,
        init=layers.kaiming_fan_out if groups == 1 else depthwise_init,
        dtype=dtype,
        rngs=rngs,
    )
    norm = layers.norm(outputs, epsilon=variant.epsilon, dtype=dtype, rngs=rngs)
    return nnx.List([conv, norm])


class SqueezeExcitation(nnx.Module):
    """`[B, H, W, C]` -> its channels weighted by what the whole map holds (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, *, dtype, rngs: nnx.Rngs):
        self.fc1 = layers.conv(channels, squeezed, 1, bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = layers.conv(squeezed, channels, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = layers.global_average_pool(x)[:, None, None].astype(x.dtype)
        return x * jax.nn.sigmoid(self.fc2(jax.nn.silu(self.fc1(pooled))))


class MBConv(nnx.Module):
    """Widen (1x1), depthwise, squeeze and excite where the variant does, narrow (1x1).

    `[B, H, W, inputs]` -> `[B, H/stride, W/stride, outputs]`. Where input and output have one
    shape, they are added. In training the block itself is then left out of an image with
    probability `drop`, and scaled up where it is not (stochastic depth, Huang et al. 2016).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        size: int,
        stride: int,
        drop: float,
        variant: Variant = B0,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.activation = variant.activation
        wide = inputs * expansion
        options = {'variant': variant, 'dtype': dtype, 'rngs': rngs}
        self.block = nnx.List()
        if expansion > 1:
            self.block.append(conv_norm(inputs, wide, 1, **options))
        self.block.append(conv_norm(wide, wide, size, stride=stride, groups=wide, **options))
        if variant.excites:
            squeezed = max(1, inputs // 4)
            self.block.append(SqueezeExcitation(wide, squeezed, dtype=dtype, rngs=rngs))
        self.block.append(conv_norm(wide, outputs, 1, **options))
        self.residual = stride == 1 and inputs == outputs
        self.drop = nnx.Dropout(drop, broadcast_dims=(1, 2, 3))

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        *widened, (conv, norm) = self.block
        y = x
        for layer in widened:
            if isinstance(layer, SqueezeExcitation):
                y = layer(y)
                continue
            inner, inner_norm = layer
            y = self.activation(inner_norm(inner(y)))
        y = norm(conv(y))
        if self.residual:
            return self.drop(y, rngs=rngs) + x
        return y


class EfficientNet(nnx.Module):
    """`[B, H, W, channels]` float32 -> logits `[B, num_outputs]`, or features without a head.

    `stages(x)` gives the last map at each stride: 2, 4, 8, 16, 32 (1, 2, 4, 8, 16 with
    `stem='small'`, whose first convolution has no stride).

    Args:
        variant: which EfficientNet.
        num_outputs: of the head, 0 = no head.
        channels: of the images.
        width: channels of the stem; the others in proportion, rounded to 8.
        depth: blocks in each stage, 0 = the variant's.
        stem: 'imagenet' or 'small'.
        dropout: before the head; draws from `rngs`.
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
        variant: Variant = B0,
        *,
        num_outputs: int = 1000,
        channels: int = 3,
        width: int = 32,
        depth: int = 0,
        stem: str = 'imagenet',
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        layers.require_stem(stem)
        self.channels = channels
        self.strides = (2, 4, 8, 16, 32)
        first_stride = 2
        if stem == 'small':
            self.strides = (1, 2, 4, 8, 16)
            first_stride = 1
        self.padding = variant.padding
        self.activation = variant.activation
        counts = [depth or count for count in block_counts(variant)]
        inputs = rounded(width if variant.fixed_ends else width * variant.width)
        options = {'variant': variant, 'dtype': dtype, 'rngs': rngs}
        self.body = nnx.List()  # torchvision's `features`, place by place
        self.body.append(conv_norm(channels, inputs, 3, stride=first_stride, **options))
        widths = []  # of the map at each stride
        done = 0  # blocks so far
        for (expansion, size, stride, outputs, _), count in zip(STAGES, counts, strict=True):
            if stride == 2:
                widths.append(inputs)
            outputs = rounded(outputs * variant.width * width / 32)
            stage = nnx.List()
            for block in range(count):
                stage.append(
                    MBConv(
                        inputs,
                        outputs,
                        expansion=expansion,
                        size=size,
                        stride=1 if block else stride,
                        drop=stochastic_depth * done / sum(counts),
                        **options,
                    )
                )
                inputs = outputs
                done += 1
            self.body.append(stage)
        self.features = rounded(40 * width) if variant.fixed_ends else 4 * inputs
        self.widths = (*widths, self.features)
        self.body.append(conv_norm(inputs, self.features, 1, **options))
        classifier = None
        if num_outputs:
            linear = layers.linear(
                self.features, num_outputs, init=head_init, dtype=dtype, rngs=rngs
            )
            classifier = nnx.List([nnx.Dropout(dropout), linear])
        self.classifier = classifier

    def first_place(self, level: int) -> float:
        """The row, and column, of the pixel about which the first place of map `level` looks.

        Of Lite it is for images whose sides are multiples of the map's stride.
        """
        if self.padding == 'SAME':
            return float(self.strides[level] - 1)  # every stride pads one more at the end
        return 0.0  # every stride pads both sides alike

    def stages(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """`[B, H, W, channels]` -> five maps `[B, h, w, c]` in the compute type.

        The last one comes after the widening 1x1.
        """
        layers.require_input(x, self.channels, self.smallest_side, 'EfficientNet')
        (conv, norm), *body, (last, last_norm) = self.body
        x = self.activation(norm(conv(x)))
        maps = []
        for (_, _, stride, _, _), stage in zip(STAGES, body, strict=True):
            if stride == 2:
                maps.append(x)
            for block in stage:
                x = block(x, rngs=rngs)
        return [*maps, self.activation(last_norm(last(x)))]

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        features = layers.global_average_pool(self.stages(x, rngs=rngs)[-1])
        if self.classifier is None:
            return features
        dropout, linear = self.classifier
        return linear(dropout(features, rngs=rngs))


def rounded(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, never less than nine tenths of them.

    As in Tan and Le's code.
    """
    near = max(8, int(channels + 4) // 8 * 8)
    if near < 0.9 * channels:
        near += 8
    return near


def block_counts(variant: Variant) -> list[int]:
    """Blocks in each of the seven stages."""
    counts = [math.ceil(count * variant.depth) for *_, count in STAGES]
    if variant.fixed_ends:
        counts[0] = STAGES[0][-1]
        counts[-1] = STAGES[-1][-1]
    return counts


def build(name: str, **options) -> EfficientNet:
    """The `EfficientNet` of that name in VARIANTS."""
    return EfficientNet(VARIANTS[name], **options)
