"""Random faults of an archive's images, on the device: what is shown changes, nothing moves.

Order, for every example: exposure, polarity, occlusion, blur, resolution, noise, compression. So a
covering rectangle gets the image's blur and noise, and noise has the strength that was asked for.

Blur and resolution are products with one matrix per axis and image: [H, H] from the left, [W, W]
from the right. The strength of each image is then a number in one program, and no pixel is
gathered. Images are float32 [B, H, W, 1] in [0, 1], and stay so.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

OPTIONS = {
    'exposure': 'factor on the grey, log-uniform between 1 / (1 + exposure) and 1 + exposure, then '
    'clipped',
    'polarity': 'probability of inverted grey, 0 to 1: of the whole square, so that black padding '
    'and fill become white',
    'occlusion': 'probability of one rectangle of random constant grey, 0 to 1; its sides are 10 '
    "to 40% of the image's",
    'blur': 'standard deviation of a Gaussian in pixels, uniform in 0 to blur',
    'resolution': 'half of the images are shrunk, and enlarged again, by a factor log-uniform '
    'between 1 and 1 + resolution',
    'noise': 'standard deviation of Gaussian noise, uniform in 0 to noise of the full range; at '
    'most 1',
    'compression': 'probability of what JPEG loses, 0 to 1: quality uniform in 30 to 95',
}
# The place of an option in this tuple is part of its random numbers: add new ones at the end.
_SLOTS = ('resolution', 'blur', 'noise', 'exposure', 'polarity', 'occlusion', 'compression')
_COVERED = (0.1, 0.4)  # share of the image's side
_QUALITY = (30.0, 95.0)
# Table K.1 of ITU-T T.81 (JPEG): steps of the luminance's coefficients at quality 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def degrade(keys: jax.Array, image: jax.Array, options: Mapping) -> jax.Array:
    """The images [B, H, W, 1], randomly made worse.

    Args:
        keys: one for each image, [B].
        image: float32 in [0, 1].
        options: has the keys of `OPTIONS`; plain numbers, 0 is off and costs nothing. Each option
            has draws of its own, whatever the others are.
    """
    if options['exposure']:
        draw = _draws(keys, 'exposure', 1)[:, 0]
        image = expose(image, jnp.exp((2 * draw - 1) * jnp.log1p(options['exposure'])))
    if options['polarity']:
        chosen = _draws(keys, 'polarity', 1)[:, 0] < options['polarity']
        image = jnp.where(_per_image(chosen), invert(image), image)
    if options['occlusion']:
        draws = _draws(keys, 'occlusion', 6)
        image = _cover(image, draws[:, 0] < options['occlusion'], draws[:, 1:])
    image = _filter(image, *_matrices_drawn(keys, image.shape, options))
    if options['noise']:
        deviation = _draws(keys, 'noise', 1)[:, 0] * options['noise']
        image = add_noise(_keys_of(keys, 'noise'), image, deviation)
    if options['compression']:
        draws = _draws(keys, 'compression', 2)
        quality = _between(draws[:, 1], _QUALITY)
        image = compress(image, quality, draws[:, 0] < options['compression'])
    return image


def _keys_of(keys, name):
    """Keys [B] of one option, from those of the images."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, 1 + _SLOTS.index(name))


def _draws(keys, name, count):
    """Draws [B, count] of one option, uniform in 0..1."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(_keys_of(keys, name))


def _between(draw, bounds):
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _per_image(values):
    """Values [B] beside images [B, H, W, 1]."""
    return values[:, None, None, None]


def expose(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The grey values times `factor` [B], clipped."""
    return jnp.clip(image * _per_image(factor), 0.0, 1.0)


def invert(image: jax.Array) -> jax.Array:
    """White becomes black, the ground too."""
    return 1.0 - image


def _cover(image, chosen, draws):
    """A rectangle in the images `chosen` [B]; draws [B, 5] of height, width, row, column, grey."""
    rows = _span(image.shape[1], draws[:, 0], draws[:, 2])
    columns = _span(image.shape[2], draws[:, 1], draws[:, 3])
    covered = chosen[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return jnp.where(covered[..., None], _per_image(draws[:, 4]), image)


def _span(side, length, start):
    """Which of the pixels of a side are covered, bool [B, side]; draws [B] of length and start."""
    length = jnp.maximum(1, jnp.round(_between(length, _COVERED) * side))
    start = jnp.minimum(jnp.floor(start * (side - length + 1)), side - length)
    place = jnp.arange(side)[None]
    return (place >= start[:, None]) & (place < (start + length)[:, None])


def coarsen(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The image shrunk by `factor` [B], 1 or more, to whole pixels, and enlarged again.

    Both linearly, shrinking with antialiasing: `jax.image.resize` there and back.
    """
    return _filter(image, *_for_axes(lambda side: _resampling(side, factor), image.shape))


def blur(image: jax.Array, deviation: jax.Array) -> jax.Array:
    """The image under a Gaussian of standard deviation `deviation` [B] pixels.

    At the border the weights that lie outside are left out, and the others make one.
    """
    return _filter(image, *_for_axes(lambda side: _gaussian(side, deviation), image.shape))


def _matrices_drawn(keys, shape, options):
    """Blur and then resolution as matrices [B, H, H] and [B, W, W]; nothing where both are off."""
    steps = []
    if options['blur']:
        deviation = _draws(keys, 'blur', 1)[:, 0] * options['blur']
        steps.append(lambda side: _gaussian(side, deviation))
    if options['resolution']:
        draws = _draws(keys, 'resolution', 2)
        strength = jnp.where(draws[:, 0] < 0.5, draws[:, 1], 0.0)
        factor = jnp.exp(strength * jnp.log1p(options['resolution']))
        steps.append(lambda side: _resampling(side, factor))
    if not steps:
        return ()

    def of_side(side):
        matrix = steps[0](side)
        for step in steps[1:]:
            matrix = _product(step(side), matrix)
        return matrix

    return _for_axes(of_side, shape)


def _for_axes(of_side, shape):
    """`of_side` of rows and of columns; a square image needs it once."""
    rows, columns = shape[1:3]
    of_rows = of_side(rows)
    return of_rows, of_rows if rows == columns else of_side(columns)


def _filter(image, of_rows=None, of_columns=None):
    """Images between matrices, [B, H, H] from the left and [B, W, W] from the right."""
    if of_rows is None:
        return image
    filtered = _product(_product(of_rows, image[..., 0]), jnp.swapaxes(of_columns, 1, 2))
    return jnp.clip(filtered, 0.0, 1.0)[..., None]


def _product(left, right):
    # Accelerators would otherwise round what they multiply to bfloat16 or TF32.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _gaussian(side, deviation):
    """Matrices [B, side, side] that blur along a side; deviation [B] pixels, 0 is the identity."""
    place = jnp.arange(side, dtype=jnp.float32)
    square = (place[:, None] - place[None]) ** 2
    twice_variance = jnp.maximum(2 * deviation**2, 1e-3)
    return _normalised(jnp.exp(-square[None] / twice_variance[:, None, None]))


def _resampling(side, factor):
    """Matrices [B, side, side] that shrink a side by factor [B] and enlarge it again."""
    small = jnp.clip(jnp.round(side / factor), 1, side)
    whole = jnp.full_like(small, side)
    return _product(_linear(side, small, whole), _linear(side, whole, small))


def _linear(side, inputs, outputs):
    """Matrices [B, side, side] that resize `inputs` [B] pixels to `outputs` [B], edge to edge.

    Pixels from `inputs` on have no weight; what rows from `outputs` on say is not for use. The
    weights are a triangle, as wide as a pixel of the coarser of the two.
    """
    ratio = (inputs / outputs)[:, None]
    place = jnp.arange(side, dtype=jnp.float32)[None]
    source = (place + 0.5) * ratio - 0.5
    distance = jnp.abs(source[:, :, None] - place[:, None]) / jnp.maximum(ratio, 1)[:, None]
    weights = jnp.maximum(1 - distance, 0.0)
    return _normalised(jnp.where((place < inputs[:, None])[:, None], weights, 0.0))


def _normalised(weights):
    """Each row's sum is 1, or the row is empty."""
    return weights / jnp.maximum(weights.sum(2, keepdims=True), 1e-6)


def add_noise(keys: jax.Array, image: jax.Array, deviation: jax.Array) -> jax.Array:
    """Gaussian noise of standard deviation `deviation` [B], clipped; keys [B]."""
    normal = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:]))(keys)
    return jnp.clip(image + _per_image(deviation) * normal, 0.0, 1.0)


def compress(image: jax.Array, quality: jax.Array, chosen: jax.Array) -> jax.Array:
    """What JPEG of `quality` [B], 1 to 100, leaves of the images `chosen` (bool [B]).

    The cosine coefficients of blocks of 8x8 pixels are rounded to steps of the standard's table.
    Images whose sides are no multiples of 8 have their last row and column repeated for it.
    """
    height, width = image.shape[1:3]
    missing = [(0, 0), (0, -height % 8), (0, -width % 8)]
    padded = jnp.pad(image[..., 0] * 255 - 128, missing, mode='edge')
    down = padded.shape[1] // 8
    right = padded.shape[2] // 8
    # Matrices with the transform once for each block, so that no pixel changes its place.
    of_rows = np.kron(np.eye(down, dtype=np.float32), _cosines())
    of_columns = np.kron(np.eye(right, dtype=np.float32), _cosines())
    coefficients = _product(of_rows[None], _product(padded, of_columns.T[None]))
    steps = jnp.tile(_steps(quality), (1, down, right))
    rounded = jnp.round(coefficients / steps) * steps
    # Images that are not chosen go the same way unrounded: the input then has one use.
    coefficients = jnp.where(chosen[:, None, None], rounded, coefficients)
    restored = _product(of_rows.T[None], _product(coefficients, of_columns[None]))
    restored = restored[:, :height, :width]
    return jnp.clip((restored + 128) * np.float32(1 / 255), 0.0, 1.0)[..., None]


def _cosines():
    """The orthonormal cosine transform of 8 numbers, float32 [8, 8]."""
    frequency = np.arange(8)[:, None]
    waves = np.cos(np.pi * frequency * (2 * np.arange(8) + 1) / 16) / 2
    return np.where(frequency == 0, waves / np.sqrt(2), waves).astype(np.float32)


def _steps(quality):
    """JPEG's steps [B, 8, 8] at a quality [B], as the Independent JPEG Group scales its table."""
    percent = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    scaled = jnp.floor((_LUMINANCE[None] * percent[:, None, None] + 50) / 100)
    return jnp.clip(scaled, 1, 255)
