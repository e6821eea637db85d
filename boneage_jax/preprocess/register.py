"""Registration of a hand by a similarity from its key points (Iglovikov et al. 2018, section 2.2).

The tip of the middle finger goes to (row 100, column 800) and the capitate's centre to (row 1600,
column 800) of 2080 x 1600 pixels. The image is mirrored where needed so that the thumb ends on the
right; the aspect ratio is kept. Key points are [3, 2] (row, column), in the order of
`keypoints.NAMES`. Where they cannot be right, the hand's mask is used instead, with the reasons.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from boneage_jax.preprocess import keypoints as keypoints_lib
from boneage_jax.preprocess import transform as transforms
from tfds_rsna.errors import UserError

SIZE = (2080, 1600)  # rows x columns of a registered image
TIP = (100, 800)  # target of the middle fingertip, in pixels of SIZE
CAPITATE = (1600, 800)  # target of the capitate's centre

# Limits for key points: what 534 annotated RSNA images and 45 of the DHA show (extremes in
# brackets), with room beyond.
_LENGTH = (0.20, 1.0)  # fingertip to capitate, of the image's longer side (0.28 to 0.76)
_THUMB_REACH = (0.50, 0.90)  # capitate to thumb tip, of that length (0.59 to 0.79)
# degrees between the thumb tip and the fingertip, seen from the capitate (21 to 85)
_THUMB_ANGLE = (12, 95)
# Limits for masks: what those of 150 phantoms and of the 45 DHA images show (there grown from the
# landmarks by a watershed).
_LENGTH_OF_MASK = (0.80, 1.80)  # length by the square root of the mask's area (1.15 to 1.46)
# mask beyond the fingertip: share of its area, reach by length (0.025, 0.06)
_BEYOND = (0.04, 0.08)
_OUTSIDE = 0.05  # of the length, by which a point may be outside the mask
_EDGE = 0.02  # of the image's longer side, by which a point may be outside the image
# In a mask, the centre of the largest circle is in the palm and the farthest point is on the middle
# finger. Medians over the authors' 20 registered images.
_PALM_TO_CAPITATE = 0.245  # from the palm on, of the way from the farthest point to the palm
_FINGER = 0.3  # of the palm's radius: wider than a finger, narrower than a forearm
_SKIN = 0.02  # of the hand's length, between farthest point and the phalanx's tip
_WHOLE = 0.98  # share of the image from which on a mask tells nothing
_WORDS = ('fingertip', 'thumb tip', 'capitate')  # the three key points in sentences
_COARSE = 256  # longer side to which masks are thinned for these questions


def similarity(
    tip: np.ndarray, capitate: np.ndarray, mirrored: bool, size: tuple[int, int] = SIZE
) -> np.ndarray:
    """The [3, 3] transform that takes a fingertip and a capitate to their targets.

    Args:
        tip: (row, column) in pixels of the image.
        capitate: (row, column) in pixels of the image.
        mirrored: whether to mirror the hand.
        size: of the registered image. Another one than 2080x1600 takes the scaled targets: aspect
            kept, centred.

    Raises:
        UserError: the points are the same, or not finite.
    """
    source = np.array([tip, capitate], np.float64)
    target = np.array([TIP, CAPITATE], np.float64)
    flip = np.diag([1.0, -1.0 if mirrored else 1.0])
    a = flip @ (source[0] - source[1])
    b = target[0] - target[1]
    length = a @ a
    if not np.isfinite(length) or length < 1e-12:
        raise UserError(
            'fingertip and capitate are the same point, or not finite: no similarity follows from '
            'them'
        )
    # The rotation and zoom that take a to b: b / a, as complex numbers.
    cos = (a @ b) / length
    sin = (a[0] * b[1] - a[1] * b[0]) / length
    out = np.eye(3)
    out[:2, :2] = np.array([[cos, -sin], [sin, cos]]) @ flip
    out[:2, 2] = target[1] - out[:2, :2] @ source[1]
    return transforms.fit(SIZE, size) @ out


def from_keypoints(keypoints: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The [3, 3] registration of an image from its three key points, thumb to the right."""
    tip, thumb, capitate = np.asarray(keypoints, np.float64)
    return similarity(tip, capitate, _thumb_is_left(tip, thumb, capitate), size)


def _thumb_is_left(tip, thumb, capitate):
    """Whether the thumb is left of the axis, the fingertip being straight above the capitate."""
    up = tip - capitate
    out = thumb - capitate
    return bool(up[0] * out[1] - up[1] * out[0] > 0)


def implausible(
    keypoints: np.ndarray, mask: np.ndarray | None, shape: tuple[int, int]
) -> list[str]:
    """Why key points cannot be right.

    Args:
        keypoints: [3, 2] in pixels of the image.
        mask: the hand's mask [H, W], or None: then what concerns it is not asked.
        shape: (rows, columns) of the image.

    Returns:
        Reasons in plain words; empty where nothing speaks against the points. Those that concern
        the thumb alone begin with 'thumb'.
    """
    points = np.asarray(keypoints, np.float64)
    present = np.isfinite(points).all(1)
    if not present.all():
        missing = [name for name, here in zip(keypoints_lib.NAMES, present) if not here]
        if missing == ['thumb_tip']:
            return ['thumb tip not found']
        return [f'not found: {", ".join(missing)}']
    tip, thumb, capitate = points
    length = np.hypot(*(tip - capitate))
    longer = max(shape)
    reasons = _outside_the_image(points, shape)
    if not _within(length / longer, _LENGTH):
        return [*reasons, f'hand as long as {length / longer:.2f} of the image']
    reach = np.hypot(*(thumb - capitate)) / length
    if not _within(reach, _THUMB_REACH):
        reasons.append(f'thumb reaches {reach:.2f} of the hand')
    cosine = (thumb - capitate) @ (tip - capitate) / max(reach * length**2, 1e-9)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    if not _within(angle, _THUMB_ANGLE):
        reasons.append(f'thumb at {angle:.0f} degrees from the middle finger')
    if mask is not None:
        reasons += _against_mask(points, np.asarray(mask) > 0, length)
    return reasons


def _within(value, limits):
    return limits[0] <= value <= limits[1]


def _outside_the_image(points, shape):
    room = _EDGE * max(shape)
    highest = np.array(shape) - 1 + room
    reasons = []
    for name, point in zip(_WORDS, points):
        if (point < -room).any() or (point > highest).any():
            reasons.append(f'{name} outside the image')
    return reasons


def _against_mask(points, mask, length):
    mask, factor = _thinned(mask)
    if not mask.any():
        return ['the mask is empty']
    points = (points + 0.5) / factor - 0.5
    length = length / factor
    reasons = []
    places = np.indices(mask.shape)
    for name, point in zip(_WORDS, points):
        away = np.hypot(*(point[:, None, None] - places))
        if np.where(mask, away, np.inf).min() > _OUTSIDE * length + 1:
            reasons.append(f'{name} outside the hand')
    size = length / np.sqrt(mask.sum())
    if not _within(size, _LENGTH_OF_MASK):
        reasons.append(f'hand as long as {size:.2f} times the root of its area')
    beyond = (np.argwhere(mask) - points[0]) @ (points[0] - points[2]) / length**2
    if (beyond > 0).mean() > _BEYOND[0] or beyond.max() > _BEYOND[1]:
        reasons.append(
            f'fingertip inside the hand, which goes on by {beyond.max():.2f} of its length'
        )
    return reasons


def _thinned(mask):
    """Every n-th pixel of a mask [H, W], and n."""
    step = max(1, -(-max(mask.shape) // _COARSE))
    return mask[step // 2 :: step, step // 2 :: step], step


def axis_of_mask(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Fingertip and capitate as guessed from a hand's mask [H, W]; None where it is empty.

    The largest circle inside the hand is in the palm. The fingers are on the side where a disc of
    0.3 times that radius does not fit into the hand (into a forearm it does), and there the point
    farthest from the palm is the middle one's end. Which side the thumb is on, a mask tells too
    badly (its third moment across the axis is right for 15 of the authors' 20), and 19 RSNA images
    in 20 are left hands, with the thumb to the right already.

    Errors in % of the hand's length, median / 90%: fingertip 1.2 / 2.7, capitate 5.3 / 7.4 on the
    45 DHA images (masks grown from their landmarks); 1.7 / 5.1 and 3.0 / 8.7 on 49 RSNA images with
    classical masks that had no doubts.
    """
    mask, factor = _thinned(np.asarray(mask) > 0)
    inside = np.argwhere(mask)
    if not len(inside):
        return None
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    palm = np.array(np.unravel_index(depth.argmax(), depth.shape), np.float64)
    thin = np.argwhere(_thin_parts(mask, depth, _FINGER * depth.max()))
    # Where the fingers are closed, a hand points up.
    towards = thin.mean(0) - palm if len(thin) else np.array([-1.0, 0.0])
    fingers = inside[(inside - palm) @ towards >= 0]
    far = fingers[np.square(fingers - palm).sum(1).argmax()].astype(np.float64)
    if np.hypot(*(far - palm)) < 1:
        return None
    capitate = palm - _PALM_TO_CAPITATE * (far - palm)
    tip = far - _SKIN * (far - capitate)
    return (tip + 0.5) * factor - 0.5, (capitate + 0.5) * factor - 0.5


def _thin_parts(mask, depth, radius):
    """Where no disc of `radius` fits into the mask, without what a disc leaves of a corner."""
    core = depth > radius
    thin = mask & (ndimage.distance_transform_edt(~core) > radius)
    labels, count = ndimage.label(thin)
    sizes = ndimage.sum_labels(thin, labels, np.arange(count + 1))
    return thin & (sizes[labels] > 2 * radius**2)


def register(
    shape: tuple[int, int],
    keypoints: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    size: tuple[int, int] = SIZE,
) -> tuple[np.ndarray, str, list[str]]:
    """How to register an image.

    Args:
        shape: (rows, columns) of the image.
        keypoints: [3, 2] in its pixels, or None.
        mask: the hand's mask [H, W], or None.
        size: (rows, columns) of the registered image.

    Returns:
        (transform [3, 3], how, reasons). `how`: 'keypoints'; 'axis' where fingertip and capitate
        may be right but the thumb is not (then not mirrored); 'mask' where the points are absent or
        implausible (not mirrored); 'none' where there is no mask either: the whole image, fitted
        in. `reasons`: why it is not 'keypoints'.
    """
    if mask is not None and (np.asarray(mask) > 0).mean() > _WHOLE:
        mask = None
    reasons = ['no key points'] if keypoints is None else implausible(keypoints, mask, shape)
    if not reasons:
        return from_keypoints(keypoints, size), 'keypoints', []
    if all(reason.startswith('thumb') for reason in reasons):
        tip, _, capitate = np.asarray(keypoints, np.float64)
        return similarity(tip, capitate, False, size), 'axis', reasons
    if mask is None:
        return transforms.fit(shape, size), 'none', [*reasons, 'no mask']
    axis = axis_of_mask(mask)
    if axis is None:
        return transforms.fit(shape, size), 'none', [*reasons, 'the mask has no hand']
    return similarity(*axis, False, size), 'mask', reasons


# The similarity as five numbers, for a network that regresses it (Bae et al. 2018). Coordinates are
# centred and in units of half the longer side, on both sides: an image of `shape` -> the registered
# image. No mirror: five numbers hold none, and `from_parameters` is told of it.


def parameters(keypoints, shape: tuple[int, int]) -> jax.Array:
    """(log-scale, cos, sin, dx, dy) float32 [..., 5] of the registration, from key points.

    `keypoints` are [..., 3, 2] in pixels of an image of `shape` (rows, columns). In jnp, batched,
    so that targets follow the augmented key points on the device. dx is along columns, dy along
    rows.
    """
    source = _centred(keypoints, shape)
    tip = source[..., 0, :]
    capitate = source[..., 2, :]
    target_tip = _centred(TIP, SIZE)
    target_capitate = _centred(CAPITATE, SIZE)
    # The rotation and zoom that take a to b: b / a, as complex numbers.
    a = tip - capitate
    b = target_tip - target_capitate
    length = jnp.sqrt(jnp.sum(a**2, -1))
    size = jnp.sqrt(jnp.sum(b**2))
    cos = (a[..., 0] * b[0] + a[..., 1] * b[1]) / (length * size)
    sin = (a[..., 0] * b[1] - a[..., 1] * b[0]) / (length * size)
    scale = size / length
    dy = target_capitate[0] - scale * (cos * capitate[..., 0] - sin * capitate[..., 1])
    dx = target_capitate[1] - scale * (sin * capitate[..., 0] + cos * capitate[..., 1])
    return jnp.stack([jnp.log(scale), cos, sin, dx, dy], -1)


def moved(values, points, shape: tuple[int, int]) -> jax.Array:
    """Points of an image under five numbers, centred, in units of half SIZE's longer side.

    In jnp, batched: what `from_parameters` does to one image, without a mirror.

    Args:
        values: [..., 5]; cos and sin need no unit length.
        points: [..., K, 2] in pixels of the image.
        shape: (rows, columns) of the image.

    Returns:
        [..., K, 2].
    """
    points = _centred(points, shape)
    rows = points[..., 0]
    columns = points[..., 1]
    log_scale, cos, sin, dx, dy = (values[..., i, None] for i in range(5))
    zoom = jnp.exp(log_scale) / jnp.sqrt(jnp.maximum(cos**2 + sin**2, 1e-12))
    down = zoom * (cos * rows - sin * columns) + dy
    across = zoom * (sin * rows + cos * columns) + dx
    return jnp.stack([down, across], -1)


def unflip(values) -> jax.Array:
    """The five numbers [..., 5] of an image, from those of its mirror image.

    The registered axis is on the same column for both.
    """
    log_scale, cos, sin, dx, dy = (values[..., i] for i in range(5))
    column = _centred(CAPITATE, SIZE)[1]
    return jnp.stack([log_scale, cos, -sin, 2 * column - dx, dy], -1)


def axis_points(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Key points float32 [3, 2] in pixels of an image of `shape`, from its five numbers.

    They are fingertip and capitate; the thumb is NaN. All are NaN where the hand would be of a
    length that no real hand has: `register` then takes the mask.
    """
    missing = np.full((3, 2), np.nan, np.float32)
    if not np.isfinite(values).all() or np.hypot(*values[1:3]) < 1e-6:
        return missing
    tip, capitate = transforms.apply(np.linalg.inv(from_parameters(values, shape)), [TIP, CAPITATE])
    if not _within(np.hypot(*(tip - capitate)) / max(shape), _LENGTH):
        return missing
    return np.stack([tip, np.full(2, np.nan), capitate]).astype(np.float32)


def from_parameters(
    values: np.ndarray,
    shape: tuple[int, int],
    mirrored: bool = False,
    size: tuple[int, int] = SIZE,
) -> np.ndarray:
    """The [3, 3] transform of an image onto the registered one, from the image's five numbers.

    Args:
        values: [5]; cos and sin need no unit length.
        shape: (rows, columns) of the image.
        mirrored: whether to mirror the registered image; the axis is on column 800, which stays.
        size: (rows, columns) of the registered image.
    """
    log_scale, cos, sin, dx, dy = np.asarray(values, np.float64)
    norm = np.hypot(cos, sin)
    cos = np.exp(log_scale) * cos / norm
    sin = np.exp(log_scale) * sin / norm
    move = np.array([[cos, -sin, dy], [sin, cos, dx], [0, 0, 1]])
    flip = transforms.mirror(2 * CAPITATE[1] + 1) if mirrored else np.eye(3)
    back = np.linalg.inv(_to_centred(SIZE))
    return transforms.fit(SIZE, size) @ flip @ back @ move @ _to_centred(shape)


def _to_centred(shape):
    """[3, 3] that does to pixels of an image what `_centred` does."""
    half = max(shape) / 2
    centre = transforms.shift(-(shape[0] - 1) / 2, -(shape[1] - 1) / 2)
    return np.diag([1 / half, 1 / half, 1]) @ centre


def _centred(points, shape):
    """Points [..., 2] in pixels -> float32, centred, in units of half the longer side."""
    points = jnp.asarray(points, jnp.float32)
    centre = jnp.asarray([(shape[0] - 1) / 2, (shape[1] - 1) / 2], jnp.float32)
    return (points - jnp.broadcast_to(centre, points.shape)) / (max(shape) / 2)
