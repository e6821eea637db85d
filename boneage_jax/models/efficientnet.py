"""EfficientNet-B0 (Tan, Le, ICML 2019, table 1): torchvision's arrangement, NHWC.

Against the authors' TensorFlow code: strided convolutions pad both sides alike, and batch
normalisation has PyTorch's constants (epsilon 1e-5, momentum .1; theirs 1e-3, .01). Weights that
torchvision or timm trained expect that.
"""

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


def conv_norm(inputs, outputs, size, *, stride=1, groups=1, dtype, rngs):
    """[convolution, batch normalisation], as torchvision numbers them."""
    init = layers.kaiming_fan_out if groups == 1 else depthwise_init
    conv = layers.conv(
        inputs, outputs, size, stride=stride, groups=groups, init=init, dtype=dtype, rngs=rngs
    )
    return nnx.List([conv, layers.norm(outputs, dtype=dtype, rngs=rngs)])


class SqueezeExcitation(nnx.Module):
    """`[B, H, W, C]` -> its channels weighted by what the whole map holds (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, *, dtype, rngs: nnx.Rngs):
        self.fc1 = layers.conv(channels, squeezed, 1, bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = layers.conv(squeezed, channels, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = layers.global_average_pool(x)[:, None, None].astype(x.dtype)
        return x * jax.nn.sigmoid(self.fc2(jax.nn.silu(self.fc1(pooled))))


class MBConv(nnx.Module):
    """Widen (1x1), depthwise, squeeze and excite, narrow (1x1).

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
        dtype,
        rngs: nnx.Rngs,
    ):
        wide = inputs * expansion
        self.block = nnx.List()
        if expansion > 1:
            self.block.append(conv_norm(inputs, wide, 1, dtype=dtype, rngs=rngs))
        self.block.append(
            conv_norm(wide, wide, size, stride=stride, groups=wide, dtype=dtype, rngs=rngs)
        )
        self.block.append(SqueezeExcitation(wide, max(1, inputs // 4), dtype=dtype, rngs=rngs))
        self.block.append(conv_norm(wide, outputs, 1, dtype=dtype, rngs=rngs))
        self.residual = stride == 1 and inputs == outputs
        self.drop = nnx.Dropout(drop, broadcast_dims=(1, 2, 3))

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        *widened, excite, (conv, norm) = self.block
        y = x
        for inner, inner_norm in widened:
            y = jax.nn.silu(inner_norm(inner(y)))
        y = norm(conv(excite(y)))
        if self.residual:
            return self.drop(y, rngs=rngs) + x
        return y


class EfficientNet(nnx.Module):
    """`[B, H, W, channels]` float32 -> logits `[B, num_outputs]`, or features without a head.

    `stages(x)` gives the last map at each stride: 2, 4, 8, 16, 32 (1, 2, 4, 8, 16 with
    `stem='small'`, whose first convolution has no stride).

    Args:
        num_outputs: of the head, 0 = no head.
        channels: of the images.
        width: channels of the stem; the others in proportion, rounded to 8.
        depth: blocks in each stage, 0 = the paper's.
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
        counts = [depth or row[-1] for row in STAGES]
        inputs = rounded(width)
        self.body = nnx.List()  # torchvision's `features`, place by place
        self.body.append(
            conv_norm(channels, inputs, 3, stride=first_stride, dtype=dtype, rngs=rngs)
        )
        widths = []  # of the map at each stride
        done = 0  # blocks so far
        for (expansion, size, stride, outputs, _), count in zip(STAGES, counts, strict=True):
            if stride == 2:
                widths.append(inputs)
            outputs = rounded(outputs * width / 32)
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
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                inputs = outputs
                done += 1
            self.body.append(stage)
        self.features = 4 * inputs
        self.widths = (*widths, self.features)
        self.body.append(conv_norm(inputs, self.features, 1, dtype=dtype, rngs=rngs))
        classifier = None
        if num_outputs:
            linear = layers.linear(
                self.features, num_outputs, init=head_init, dtype=dtype, rngs=rngs
            )
            classifier = nnx.List([nnx.Dropout(dropout), linear])
        self.classifier = classifier

    def first_place(self, level: int) -> float:
        """The row, and column, of the pixel about which the first place of map `level` looks."""
        del level
        return 0.0  # every stride pads both sides alike

    def stages(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """`[B, H, W, channels]` -> five maps `[B, h, w, c]` in the compute type.

        The last one comes after the widening 1x1.
        """
        layers.require_input(x, self.channels, self.smallest_side, 'EfficientNet')
        (conv, norm), *body, (last, last_norm) = self.body
        x = jax.nn.silu(norm(conv(x)))
        maps = []
        for (_, _, stride, _, _), stage in zip(STAGES, body, strict=True):
            if stride == 2:
                maps.append(x)
            for block in stage:
                x = block(x, rngs=rngs)
        return [*maps, jax.nn.silu(last_norm(last(x)))]

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
