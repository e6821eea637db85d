"""The VGG-style age net of Iglovikov, Rakhlin, Kalinin, Shvets (2018, section 2.3 and Fig. 3), for
one region of the hand.
"""

import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers
from tfds_rsna.errors import UserError

SECOND = {
    '1x1': 1,
    '3x3': 3,
}  # side of a block's second kernel: the second author's released code | the usual VGG block


def map_size(size, blocks):
    """(rows, columns) that an image of `size` has after `blocks` unpadded 3x3 max-pools of stride
    2.
    """
    for _ in range(blocks):
        size = tuple((side - 1) // 2 for side in size)
    return size


def smallest_side(blocks):
    """The fewest pixels a side that leave one pixel after so many blocks: 127 after six, 31 after
    four.
    """
    return 2 ** (blocks + 1) - 1


class RegionalNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male, rngs=None) -> (prediction float32, {})`; the sex is not
    read.

    A block is conv 3x3, ELU, batch norm, conv `second`, ELU, batch norm, max-pool 3x3 of stride 2,
    unpadded; `widths` gives the channels of each. Then twice dropout and a dense layer of `dense`
    units with ELU, then the head: the prediction is `[B]`, a normalised age, for one output, else
    logits `[B, outputs]` (240: a class a month, `losses.expected_age`). Images have one `size`
    (rows, columns): the dense layers read every place of the last map, 6 x 4 x 384 of 500x375.
    `standardise='range'` is the paper's (x - 127.5) / 127.5 of grey values. Raises UserError for
    images too small for the blocks, or of another size, and for another `second`.
    """

    def __init__(
        self,
        *,
        size=(500, 375),
        widths=(32, 64, 128, 128, 256, 384),
        second='1x1',
        dense=2048,
        dropout=0.3,
        outputs=1,
        standardise='range',
        dtype=None,
        rngs,
    ):
        if second not in SECOND:
            raise UserError(f'model.second={second!r}: expected one of {", ".join(SECOND)}')
        least = smallest_side(len(widths))
        if min(size) < least:
            raise UserError(
                f'data.size={tuple(size)}: {len(widths)} blocks (model.widths) need at least {least} pixels a '
                f'side; give larger images or fewer blocks (four take {smallest_side(4)} pixels)'
            )
        self.size, self.outputs, self.standardise, self.dtype = (
            tuple(size),
            outputs,
            standardise,
            dtype,
        )
        self.blocks = nnx.List()
        for inputs, width in zip((1, *widths), widths):
            self.blocks.append(
                nnx.List(
                    [
                        layers.conv(inputs, width, 3, bias=True, dtype=dtype, rngs=rngs),
                        layers.norm(width, dtype=dtype, rngs=rngs),
                        layers.conv(
                            width, width, SECOND[second], bias=True, dtype=dtype, rngs=rngs
                        ),
                        layers.norm(width, dtype=dtype, rngs=rngs),
                    ]
                )
            )
        rows, columns = map_size(size, len(widths))
        self.flat = rows * columns * widths[-1]
        self.dense = nnx.List(
            [layers.linear(inputs, dense, dtype=dtype, rngs=rngs) for inputs in (self.flat, dense)]
        )
        self.dropout = nnx.Dropout(dropout)
        self.head = layers.linear(dense, outputs, rngs=rngs)

    def __call__(self, image, male, *, rngs=None):
        del male
        if image.shape[1:3] != self.size:
            raise UserError(
                f'this network takes images of {self.size[0]}x{self.size[1]}, found '
                f'{image.shape[1]}x{image.shape[2]}; give it images of data.size'
            )
        x = layers.standardise(image, self.standardise)
        x = x if self.dtype is None else x.astype(self.dtype)
        for first, first_norm, second, second_norm in self.blocks:
            x = second_norm(nnx.elu(second(first_norm(nnx.elu(first(x))))))
            x = cpu.max_pool(x, 3, 2)
        x = x.reshape(x.shape[0], self.flat)
        for layer in self.dense:
            x = nnx.elu(layer(self.dropout(x, rngs=rngs)))
        prediction = self.head(x.astype(jnp.float32))
        return (prediction[:, 0] if self.outputs == 1 else prediction), {}
