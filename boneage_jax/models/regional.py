"""The VGG-style age net for one region of the hand.

Iglovikov, Rakhlin, Kalinin, Shvets (2018), section 2.3 and figure 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers
from tfds_rsna.errors import UserError

# Side of a block's second kernel: the second author's released code, the usual VGG block.
SECOND = {'1x1': 1, '3x3': 3}


def map_size(size: tuple[int, int], blocks: int) -> tuple[int, int]:
    """(rows, columns) of an image of `size` after `blocks` unpadded 3x3 max-pools of stride 2."""
    rows, columns = size
    for _ in range(blocks):
        rows = (rows - 1) // 2
        columns = (columns - 1) // 2
    return rows, columns


def smallest_side(blocks: int) -> int:
    """The fewest pixels a side that leave one pixel after so many blocks.

    127 after six, 31 after four.
    """
    return 2 ** (blocks + 1) - 1


class RegionalNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male)` -> `(prediction float32, {})`; the sex is not read.

    The prediction is `[B]`, a normalised age, for one output, else logits `[B, outputs]` (240: a
    class a month, `losses.expected_age`).

    A block is conv 3x3, ELU, batch norm, conv `second`, ELU, batch norm, max-pool 3x3 of stride 2,
    unpadded. Then twice dropout and a dense layer with ELU, then the head. The dense layers read
    every place of the last map, 6 x 4 x 384 of 500x375, so that images have one size.

    Args:
        size: (rows, columns) of the images.
        widths: channels of each block.
        second: '1x1' or '3x3', a block's second convolution.
        hidden_units: of each of the two dense layers.
        dropout: before each of them; draws from `rngs`.
        outputs: numbers an image.
        standardise: see `layers.standardise`; 'range' is the paper's (x - 127.5) / 127.5 of grey
            values.
        dtype: of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: images too small for the blocks, another `second`; when called, images of another
            size.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (500, 375),
        widths: Sequence[int] = (32, 64, 128, 128, 256, 384),
        second: str = '1x1',
        hidden_units: int = 2048,
        dropout: float = 0.3,
        outputs: int = 1,
        standardise: str = 'range',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if second not in SECOND:
            raise UserError(f'model.second={second!r}: expected one of {", ".join(SECOND)}')
        least = smallest_side(len(widths))
        if min(size) < least:
            raise UserError(
                f'data.size={tuple(size)}: {len(widths)} blocks (model.widths) need at least '
                f'{least} pixels a side; give larger images or fewer blocks '
                f'(four take {smallest_side(4)} pixels)'
            )
        self.size = tuple(size)
        self.outputs = outputs
        self.standardise = standardise
        self.dtype = dtype

        def conv(inputs, outputs, side):
            return layers.conv(inputs, outputs, side, bias=True, dtype=dtype, rngs=rngs)

        def norm(features):
            return layers.norm(features, dtype=dtype, rngs=rngs)

        self.blocks = nnx.List()
        inputs = 1
        for width in widths:
            block = [conv(inputs, width, 3), norm(width)]
            block += [conv(width, width, SECOND[second]), norm(width)]
            self.blocks.append(nnx.List(block))
            inputs = width
        rows, columns = map_size(size, len(widths))
        self.flat = rows * columns * inputs
        self.dense = nnx.List(
            [
                layers.linear(self.flat, hidden_units, dtype=dtype, rngs=rngs),
                layers.linear(hidden_units, hidden_units, dtype=dtype, rngs=rngs),
            ]
        )
        self.dropout = nnx.Dropout(dropout)
        self.head = layers.linear(hidden_units, outputs, rngs=rngs)

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict]:
        del male
        layers.require_size(image, self.size, 'network')
        x = layers.cast(layers.standardise(image, self.standardise), self.dtype)
        for first, first_norm, second, second_norm in self.blocks:
            x = first_norm(nnx.elu(first(x)))
            x = second_norm(nnx.elu(second(x)))
            x = cpu.max_pool(x, 3, 2)
        x = x.reshape(x.shape[0], self.flat)
        for layer in self.dense:
            x = nnx.elu(layer(self.dropout(x, rngs=rngs)))
        prediction = self.head(x.astype(jnp.float32))
        if self.outputs == 1:
            prediction = prediction[:, 0]
        return prediction, {}
