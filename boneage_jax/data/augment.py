"""Random augmentation on the device: image, hand mask and key points move together.

Order, for every example: horizontal flip (an exact mirror), shear, scale, rotation, shift (one
affine map about the image's centre, so the image is interpolated once), then contrast, brightness,
a clip to [0, 1], gamma. The image is read bilinearly, the mask by nearest neighbour, the key points
go through the forward map.

Pixel (r, c) has its centre at the coordinates (r, c); the image's centre is ((H - 1) / 2, (W - 1) /
2).

A flip turns a left hand into the picture of a right one. Nothing is renamed: key points stay in
their order, because all of them are anatomical ("tip of the thumb"), none says left or right. They
may leave the image.

The randomness of an example comes from the key and its position in the global batch alone: it does
not depend on how the batch is sharded, nor on which options are switched on.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tfds_rsna.errors import UserError

OPTIONS = {
    'flip': 'probability of a horizontal mirror image, 0 to 1',
    'rotation': 'degrees, uniform in +-rotation; positive turns counter-clockwise as displayed',
    'shift': 'fraction of the side, uniform in +-shift, rows and columns apart',
    'scale': 'log-uniform between 1 / (1 + scale) and 1 + scale; above 1 the hand grows',
    'shear': 'degrees, uniform in +-shear: columns move by tan(shear) times the row; below 90',
    'gamma': 'exponent log-uniform between 1 / (1 + gamma) and 1 + gamma',
    'contrast': 'factor on the distance to the mean of the input, uniform in 1 +- contrast; at most 1',
    'brightness': 'added grey, uniform in +-brightness of the full range',
    'fill': "'zero' (black) or 'nearest' (the border repeated) for what comes from outside the image",
}
_GEOMETRIC = ('rotation', 'shift', 'scale', 'shear')
_UPPER = {'flip': 1.0, 'shear': 89.0, 'contrast': 1.0}


def augment(key, batch, options, *, first=0):
    """Returns the batch with `image` float32 in [0, 1], randomly transformed; other entries
    unchanged.

    Args:
        key: one key for the batch, normally `fold_in(key, step)`.
        batch: `image` [B, H, W, 1], uint8 or float in [0, 1]; optional `hand_mask` [B, H, W, 1]
            uint8 and `keypoints` [B, K, 2] float32 (row, column in pixels).
        options: a mapping with exactly the keys of `OPTIONS`; plain numbers, 0 is off and costs
        nothing.
        first: position of the first example in the global batch (for a batch worked through in
        pieces).

    Raises:
        UserError: on unknown or missing options, or values out of range.
    """
    check(options)
    size = batch['image'].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(size))
    # One slot per draw, drawn whether used or not: switching one option on leaves the others' draws
    # alone.
    draws = jax.vmap(lambda k: jax.random.uniform(k, (9,)))(keys)
    signed = 2 * draws - 1

    if options['flip']:
        mirrored = flip(batch)
        chosen = draws[:, 0] < options['flip']
        batch = batch | {
            name: jnp.where(
                jnp.reshape(chosen, (size,) + (1,) * (mirrored[name].ndim - 1)),
                mirrored[name],
                batch[name],
            )
            for name in ('image', 'hand_mask', 'keypoints')
            if name in batch
        }
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
    return batch | {'image': image}


def to_float(batch):
    """The batch with `image` as float32 in [0, 1]; what evaluation sees. Float images pass through."""
    return batch | {'image': _unit(batch['image'])}


def _unit(image):
    # A product, not a division by 255: XLA turns that into this product in some programs and not in
    # others.
    values = jnp.asarray(image).astype(jnp.float32)
    return values * np.float32(1 / 255) if image.dtype == jnp.uint8 else values


def flip(batch):
    """The batch mirrored left to right: image, hand mask and key points; the order of key points
    stays.
    """
    width = batch['image'].shape[2]
    out = batch | {
        name: batch[name][:, :, ::-1] for name in ('image', 'hand_mask') if name in batch
    }
    if 'keypoints' in batch:
        rows, columns = batch['keypoints'][..., 0], batch['keypoints'][..., 1]
        out['keypoints'] = jnp.stack([rows, width - 1 - columns], axis=-1)
    return out


def check(options):
    """Raises UserError where `options` lacks a key of `OPTIONS`, has another, or a value is out of
    range.
    """
    given = set(options.keys())
    if given != set(OPTIONS):
        raise UserError(
            f'augmentation options: missing {sorted(set(OPTIONS) - given)}, '
            f'unknown {sorted(given - set(OPTIONS))}; known are {sorted(OPTIONS)}'
        )
    if options['fill'] not in ('zero', 'nearest'):
        raise UserError(
            f"augmentation option fill is {options['fill']!r}; it must be 'zero' or 'nearest'"
        )
    for name in OPTIONS:
        if name != 'fill' and not 0 <= options[name] <= _UPPER.get(name, float('inf')):
            raise UserError(
                f'augmentation option {name} is {options[name]}: out of range ({OPTIONS[name]})'
            )


def _affine(signed, sides, options):
    """The forward map p -> matrix (p - centre) + centre + shift of each example; `signed` [B, 5] in
    -1..1.
    """
    angle = jnp.deg2rad(signed[:, 0] * options['rotation'])
    shift = signed[:, 1:3] * options['shift'] * jnp.asarray(sides, jnp.float32)[None]
    scale = jnp.exp(signed[:, 3] * jnp.log1p(options['scale']))
    shear = jnp.tan(jnp.deg2rad(signed[:, 4] * options['shear']))
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    # rotation [[cos, -sin], [sin, cos]] times shear [[1, 0], [shear, 1]], on (row, column)
    return ((cos - sin * shear, -sin), (sin + cos * shear, cos)), shift


def warp(batch, matrix, shift, fill):
    """Applies one affine map per example to image, hand mask and key points: p -> matrix (p -
    centre) + centre + shift.

    `matrix`: ((a, b), (c, d)), each [B], on (row, column); `shift` [B, 2] pixels; `fill` as in
    `OPTIONS`.
    """
    height, width = batch['image'].shape[1:3]
    centre = jnp.asarray([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    (a, b), (c, d) = matrix
    determinant = a * d - b * c
    inverse = (d / determinant, -b / determinant), (-c / determinant, a / determinant)

    # Sums of products by hand, not a matmul: accelerators would round those to bfloat16.
    rows = (jnp.arange(height, dtype=jnp.float32) - centre[0])[None] - shift[:, :1]
    columns = (jnp.arange(width, dtype=jnp.float32) - centre[1])[None] - shift[:, 1:]
    source = [
        (first[:, None] * rows)[:, :, None] + (second[:, None] * columns)[:, None, :] + middle
        for (first, second), middle in zip(inverse, centre)
    ]
    if fill == 'nearest':
        source = [jnp.clip(s, 0, side - 1) for s, side in zip(source, (height, width))]

    out = dict(batch)
    out['image'] = _bilinear(batch['image'][..., 0], *source)[..., None]
    if 'hand_mask' in batch:
        index = [jnp.floor(s + 0.5).astype(jnp.int32) for s in source]
        out['hand_mask'] = _take(_pad(batch['hand_mask'][..., 0]), *index)[..., None]
    if 'keypoints' in batch:
        y, x = (batch['keypoints'][..., i] - centre[i] for i in (0, 1))
        out['keypoints'] = jnp.stack(
            [
                a[:, None] * y + b[:, None] * x + centre[0] + shift[:, :1],
                c[:, None] * y + d[:, None] * x + centre[1] + shift[:, 1:],
            ],
            axis=-1,
        )
    return out


def _bilinear(image, rows, columns):
    """image [B, H, W] at rows, columns [B, H, W] -> float32 in [0, 1]; black outside."""
    padded = _pad(image)
    top, left = jnp.floor(rows), jnp.floor(columns)
    row, column = top.astype(jnp.int32), left.astype(jnp.int32)
    corners = [_unit(_take(padded, row + i, column + j)) for i in (0, 1) for j in (0, 1)]
    down, right = rows - top, columns - left
    upper = corners[0] + right * (corners[1] - corners[0])
    lower = corners[2] + right * (corners[3] - corners[2])
    return jnp.clip(upper + down * (lower - upper), 0.0, 1.0)


def _pad(image):
    """Two black pixels around [B, H, W]: enough for every tap from outside to read black."""
    return jnp.pad(image, ((0, 0), (2, 2), (2, 2)))


def _take(padded, rows, columns):
    """padded[b, rows + 2, columns + 2]; indices [B, H, W] far outside are clipped into the black
    border.
    """
    size, height, width = padded.shape
    rows, columns = jnp.clip(rows + 2, 0, height - 1), jnp.clip(columns + 2, 0, width - 1)
    flat = (rows * width + columns).reshape(size, -1)
    # Batched along axis 1, never one flat index over the batch: this form shards without
    # communication.
    taken = jnp.take_along_axis(padded.reshape(size, -1), flat, axis=1, mode='promise_in_bounds')
    return taken.reshape(rows.shape)
