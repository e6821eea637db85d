"""Pillow's resampling in whole numbers, for programs that take native images: the same greys.

`preprocess/resize.py` brings an image to the network's size by Pillow's antialiased bilinear filter
with `reducing_gap=3`: blocks of pixels are averaged first, where the image is more than three times
too large, then both axes are resampled, each with weights of 22 bits, and every step rounds to
uint8. All of that is written here as integers (int64) and exact sums (float32), so that XLA,
onnxruntime and Pillow give the same greys wherever they run. From release 13 on Pillow takes the
rows first where they lose much more than the columns: what is exported does as the Pillow that is
installed.

The shape of the image comes as values, not as shapes: nothing but `block_sums` has an array whose
shape depends on it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import PIL

ROWS_MAY_BE_FIRST = int(PIL.__version__.partition('.')[0]) >= 13
GAP = 3  # reducing_gap
MOST = 2 * GAP  # pixels along a side that reducing leaves for each one of the network's, at most
_WEIGHT_BITS = 22  # of Pillow's weights
_LOW_BITS = 11  # halves of them, whose sums float32 holds exactly
_FRACTION_BITS = 23  # of the numbers that `_float32` gives
_MULTIPLIER_BITS = 24  # of Pillow's division by a block's pixels


class Plan(NamedTuple):
    """How an image goes onto the canvas; int64 scalars for (rows, columns).

    Attributes:
        length: pixels of the image.
        taken: pixels of the canvas that it takes.
        offset: where it begins on the canvas.
        factor: pixels along a side of a block that is averaged first.
    """

    length: tuple[jax.Array, jax.Array]
    taken: tuple[jax.Array, jax.Array]
    offset: tuple[jax.Array, jax.Array]
    factor: tuple[jax.Array, jax.Array]


def plan(height: jax.Array, width: jax.Array, size: tuple[int, int], fit: str) -> Plan:
    """The plan of an image of `height` x `width` (int64) for a canvas of `size`.

    `fit` is 'pad' or 'stretch', see `preprocess/resize.py`.
    """
    rows, columns = (jnp.int64(side) for side in size)
    taken = (rows, columns)
    if fit == 'pad':
        is_tall = width * rows <= height * columns
        taken = (
            jnp.where(is_tall, rows, _scaled(height, columns, width, rows)),
            jnp.where(is_tall, _scaled(width, rows, height, columns), columns),
        )
    length = (height, width)
    offset = tuple(_quotient(side - part, 2) for side, part in zip((rows, columns), taken))
    factor = []
    for pixels, part in zip(length, taken):
        factor.append(jnp.maximum(_quotient(pixels, GAP * part), 1))
    return Plan(length, taken, offset, tuple(factor))


def block_sums(image: jax.Array, found: Plan, side: int) -> jax.Array:
    """Sums of the blocks of `found.factor` pixels of an image uint8 [H, W].

    float32 [MOST * side, MOST * side], zero behind the image; exact. `side` is the canvas's longer
    one.
    """
    height, width = image.shape
    down, across = found.factor
    values = image.astype(jnp.float32)
    at = _quotient(jnp.arange(height, dtype=jnp.int64), down).astype(jnp.int32)
    values = jnp.zeros((MOST * side, width), jnp.float32).at[at].add(values)
    at = _quotient(jnp.arange(width, dtype=jnp.int64), across).astype(jnp.int32)
    return jnp.zeros((MOST * side, MOST * side), jnp.float32).at[at].add(values.T).T


def resample(sums: jax.Array, found: Plan, size: tuple[int, int]) -> jax.Array:
    """What the network sees, float32 [rows, columns] of whole greys, from `block_sums`."""
    side = max(size)
    pixels = _averages(sums, found)
    rows = _weights(found, 0, side)
    columns = _weights(found, 1, side)
    rows_first = _rows_first(found)
    # One way for both orders: where the rows come first, the image lies on its side.
    pixels = jnp.where(rows_first, pixels.T, pixels)
    first = jnp.where(rows_first, rows, columns)
    second = jnp.where(rows_first, columns, rows)
    pixels = _pass(_pass(pixels, first.T).T, second.T)  # [second, first], turned once
    pixels = jnp.where(rows_first, pixels, pixels.T)
    return pixels[: size[0], : size[1]]


def _rows_first(found):
    """Whether Pillow resamples the rows' axis first."""
    if not ROWS_MAY_BE_FIRST:
        return jnp.bool_(False)
    lost = []
    for axis in (0, 1):
        length, factor = found.length[axis], found.factor[axis]
        lost.append(_quotient(length + factor - 1, factor) - found.taken[axis])
    return lost[0] > jnp.maximum(0, 2 * lost[1])


def _averages(sums, found):
    """The blocks' means, rounded as Pillow does: a sum times a whole number, less 24 bits."""
    whole = []
    counts = []
    for axis in (0, 1):
        length, factor = found.length[axis], found.factor[axis]
        blocks = _quotient(length, factor)
        whole.append(jnp.arange(sums.shape[axis], dtype=jnp.int64) < blocks)
        rest = length - blocks * factor  # pixels of the last block, 0 where there is none
        counts.append((factor, jnp.maximum(rest, 1)))

    halves = []  # [1, columns], for whole rows of blocks and for the last
    multipliers = []
    for rows in counts[0]:
        count = rows * jnp.where(whole[1], *counts[1])[None]
        one = jnp.int64(1 << _MULTIPLIER_BITS)
        multipliers.append(_quotient(_float32(one, count), 1 << _FRACTION_BITS))
        halves.append(_quotient(count, 2))
    rows = whole[0][:, None]
    half = jnp.where(rows, *halves)
    means = (sums.astype(jnp.int64) + half) * jnp.where(rows, *multipliers)
    return _quotient(means, 1 << _MULTIPLIER_BITS).astype(jnp.float32)


def _weights(found, axis, side):
    """Pillow's weights int64 [side, MOST * side] of an axis; those off the image are zero."""
    length, factor, taken = found.length[axis], found.factor[axis], found.taken[axis]
    at = jnp.arange(side, dtype=jnp.int64) - found.offset[axis]
    pixel = jnp.arange(MOST * side, dtype=jnp.int64)
    # Pillow keeps the reduced image's length as a float32.
    box = _float32(length, factor)
    unit = taken * (1 << _FRACTION_BITS)
    reach = 2 * jnp.maximum(box, unit)
    distance = ((2 * at + 1) * box)[:, None] - ((2 * pixel + 1) * unit)[None]
    weight = jnp.maximum(reach - jnp.abs(distance), 0)
    inside = pixel < _quotient(length + factor - 1, factor)
    on_canvas = (at >= 0) & (at < taken)
    weight = jnp.where(on_canvas[:, None] & inside[None], weight, 0)
    total = jnp.maximum(weight.sum(1, keepdims=True), 1)
    return _quotient(weight * (2 << _WEIGHT_BITS) + total, 2 * total)


def _pass(pixels, weights):
    """Pixels float32 [M, N] by weights int64 [N, K], rounded to greys: float32 [M, K]."""
    high = _quotient(weights, 1 << _LOW_BITS)
    total = 0
    for part, unit in ((high, 1 << _LOW_BITS), (weights - high * (1 << _LOW_BITS), 1)):
        product = jnp.matmul(pixels, part.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
        total = total + product.astype(jnp.int64) * unit
    rounded = _quotient(total + (1 << (_WEIGHT_BITS - 1)), 1 << _WEIGHT_BITS)
    return jnp.clip(rounded, 0, 255).astype(jnp.float32)


def _scaled(length, numerator, denominator, most):
    """`length * numerator / denominator` to the nearest whole number, 1 to `most`."""
    return jnp.clip(_rounded(length * numerator, denominator), 1, most)


def _float32(numerator, denominator):
    """What float32 makes of a quotient from 1 to 2**24, times 2**23."""
    exponent = jnp.int64(1)  # the largest power of two that is no larger
    for bits in range(1, _MULTIPLIER_BITS + 1):
        exponent = jnp.where(numerator >= denominator * (1 << bits), 1 << bits, exponent)
    return _rounded(numerator * (1 << _FRACTION_BITS), denominator * exponent) * exponent


def _rounded(numerator, denominator):
    """A quotient to the nearest whole number, a half to the even one."""
    down = _quotient(numerator, denominator)
    twice = 2 * (numerator - down * denominator)
    is_odd = down - 2 * _quotient(down, 2) == 1
    up = (twice > denominator) | ((twice == denominator) & is_odd)
    return down + up.astype(jnp.int64)


def _quotient(numerator, denominator):
    """A quotient of whole numbers, none negative, rounded down."""
    numerator = jnp.asarray(numerator, jnp.int64)
    denominator = jnp.asarray(denominator, jnp.int64)
    shape = jnp.broadcast_shapes(numerator.shape, denominator.shape)
    return jax.lax.div(jnp.broadcast_to(numerator, shape), jnp.broadcast_to(denominator, shape))
