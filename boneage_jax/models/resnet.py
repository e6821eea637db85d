"""ResNet-18 and ResNet-34 (He, Zhang, Ren, Sun, CVPR 2016, table 1): torchvision's arrangement, NHWC."""

import jax
from flax import nnx

from boneage_jax.models import layers
from tfds_rsna.errors import UserError

BLOCKS = {'resnet18': (2, 2, 2, 2), 'resnet34': (3, 4, 6, 3)}  # basic blocks in res2, res3, res4, res5


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut: `[B, H, W, inputs]` -> `[B, H/stride, W/stride, outputs]`."""

    def __init__(self, inputs, outputs, *, stride, dtype, rngs):
        self.conv1 = layers.conv(inputs, outputs, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm1 = layers.norm(outputs, dtype=dtype, rngs=rngs)
        self.conv2 = layers.conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm2 = layers.norm(outputs, dtype=dtype, rngs=rngs)
        project = stride != 1 or inputs != outputs
        self.shortcut = layers.conv(inputs, outputs, 1, stride=stride, dtype=dtype, rngs=rngs) if project else None
        self.shortcut_norm = layers.norm(outputs, dtype=dtype, rngs=rngs) if project else None

    def __call__(self, x):
        shortcut = x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        return jax.nn.relu(self.norm2(self.conv2(x)) + shortcut)


class ResNet(nnx.Module):
    """The whole network: `[B, H, W, channels]` float32 -> logits `[B, num_outputs]`.

    `stages(x)` gives the feature maps res2..res5, strides 4, 8, 16, 32 (1, 2, 4, 8 with `stem='small'`: 3x3, no stride,
    no pool, for small films). `depth` > 0 overrides the number of blocks in each stage, `width` the channels of res2.
    Raises UserError for an input with a side below 32 pixels.
    """

    smallest_side = 32

    def __init__(self, blocks, *, num_outputs=1000, channels=3, width=64, depth=0, stem='imagenet', dtype=None, rngs):
        if stem not in ('imagenet', 'small'):
            raise UserError(f"stem={stem!r}: expected 'imagenet' or 'small'")
        blocks = (depth,) * len(blocks) if depth else blocks
        self.small_stem = stem == 'small'
        self.stem = layers.conv(channels, width, 3 if self.small_stem else 7, stride=1 if self.small_stem else 2,
                                dtype=dtype, rngs=rngs)
        self.stem_norm = layers.norm(width, dtype=dtype, rngs=rngs)
        self.res = nnx.List()
        inputs = width
        for level, count in enumerate(blocks):
            outputs = width << level
            stage = nnx.List()
            for block in range(count):
                stride = 2 if level > 0 and block == 0 else 1
                stage.append(BasicBlock(inputs, outputs, stride=stride, dtype=dtype, rngs=rngs))
                inputs = outputs
            self.res.append(stage)
        self.features = inputs
        self.head = layers.linear(inputs, num_outputs, dtype=dtype, rngs=rngs) if num_outputs else None

    def stages(self, x):
        """`[B, H, W, channels]` -> `[res2, res3, res4, res5]`, each `[B, h, w, c]` in the compute type."""
        if min(x.shape[1:3]) < self.smallest_side:
            raise UserError(f'ResNet takes images of at least {self.smallest_side} pixels a side, '
                             f'found {x.shape[1]}x{x.shape[2]}; set data.size')
        x = jax.nn.relu(self.stem_norm(self.stem(x)))
        if not self.small_stem:
            x = layers.max_pool_3x3(x)
        maps = []
        for stage in self.res:
            for block in stage:
                x = block(x)
            maps.append(x)
        return maps

    def __call__(self, x):
        return self.head(layers.global_average_pool(self.stages(x)[-1]))
