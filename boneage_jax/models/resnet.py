"""ResNet-18, -34 and -50 (He, Zhang, Ren, Sun, CVPR 2016, table 1), as torchvision has them, NHWC.

Against the paper: in ResNet-50 the 3x3 convolution of a block takes the stride, not the first 1x1
("version 1.5").
"""

import jax
from flax import nnx

from boneage_jax.models import layers

# Blocks in res2, res3, res4, res5.
BLOCKS = {'resnet18': (2, 2, 2, 2), 'resnet34': (3, 4, 6, 3)}
BOTTLENECKS = {'resnet50': (3, 4, 6, 3)}


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut.

    `[B, H, W, inputs]` -> `[B, H/stride, W/stride, width]`.
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, dtype, rngs: nnx.Rngs):
        self.conv1 = layers.conv(inputs, width, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm1 = layers.norm(width, dtype=dtype, rngs=rngs)
        self.conv2 = layers.conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.norm2 = layers.norm(width, dtype=dtype, rngs=rngs)
        self.shortcut, self.shortcut_norm = _shortcut(
            inputs, width, stride=stride, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        return jax.nn.relu(self.norm2(self.conv2(x)) + shortcut)


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut.

    `[B, H, W, inputs]` -> `[B, H/stride, W/stride, 4 width]`.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, dtype, rngs: nnx.Rngs):
        outputs = self.expansion * width
        self.conv1 = layers.conv(inputs, width, 1, dtype=dtype, rngs=rngs)
        self.norm1 = layers.norm(width, dtype=dtype, rngs=rngs)
        self.conv2 = layers.conv(width, width, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm2 = layers.norm(width, dtype=dtype, rngs=rngs)
        self.conv3 = layers.conv(width, outputs, 1, dtype=dtype, rngs=rngs)
        self.norm3 = layers.norm(outputs, dtype=dtype, rngs=rngs)
        self.shortcut, self.shortcut_norm = _shortcut(
            inputs, outputs, stride=stride, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        x = jax.nn.relu(self.norm2(self.conv2(x)))
        return jax.nn.relu(self.norm3(self.conv3(x)) + shortcut)


def _shortcut(inputs, outputs, *, stride, dtype, rngs):
    """The 1x1 convolution and norm that fit the shortcut to the block's output.

    None, None where it fits as it is.
    """
    if stride == 1 and inputs == outputs:
        return None, None
    return (
        layers.conv(inputs, outputs, 1, stride=stride, dtype=dtype, rngs=rngs),
        layers.norm(outputs, dtype=dtype, rngs=rngs),
    )


class ResNet(nnx.Module):
    """`[B, H, W, channels]` float32 -> logits `[B, num_outputs]`, or features without a head.

    `stages(x)` gives res2..res5, strides 4, 8, 16, 32 (1, 2, 4, 8 with `stem='small'`: 3x3, no
    stride, no pool, for small images).

    Args:
        blocks: their number in each stage.
        block: `BasicBlock` or `Bottleneck`.
        num_outputs: of the head, 0 = no head.
        channels: of the images.
        width: channels that res2's blocks work in, doubled at each stage.
        depth: blocks in each stage, 0 = `blocks`.
        stem: 'imagenet' or 'small'.
        dtype: of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: when called, images with a side below 32 pixels.
    """

    smallest_side = 32

    def __init__(
        self,
        blocks: tuple[int, ...],
        *,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        num_outputs: int = 1000,
        channels: int = 3,
        width: int = 64,
        depth: int = 0,
        stem: str = 'imagenet',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        layers.require_stem(stem)
        if depth:
            blocks = (depth,) * len(blocks)
        self.channels = channels
        self.small_stem = stem == 'small'
        if self.small_stem:
            size = 3
            stride = 1
            self.strides = (1, 2, 4, 8)
        else:
            size = 7
            stride = 2
            self.strides = (4, 8, 16, 32)
        self.widths = tuple(block.expansion * width << level for level in range(len(blocks)))
        self.features = self.widths[-1]
        self.stem = layers.conv(
            channels,
            width,
            size,
            stride=stride,
            dtype=dtype,
            rngs=rngs,
        )
        self.stem_norm = layers.norm(width, dtype=dtype, rngs=rngs)
        self.res = nnx.List()
        inputs = width
        for level, count in enumerate(blocks):
            stage = nnx.List()
            for number in range(count):
                stride = 2 if level > 0 and number == 0 else 1
                stage.append(block(inputs, width << level, stride=stride, dtype=dtype, rngs=rngs))
                inputs = self.widths[level]
            self.res.append(stage)
        head = None
        if num_outputs:
            head = layers.linear(inputs, num_outputs, dtype=dtype, rngs=rngs)
        self.head = head

    def first_place(self, level: int) -> float:
        """The row, and column, of the pixel about which the first place of map `level` looks."""
        del level
        return 0.0  # every stride pads both sides alike

    def stages(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """`[B, H, W, channels]` -> [res2, res3, res4, res5], `[B, h, w, c]` in the compute type."""
        layers.require_input(x, self.channels, self.smallest_side, 'ResNet')
        x = jax.nn.relu(self.stem_norm(self.stem(x)))
        if not self.small_stem:
            x = layers.max_pool_3x3(x)
        maps = []
        for stage in self.res:
            for block in stage:
                x = block(x)
            maps.append(x)
        return maps

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        features = layers.global_average_pool(self.stages(x)[-1])
        if self.head is None:
            return features
        return self.head(features)


def build(name: str, **options) -> ResNet:
    """The `ResNet` called resnet18, resnet34 or resnet50."""
    block = Bottleneck if name in BOTTLENECKS else BasicBlock
    return ResNet((BLOCKS | BOTTLENECKS)[name], block=block, **options)
