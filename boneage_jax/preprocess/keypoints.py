"""The three key points of Iglovikov et al. (2018): from COCO-hand annotations, to and from heat
maps, their errors.

Order: tip of the middle finger's distal phalanx, tip of the thumb's, centre of the capitate; (row,
column) in pixels, pixel (r, c) having its centre at (r, c).
"""

import jax
import jax.numpy as jnp
import numpy as np

from tfds_rsna.annotations import hand_landmarks

NAMES = ('middle_fingertip', 'thumb_tip', 'capitate')
PADDED = (
    2080,
    1600,
)  # rows x columns to which images are padded and scaled before the key-point net (section 2.2)
LENGTH = 1500  # rows between fingertip and capitate of a registered image

_WRIST, _THUMB_TIP, _MCP, _TIP = 0, 4, 9, 12  # COCO-hand's order
# COCO-hand has no capitate. It lies from the middle finger's MCP joint towards the wrist by this
# share of the way, and aside, to the thumb, by this one: least squares over 400 phantoms (0.766,
# 0.0415), then moved by 0.6% of the hand's length to the wrist and 0.9% away from the thumb, which
# is how far the capitates of the authors' 20 registered images lie from those. The wrist itself
# misses by 14%.
_TOWARDS, _ASIDE = 0.775, 0.027


def from_coco(points):
    """COCO-hand points [..., 21, 2] -> the three key points [..., 3, 2] float32; both (row, column)
    or neither.
    """
    points = np.asarray(points, np.float64)
    wrist, thumb, mcp, tip = (points[..., i, :] for i in (_WRIST, _THUMB_TIP, _MCP, _TIP))
    arm = wrist - mcp
    across = np.stack([-arm[..., 1], arm[..., 0]], -1)
    side = np.sign(np.sum(across * (thumb - mcp), -1, keepdims=True))
    return np.stack([tip, thumb, mcp + _TOWARDS * arm + _ASIDE * side * across], -2).astype(
        np.float32
    )


def from_dha(landmarks):
    """The DHA's 37 landmarks [..., 37, 2] -> the three key points [..., 3, 2] float32."""
    landmarks = np.asarray(landmarks, np.float32)
    capitate = landmarks[..., hand_landmarks.BESIDE_CAPITATE, :].mean(-2)
    return np.stack(
        [
            landmarks[..., hand_landmarks.MIDDLE_TIP, :],
            landmarks[..., hand_landmarks.THUMB_TIP, :],
            capitate,
        ],
        -2,
    )


def normalise(points, size):
    """Pixels [..., 2] of an image of `size` (rows, columns) -> [0, 1] from edge to edge."""
    return (jnp.asarray(points) + 0.5) / jnp.broadcast_to(
        jnp.asarray(size, jnp.float32), jnp.shape(points)
    )


def denormalise(points, size):
    """The inverse of `normalise`."""
    return (
        jnp.asarray(points) * jnp.broadcast_to(jnp.asarray(size, jnp.float32), jnp.shape(points))
        - 0.5
    )


def heatmaps(points, size, sigma):
    """Gaussians of height 1 around points.

    Args:
        points: [B, K, 2] (row, column) in pixels of the map; NaN (no such point) gives an empty
        map.
        size: (rows, columns) of the maps.
        sigma: in pixels of the map.

    Returns:
        float32 [B, rows, columns, K].
    """

    def profile(side, centre):
        distance = jnp.arange(side, dtype=jnp.float32)[None, :, None] - centre[:, None, :]
        return jnp.exp(-0.5 * (distance / sigma) ** 2)

    points = jnp.asarray(points, jnp.float32)
    maps = (
        profile(size[0], points[..., 0])[:, :, None, :]
        * profile(size[1], points[..., 1])[:, None, :, :]
    )
    return jnp.nan_to_num(maps, nan=0.0)


def peaks(maps):
    """The highest pixel of each map, refined by a parabola through its neighbours' logarithms
    (exact for a Gaussian).

    Args:
        maps: [B, rows, columns, K], positive where it counts (heat maps or probabilities, not
        logits).

    Returns:
        points float32 [B, K, 2] in pixels of the map, heights float32 [B, K]: near 0 where nothing
        was found.
    """
    batch, rows, columns, count = maps.shape
    maps = jnp.asarray(maps, jnp.float32)
    best = jnp.argmax(maps.reshape(batch, rows * columns, count), axis=1)
    row, column = best // columns, best % columns
    logs = jnp.log(jnp.maximum(maps, 1e-12))
    b, k = jnp.arange(batch)[:, None], jnp.arange(count)[None, :]

    def at(down, right):
        return logs[
            b, jnp.clip(row + down, 0, rows - 1), jnp.clip(column + right, 0, columns - 1), k
        ]

    def vertex(before, here, after):
        bend = before - 2 * here + after
        # On the border a neighbour repeats the peak itself: half a pixel outwards at most, which is
        # right there.
        return jnp.clip(
            jnp.where(bend < -1e-6, 0.5 * (before - after) / jnp.minimum(bend, -1e-6), 0.0),
            -0.5,
            0.5,
        )

    here = at(0, 0)
    refined = jnp.stack(
        [row + vertex(at(-1, 0), here, at(1, 0)), column + vertex(at(0, -1), here, at(0, 1))], -1
    )
    return refined, jnp.take_along_axis(maps.reshape(batch, -1, count), best[:, None, :], axis=1)[
        :, 0
    ]


def soft_argmax(logits, temperature):
    """The mean position under softmax(logits / temperature): differentiable, for losses on the
    points themselves.

    `logits` [B, rows, columns, K] -> float32 [B, K, 2] in pixels of the map. A second bump pulls it
    aside: read trained maps with `peaks`.
    """
    batch, rows, columns, count = logits.shape
    flat = jnp.asarray(logits, jnp.float32).reshape(batch, -1, count) / temperature
    weight = jax.nn.softmax(flat, axis=1).reshape(batch, rows, columns, count)
    row = jnp.sum(jnp.sum(weight, 2) * jnp.arange(rows, dtype=jnp.float32)[None, :, None], 1)
    column = jnp.sum(jnp.sum(weight, 1) * jnp.arange(columns, dtype=jnp.float32)[None, :, None], 1)
    return jnp.stack([row, column], -1)


def errors(predicted, truth, size):
    """Distances between predicted and true key points.

    Args:
        predicted, truth: [..., 3, 2] in pixels of the same images.
        size: (rows, columns) of those images.

    Returns:
        {'percent': in % of the hand's true length (fingertip to capitate), 'pixels': in pixels of
        the image padded and scaled to 2080x1600, 'registered': in pixels of the registered image,
        15 a per cent}, float32 [..., 3] each.
    """
    predicted, truth = jnp.asarray(predicted, jnp.float32), jnp.asarray(truth, jnp.float32)
    distance = jnp.sqrt(jnp.sum((predicted - truth) ** 2, -1))
    length = jnp.sqrt(jnp.sum((truth[..., 0, :] - truth[..., 2, :]) ** 2, -1, keepdims=True))
    share = distance / jnp.broadcast_to(length, distance.shape)
    scale = min(PADDED[0] / size[0], PADDED[1] / size[1])
    return {'percent': 100 * share, 'pixels': scale * distance, 'registered': LENGTH * share}
