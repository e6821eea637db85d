"""VGG16 with and without batch normalisation (Simonyan, Zisserman, ICLR 2015, configuration D).

The arrangement is torchvision's. Against the paper: the map that the dense layers read is averaged
to 7x7 whatever the input's size, the initial values are He's (2015), and batch normalisation, where
switched on, comes before each rectifier.
"""

import jax
from flax import nnx

from boneage_jax.models import cpu, layers

CONVOLUTIONS = (2, 2, 3, 3, 3)  # in each of the five stages
POOLED = 7  # side of the map that the dense layers read


def max_pool_2x2(x: jax.Array) -> jax.Array:
    return cpu.max_pool(x, 2, 2)


class VGG(nnx.Module):
    """`[B, H, W, channels]` float32 -> logits `[B, num_outputs]`, or features without a head.

    `stages(x)` gives the five maps after their max-pools, strides 2, 4, 8, 16, 32 (1, 2, 4, 8, 16
    with `stem='small'`, which leaves the first pool out: 96 pixels end at 6x6).

    Args:
        batch_norm: whether there is batch normalisation.
        num_outputs: of the head, 0 = no head.
        channels: of the images.
        width: channels of the first stage; the dense layers have 64 times as many.
        depth: convolutions in each stage, 0 = the paper's.
        stem: 'imagenet' or 'small'.
        dropout: after either hidden dense layer; draws from `rngs`.
        dtype: of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: when called, images with a side below 32 pixels.
    """

    smallest_side = 32

    def __init__(
        self,
        *,
        batch_norm: bool = False,
        num_outputs: int = 1000,
        channels: int = 3,
        width: int = 64,
        depth: int = 0,
        stem: str = 'imagenet',
        dropout: float = 0.5,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        layers.require_stem(stem)
        self.channels = channels
        self.small_stem = stem == 'small'
        self.strides = (1, 2, 4, 8, 16) if self.small_stem else (2, 4, 8, 16, 32)
        self.widths = tuple(width << min(level, 3) for level in range(len(CONVOLUTIONS)))
        self.features = self.widths[-1]
        self.body = nnx.List()  # torchvision's `features`, place by place
        inputs = channels
        for outputs, count in zip(self.widths, CONVOLUTIONS):
            for _ in range(depth or count):
                self.body.append(layers.conv(inputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs))
                if batch_norm:
                    self.body.append(layers.norm(outputs, dtype=dtype, rngs=rngs))
                self.body.append(jax.nn.relu)
                inputs = outputs
            self.body.append(max_pool_2x2)
        classifier = None
        if num_outputs:
            classifier = self._classifier(num_outputs, 64 * width, dropout, dtype, rngs)
        self.classifier = classifier

    def _classifier(self, num_outputs, hidden, dropout, dtype, rngs):
        def linear(inputs, outputs):
            return layers.linear(
                inputs, outputs, init=nnx.initializers.normal(0.01), dtype=dtype, rngs=rngs
            )

        return nnx.List(
            [
                linear(POOLED * POOLED * self.features, hidden),
                jax.nn.relu,
                nnx.Dropout(dropout),
                linear(hidden, hidden),
                jax.nn.relu,
                nnx.Dropout(dropout),
                linear(hidden, num_outputs),
            ]
        )

    def first_place(self, level: int) -> float:
        """The row, and column, of the pixel about which the first place of map `level` looks."""
        return (self.strides[level] - 1) / 2  # the middle of the pixels that were pooled

    def stages(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """`[B, H, W, channels]` -> five maps `[B, h, w, c]` in the compute type.

        Each comes after its max-pool.
        """
        layers.require_input(x, self.channels, self.smallest_side, 'VGG')
        maps = []
        for layer in self.body:
            if layer is not max_pool_2x2:
                x = layer(x)
                continue
            first = not maps
            if not (first and self.small_stem):
                x = max_pool_2x2(x)
            maps.append(x)
        return maps

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stages(x)[-1]
        if self.classifier is None:
            return layers.global_average_pool(x)
        x = layers.average_pool_to(x, POOLED).reshape(x.shape[0], -1)  # rows, columns, channels
        for layer in self.classifier:
            x = layer(x, rngs=rngs) if isinstance(layer, nnx.Dropout) else layer(x)
        return x
