"""Registration of a hand by a similarity from its key points (Iglovikov et al. 2018, section 2.2).

The tip of the middle finger goes to (row 100, column 800) and the capitate's centre to (row 1600,
column 800) of 2080 x 1600 pixels, mirrored where needed so that the thumb ends on the right; the
aspect ratio is kept. Key points are [3, 2] (row, column), in the order of `keypoints.NAMES`. Where
they cannot be right, the hand's mask stands in, and the image says so.
"""

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from boneage_jax.preprocess import keypoints as keypoints_lib
from boneage_jax.preprocess import transform as transforms
from tfds_rsna.errors import UserError

SIZE = (2080, 1600)  # rows x columns of a registered image
TIP, CAPITATE = (100, 800), (1600, 800)  # targets, in pixels of SIZE

# What real hands show, in 534 annotated RSNA images and 45 of the DHA (extremes in brackets), with
# room beyond:
_LENGTH = (0.20, 1.0)  # fingertip to capitate, of the image's longer side (0.28 to 0.76)
_THUMB_REACH = (0.50, 0.90)  # capitate to thumb tip, of that length (0.59 to 0.79)
_THUMB_ANGLE = (
    12,
    95,
)  # degrees between the thumb tip and the fingertip, seen from the capitate (21 to 85)
# ... and what masks show, of 150 phantoms and of the 45 DHA images (there grown from the landmarks by a watershed):
_LENGTH_OF_MASK = (0.80, 1.80)  # length by the square root of the mask's area (1.15 to 1.46)
_BEYOND = (
    0.04,
    0.08,
)  # mask beyond the fingertip: share of its area, reach by length (0.025, 0.06)
_OUTSIDE = 0.05  # of the length, by which a point may lie outside the mask
_EDGE = 0.02  # of the image's longer side, by which a point may lie outside the image
# In the mask: the centre of the largest circle in it lies in the palm, the mask's farthest point on
# the middle finger. Medians over the authors' 20 registered images.
_PALM_TO_CAPITATE = 0.245  # of the way from farthest point to palm, to be gone on beyond the palm
_FINGER = 0.3  # of the palm's radius: wider than a finger, narrower than a forearm
_SKIN = 0.02  # of the hand's length, between farthest point and the phalanx's tip
_WHOLE = 0.98  # share of the image from which on a mask says nothing
_COARSE = 256  # longer side to which masks are thinned for these questions


def similarity(tip, capitate, mirrored, size=SIZE):
    """The [3, 3] transform that takes a fingertip and a capitate (row, column) to their targets on
    `size`.

    `mirrored`: whether to mirror the hand. A `size` other than 2080x1600 takes the scaled targets:
    aspect kept, centred.
    """
    source = np.array([tip, capitate], np.float64)
    target = np.array([TIP, CAPITATE], np.float64)
    flip = np.diag([1.0, -1.0 if mirrored else 1.0])
    a, b = flip @ (source[0] - source[1]), target[0] - target[1]
    length = a @ a
    if not np.isfinite(length) or length < 1e-12:
        raise UserError(
            'fingertip and capitate are the same point, or not finite: no similarity follows from them'
        )
    # The rotation and zoom that take a to b, as complex numbers do it.
    cos, sin = (a @ b) / length, (a[0] * b[1] - a[1] * b[0]) / length
    out = np.eye(3)
    out[:2, :2] = np.array([[cos, -sin], [sin, cos]]) @ flip
    out[:2, 2] = target[1] - out[:2, :2] @ source[1]
    return transforms.fit(SIZE, size) @ out


def from_keypoints(keypoints, size=SIZE):
    """The [3, 3] registration of an image from its three key points, thumb to the right."""
    tip, thumb, capitate = np.asarray(keypoints, np.float64)
    return similarity(tip, capitate, _thumb_is_left(tip, thumb, capitate), size)


def _thumb_is_left(tip, thumb, capitate):
    """Whether the thumb lies left of the axis for who looks from the capitate to the fingertip,
    this being up.
    """
    up, out = tip - capitate, thumb - capitate
    return bool(up[0] * out[1] - up[1] * out[0] > 0)


def implausible(keypoints, mask, shape):
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
    if not np.isfinite(points).all():
        missing = [
            name for name, point in zip(keypoints_lib.NAMES, points) if not np.isfinite(point).all()
        ]
        return [
            (
                'thumb tip not found'
                if missing == ['thumb_tip']
                else f'not found: {", ".join(missing)}'
            )
        ]
    names = ('fingertip', 'thumb tip', 'capitate')
    tip, thumb, capitate = points
    length = np.hypot(*(tip - capitate))
    longer = max(shape)
    reasons = []
    for name, point in zip(names, points):
        if (point < -_EDGE * longer).any() or (point > np.array(shape) - 1 + _EDGE * longer).any():
            reasons.append(f'{name} outside the image')
    if not _within(length / longer, _LENGTH):
        return [*reasons, f'hand as long as {length / longer:.2f} of the image']
    reach = np.hypot(*(thumb - capitate)) / length
    if not _within(reach, _THUMB_REACH):
        reasons.append(f'thumb reaches {reach:.2f} of the hand')
    cosine = (thumb - capitate) @ (tip - capitate) / max(reach * length**2, 1e-9)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    if not _within(angle, _THUMB_ANGLE):
        reasons.append(f'thumb at {angle:.0f} degrees from the middle finger')
    return (
        reasons if mask is None else reasons + _against_mask(points, np.asarray(mask) > 0, length)
    )


def _within(value, limits):
    return limits[0] <= value <= limits[1]


def _against_mask(points, mask, length):
    mask, factor = _thinned(mask)
    if not mask.any():
        return ['the mask is empty']
    points, length = (points + 0.5) / factor - 0.5, length / factor
    reasons = []
    away = np.hypot(*(points[:, :, None, None] - np.indices(mask.shape)).transpose(1, 0, 2, 3))
    for name, distance in zip(
        ('fingertip', 'thumb tip', 'capitate'), np.where(mask, away, np.inf).min((1, 2))
    ):
        if distance > _OUTSIDE * length + 1:
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


def axis_of_mask(mask):
    """Fingertip and capitate as the mask [H, W] of a hand lets one guess them, or None where it is
    empty.

    The largest circle inside the hand lies in the palm. On the side where a disc of 0.3 times that
    radius does not fit into the hand (into a forearm it does) are the fingers, and there the point
    farthest from the palm is the middle one's end. Which side the thumb is on, a mask tells too
    badly (its third moment across the axis: 15 of the authors' 20), and 19 RSNA images in 20 are
    left hands, with the thumb to the right already.

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
    towards = (
        thin.mean(0) - palm if len(thin) else np.array([-1.0, 0.0])
    )  # fingers closed: a hand points up
    fingers = inside[(inside - palm) @ towards >= 0]
    far = fingers[np.square(fingers - palm).sum(1).argmax()].astype(np.float64)
    if np.hypot(*(far - palm)) < 1:
        return None
    capitate = palm - _PALM_TO_CAPITATE * (far - palm)
    tip = far - _SKIN * (far - capitate)
    return tuple((point + 0.5) * factor - 0.5 for point in (tip, capitate))


def _thin_parts(mask, depth, radius):
    """Where no disc of `radius` fits into the mask, without crumbs (what a disc leaves of a
    corner).
    """
    core = depth > radius
    thin = mask & (ndimage.distance_transform_edt(~core) > radius)
    labels, count = ndimage.label(thin)
    sizes = ndimage.sum_labels(thin, labels, np.arange(count + 1))
    return thin & (sizes[labels] > 2 * radius**2)


def register(shape, keypoints=None, mask=None, size=SIZE):
    """How to register an image.

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
    axis = None if mask is None else axis_of_mask(mask)
    if axis is None:
        return (
            transforms.fit(shape, size),
            'none',
            [*reasons, 'no mask' if mask is None else 'the mask has no hand'],
        )
    return similarity(*axis, False, size), 'mask', reasons


def register_stage(example, *, size=SIZE):
    """An image dict -> the registered image of `size`: image, mask, points and boxes carried along,
    one resampling.

    A mask with `mask_doubts` speaks neither against the key points nor in their stead. Adds
    `registered` (see `register`), `doubts` (why not by the key points, '' otherwise) and
    `transform` [3, 3].
    """
    transform, found = register_example(example, size)
    return transforms.transform_example(example, transform, size) | found


def register_example(example, size=SIZE):
    """`register` for an image dict: the transform, and the entries `registered` and `doubts`."""
    mask = None if example.get('mask_doubts') else example.get('hand_mask')
    transform, how, reasons = register(
        example['image'].shape[:2], example.get('keypoints'), mask, size
    )
    return transform, {'registered': how, 'doubts': '; '.join(reasons)}


# The similarity as five numbers, for a network that regresses it (Bae et al. 2018). Coordinates are
# centred and in units of half the longer side, on both sides: an image of `shape` -> the registered
# image. No mirror: five numbers hold none, and `from_parameters` takes it apart.


def parameters(keypoints, shape):
    """(log-scale, cos, sin, dx, dy) float32 [..., 5] of the registration, from key points [..., 3,
    2] in pixels.

    `shape` is that of the image which they lie in, (rows, columns). In jnp, batched, so that
    targets follow the augmented key points on the device. dx is along columns, dy along rows.
    """
    source, half = _centred(jnp.asarray(keypoints, jnp.float32), shape)
    tip, capitate = source[..., 0, :], source[..., 2, :]
    target_tip, target_capitate = (
        _centred(jnp.asarray(point, jnp.float32), SIZE)[0] for point in (TIP, CAPITATE)
    )
    a, b = tip - capitate, target_tip - target_capitate
    length = jnp.sqrt(jnp.sum(a**2, -1))
    size = jnp.sqrt(jnp.sum(b**2))
    cos = (a[..., 0] * b[0] + a[..., 1] * b[1]) / (length * size)
    sin = (a[..., 0] * b[1] - a[..., 1] * b[0]) / (length * size)
    scale = size / length
    dy = target_capitate[0] - scale * (cos * capitate[..., 0] - sin * capitate[..., 1])
    dx = target_capitate[1] - scale * (sin * capitate[..., 0] + cos * capitate[..., 1])
    return jnp.stack([jnp.log(scale), cos, sin, dx, dy], -1)


def moved(values, points, shape):
    """Points [..., K, 2] of an image of `shape` under five numbers [..., 5]: centred, in units of
    half SIZE's longer side.

    In jnp, batched; what `from_parameters` does to one image (cos and sin need no unit length),
    without a mirror.
    """
    points, (log_scale, cos, sin, dx, dy) = (
        _centred(points, shape)[0],
        (values[..., i, None] for i in range(5)),
    )
    zoom = jnp.exp(log_scale) / jnp.sqrt(jnp.maximum(cos**2 + sin**2, 1e-12))
    rows, columns = points[..., 0], points[..., 1]
    return jnp.stack(
        [zoom * (cos * rows - sin * columns) + dy, zoom * (sin * rows + cos * columns) + dx], -1
    )


def unflip(values):
    """The five numbers [..., 5] of an image, from those of its mirror image: the axis stands on one
    column for both.
    """
    log_scale, cos, sin, dx, dy = (values[..., i] for i in range(5))
    column = _centred(jnp.asarray(CAPITATE, jnp.float32), SIZE)[0][1]
    return jnp.stack([log_scale, cos, -sin, 2 * column - dx, dy], -1)


def axis_points(values, shape):
    """Key points float32 [3, 2] in pixels of an image of `shape`, from its five numbers: fingertip
    and capitate, no thumb (NaN).

    All NaN where the hand would be of a length that no real hand has: `register` then turns to the
    mask.
    """
    if not np.isfinite(values).all() or np.hypot(*values[1:3]) < 1e-6:
        return np.full((3, 2), np.nan, np.float32)
    tip, capitate = transforms.apply(np.linalg.inv(from_parameters(values, shape)), [TIP, CAPITATE])
    likely = _within(np.hypot(*(tip - capitate)) / max(shape), _LENGTH)
    return np.stack([tip, np.full(2, np.nan), capitate]).astype(np.float32) * (
        1 if likely else np.nan
    )


def from_parameters(values, shape, mirrored=False, size=SIZE):
    """The [3, 3] transform of an image of `shape` onto `size`, from one image's five numbers.

    cos and sin need no unit length. `mirrored` mirrors the registered image: the axis lies on
    column 800, which stays.
    """
    log_scale, cos, sin, dx, dy = np.asarray(values, np.float64)
    norm = np.hypot(cos, sin)
    cos, sin = np.exp(log_scale) * cos / norm, np.exp(log_scale) * sin / norm
    move = np.array([[cos, -sin, dy], [sin, cos, dx], [0, 0, 1]])
    into, out = _to_centred(shape), np.linalg.inv(_to_centred(SIZE))
    flip = transforms.mirror(2 * CAPITATE[1] + 1) if mirrored else np.eye(3)
    return transforms.fit(SIZE, size) @ flip @ out @ move @ into


def _to_centred(shape):
    half = max(shape) / 2
    return np.diag([1 / half, 1 / half, 1]) @ transforms.shift(
        -(shape[0] - 1) / 2, -(shape[1] - 1) / 2
    )


def _centred(points, shape):
    """Points [..., 2] in pixels -> centred, in units of half the longer side; and that half."""
    half = max(shape) / 2
    centre = jnp.broadcast_to(
        jnp.asarray([(shape[0] - 1) / 2, (shape[1] - 1) / 2], jnp.float32), points.shape
    )
    return (points - centre) / half, half
