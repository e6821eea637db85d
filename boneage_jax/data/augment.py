"""Random augmentation on the device: image, hand mask and key points move together.

Order, for every example: horizontal flip (an exact mirror), shear, scale, rotation, shift (one
affine map about the image's centre, so the image is interpolated once), then contrast, brightness,
a clip to [0, 1], gamma, then what `boneage_jax/data/degrade.py` does to the image alone: exposure,
polarity, occlusion, blur, resolution, noise, compression. The image is read bilinearly, the mask by
nearest neighbour, the key points go through the forward map.

Pixel (r, c) has its centre at the coordinates (r, c); the image's centre is
((H - 1) / 2, (W - 1) / 2).

A flip turns a left hand into the picture of a right one. Nothing is renamed: key points stay in
their order, because all of them are anatomical ("tip of the thumb"), none says left or right. They
may leave the image.

The randomness of an example comes from the key and its position in the global batch alone: it does
not depend on how the batch is sharded, nor on which options are switched on.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from boneage_jax.data import degrade
from tfds_rsna.errors import UserError

OPTIONS = {
    'flip': 'probability of a horizontal mirror image, 0 to 1',
    'rotation': 'degrees, uniform in +-rotation; positive turns counter-clockwise as displayed',
    'shift': 'fraction of the side, uniform in +-shift, rows and columns apart',
    'scale': 'log-uniform between 1 / (1 + scale) and 1 + scale; above 1 the hand grows',
    'shear': 'degrees, uniform in +-shear: columns move by tan(shear) times the row; below 90',
    'gamma': 'exponent log-uniform between 1 / (1 + gamma) and 1 + gamma',
    'contrast': 'factor on the distance to the mean of the input, in 1 +- contrast; at most 1',
    'brightness': 'added grey, uniform in +-brightness of the full range',
    'fill': "what comes from outside the image: 'zero' (black) or 'nearest' (the border repeated)",
    **degrade.OPTIONS,
}
_GEOMETRIC = ('rotation', 'shift', 'scale', 'shear')


def augment(key: jax.Array, batch: dict, options: Mapping, *, first: int = 0) -> dict:
    """The batch with `image` float32 in [0, 1], randomly transformed.

    Args:
        key: one key for the batch, normally `fold_in(key, step)`.
        batch: `image` [B, H, W, 1], uint8 or float in [0, 1]; optional `hand_mask` [B, H, W, 1]
            uint8 and `keypoints` [B, K, 2] float32 (row, column in pixels), which move with the
            image. Other entries stay as they are.
        options: a mapping with exactly the keys of `OPTIONS`; plain numbers, 0 is off and costs
            nothing.
        first: position of the first example in the global batch (for a batch worked through in
            pieces).

    Raises:
        UserError: on unknown or missing options. Their ranges are checked with the config.
    """
    _check_names(options)
    size = batch['image'].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(size))
    # One slot per draw, drawn whether used or not: switching one option on leaves the others' draws
    # alone.
    draws = jax.vmap(lambda k: jax.random.uniform(k, (9,)))(keys)
    signed = 2 * draws - 1

    if options['flip']:
        batch = _flip_chosen(batch, draws[:, 0] < options['flip'])
    # The mean of the input: that of the warped image makes XLA run the warp several times on a CPU.
    mean = jnp.mean(_unit(batch['image']), axis=(1, 2, 3), keepdims=True)
    if any(options[name] for name in _GEOMETRIC):
        matrix, shift = _affine(signed[:, 1:6], batch['image'].shape[1:3], options)
        batch = warp(batch, matrix, shift, options['fill'])
    else:
        batch = to_float(batch)

    image = batch['image']
    if options['contrast']:
        factor = (1 + signed[:, 7] * options['contrast'])[:, None, None, None]
        image = mean + (image - mean) * factor
    if options['brightness']:
        image = image + (signed[:, 8] * options['brightness'])[:, None, None, None]
    if options['contrast'] or options['brightness']:
        image = jnp.clip(image, 0.0, 1.0)
    if options['gamma']:
        exponent = jnp.exp(signed[:, 6] * jnp.log1p(options['gamma']))[:, None, None, None]
        image = jnp.where(image > 0, jnp.exp(exponent * jnp.log(jnp.maximum(image, 1e-6))), 0.0)
    return batch | {'image': degrade.degrade(keys, image, options)}


def to_float(batch: dict) -> dict:
    """The batch with `image` as float32 in [0, 1], as evaluation sees it.

    Float images pass through.
    """
    return batch | {'image': _unit(batch['image'])}


def _unit(image):
    # A product, not a division by 255: XLA turns that into this product in some programs and not in
    # others.
    values = jnp.asarray(image).astype(jnp.float32)
    return values * np.float32(1 / 255) if image.dtype == jnp.uint8 else values


def flip(batch: dict) -> dict:
    """The batch mirrored left to right: image, hand mask and key points, which keep their order."""
    flipped = dict(batch)
    for name in ('image', 'hand_mask'):
        if name in batch:
            flipped[name] = batch[name][:, :, ::-1]
    if 'keypoints' in batch:
        width = batch['image'].shape[2]
        rows, columns = batch['keypoints'][..., 0], batch['keypoints'][..., 1]
        flipped['keypoints'] = jnp.stack([rows, width - 1 - columns], axis=-1)
    return flipped


def _flip_chosen(batch, chosen):
    """The batch with the examples `chosen` (bool `[B]`) mirrored."""
    mirrored = flip(batch)
    out = dict(batch)
    for name in ('image', 'hand_mask', 'keypoints'):
        if name in batch:
            of_example = chosen.reshape(-1, *(1,) * (batch[name].ndim - 1))
            out[name] = jnp.where(of_example, mirrored[name], batch[name])
    return out


def _check_names(options):
    if set(options) != set(OPTIONS):
        raise UserError(
            f'augmentation options: missing {sorted(set(OPTIONS) - set(options))}, '
            f'unknown {sorted(set(options) - set(OPTIONS))}; known are {sorted(OPTIONS)}'
        )


def _affine(signed, sides, options):
    """The forward map p -> matrix (p - centre) + centre + shift of each example.

    `signed`: draws [B, 5] in -1..1. Returns (matrix, shift) as `warp` takes them.
    """
    angle = jnp.deg2rad(signed[:, 0] * options['rotation'])
    shift = signed[:, 1:3] * options['shift'] * jnp.asarray(sides, jnp.float32)[None]
    scale = jnp.exp(signed[:, 3] * jnp.log1p(options['scale']))
    shear = jnp.tan(jnp.deg2rad(signed[:, 4] * options['shear']))
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    # rotation [[cos, -sin], [sin, cos]] times shear [[1, 0], [shear, 1]], on (row, column)
    return ((cos - sin * shear, -sin), (sin + cos * shear, cos)), shift


def warp(batch: dict, matrix: tuple, shift: jax.Array, fill: str) -> dict:
    """Applies one affine map per example to image, hand mask and key points.

    The map is p -> matrix (p - centre) + centre + shift.

    Args:
        batch: as `augment` takes it.
        matrix: ((a, b), (c, d)), each [B], on (row, column).
        shift: [B, 2] pixels.
        fill: as in `OPTIONS`.
    """
    height, width = batch['image'].shape[1:3]
    centre = jnp.asarray([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    rows, columns = _sources(matrix, shift, centre, height, width)
    if fill == 'nearest':
        rows = jnp.clip(rows, 0, height - 1)
        columns = jnp.clip(columns, 0, width - 1)

    out = dict(batch)
    out['image'] = _bilinear(batch['image'][..., 0], rows, columns)[..., None]
    if 'hand_mask' in batch:
        row = jnp.floor(rows + 0.5).astype(jnp.int32)
        column = jnp.floor(columns + 0.5).astype(jnp.int32)
        out['hand_mask'] = _take(_pad(batch['hand_mask'][..., 0]), row, column)[..., None]
    if 'keypoints' in batch:
        out['keypoints'] = _move_points(batch['keypoints'], matrix, shift, centre)
    return out


def _sources(matrix, shift, centre, height, width):
    """(rows, columns) [B, H, W] that each pixel of the output is read from: the inverse map."""
    (a, b), (c, d) = matrix
    determinant = a * d - b * c
    inverse = (d / determinant, -b / determinant), (-c / determinant, a / determinant)
    from_row = (jnp.arange(height, dtype=jnp.float32) - centre[0])[None] - shift[:, :1]
    from_column = (jnp.arange(width, dtype=jnp.float32) - centre[1])[None] - shift[:, 1:]

    # Sums of products by hand, not a matmul: accelerators would round those to bfloat16.
    def along(axis):
        by_row, by_column = inverse[axis]
        of_rows = (by_row[:, None] * from_row)[:, :, None]
        of_columns = (by_column[:, None] * from_column)[:, None, :]
        return of_rows + of_columns + centre[axis]

    return along(0), along(1)


def _move_points(points, matrix, shift, centre):
    """Key points [B, K, 2] through the forward map."""
    (a, b), (c, d) = matrix
    y = points[..., 0] - centre[0]
    x = points[..., 1] - centre[1]
    rows = a[:, None] * y + b[:, None] * x + centre[0] + shift[:, :1]
    columns = c[:, None] * y + d[:, None] * x + centre[1] + shift[:, 1:]
    return jnp.stack([rows, columns], axis=-1)


def _bilinear(image, rows, columns):
    """image [B, H, W] at rows, columns [B, H, W] -> float32 in [0, 1]; black outside."""
    padded = _pad(image)
    top = jnp.floor(rows)
    left = jnp.floor(columns)
    row = top.astype(jnp.int32)
    column = left.astype(jnp.int32)

    def corner(down, right):
        return _unit(_take(padded, row + down, column + right))

    upper_left, upper_right = corner(0, 0), corner(0, 1)
    lower_left, lower_right = corner(1, 0), corner(1, 1)
    down = rows - top
    right = columns - left
    upper = upper_left + right * (upper_right - upper_left)
    lower = lower_left + right * (lower_right - lower_left)
    return jnp.clip(upper + down * (lower - upper), 0.0, 1.0)


def _pad(image):
    """Two black pixels around [B, H, W]: enough for every tap from outside to read black."""
    return jnp.pad(image, ((0, 0), (2, 2), (2, 2)))


def _take(padded, rows, columns):
    """padded[b, rows + 2, columns + 2]; indices [B, H, W] far outside read the black border."""
    size, height, width = padded.shape
    rows = jnp.clip(rows + 2, 0, height - 1)
    columns = jnp.clip(columns + 2, 0, width - 1)
    flat = (rows * width + columns).reshape(size, -1)
    # Batched along axis 1, never one flat index over the batch: this form shards without
    # communication.
    taken = jnp.take_along_axis(padded.reshape(size, -1), flat, axis=1, mode='promise_in_bounds')
    return taken.reshape(rows.shape)
