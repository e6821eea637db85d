"""Thickness of bone and flesh on the pixel grid, each shape only inside its own bounding box."""

from functools import lru_cache

import numpy as np

from tfds_rsna.hand_phantom.shapes import Hand

_BLEND = 0.0085  # hand units over which neighbouring soft parts melt into one another (the webs)
_CORTICAL, _SPONGY = 1.0, 0.22  # attenuation per hand unit, relative to dense bone


class View:
    """Where the hand is: hand units -> pixels (x right, y down), their centres at whole numbers.

    Attributes:
        scale: pixels per hand unit.
        shift: [2], the pixel of the origin, the wrist.
        turn: [2, 2], directions in hand units -> directions in pixels, without the scale.
    """

    def __init__(self, scale: float, angle: float, mirror: int, shift: tuple | np.ndarray):
        """`angle`: radians clockwise; `mirror`: -1 for a right hand."""
        c, s = np.cos(angle), np.sin(angle)
        self.scale = scale
        self.shift = np.asarray(shift, float)
        self.turn = np.array([[mirror * c, s], [mirror * s, -c]])

    def points(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] hand units -> [..., 2] (x, y) pixels."""
        return np.asarray(points) @ self.turn.T * self.scale + self.shift

    def vector(self, vector: np.ndarray) -> np.ndarray:
        """[2] direction in hand units -> [2] direction in pixels, the length kept."""
        return self.turn @ vector


def _box(points, margin, shape):
    """Slices of the pixels around [N, 2] points, or None outside the image."""
    low = np.floor(points.min(0) - margin).astype(int)
    high = np.ceil(points.max(0) + margin).astype(int) + 1
    x0 = max(low[0], 0)
    y0 = max(low[1], 0)
    x1 = min(high[0], shape[1])
    y1 = min(high[1], shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    return slice(y0, y1), slice(x0, x1)


def _local(view, box, origin, axis):
    """Coordinates along one hand-unit axis of the box's pixels, float32 [h, w]."""
    x, y = view.points(origin)
    dx, dy = view.vector(axis) / view.scale
    columns = (np.arange(box[1].start, box[1].stop) - x) * dx
    rows = (np.arange(box[0].start, box[0].stop) - y) * dy
    return rows.astype(np.float32)[:, None] + columns.astype(np.float32)[None, :]


@lru_cache(1)
def _spongiosa():
    """A fixed 256x256 tile of trabecular texture, mean 1; the same for every image."""
    noise = np.random.default_rng(7).standard_normal((256, 256))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256) * 0.6))
    band = np.exp(-(((frequency - 0.09) / 0.05) ** 2))
    tile = np.fft.ifft2(np.fft.fft2(noise) * band).real
    return (1 + 0.14 * tile / tile.std()).astype(np.float32)


def _texture(along, across, view):
    """Spongiosa at the bone's own coordinates, fading where pixels are too coarse to show it."""
    shown = np.clip(view.scale / 250 - 0.3, 0, 1)
    i = (along * 330).astype(np.int32) & 255
    j = (across * 620).astype(np.int32) & 255
    return 1 + (_spongiosa()[i, j] - 1) * shown


def _strip(strip, view, shape):
    box = _box(view.points(strip.outline()), 1.5, shape)
    if box is None:
        return None, None
    u = _local(view, box, strip.origin, strip.axis)
    v = _local(view, box, strip.origin, strip.side)
    if strip.wedge:
        middle = (strip.start + strip.stop) / 2
        u = middle + (u - middle) / np.clip(1 + strip.wedge * v / strip.half.max(), 0.4, 2)
    place = (u - strip.start) * ((len(strip.half) - 1) / (strip.stop - strip.start))
    np.clip(place, 0, len(strip.half) - 1.001, out=place)
    cell = place.astype(np.int32)
    place -= cell
    half = strip.half.astype(np.float32)
    cortex = strip.cortex.astype(np.float32)
    wide = half[cell] + place * np.diff(half, append=half[-1:])[cell]
    v2 = v * v
    whole = np.sqrt(np.maximum(wide * wide - v2, 0))
    inner = np.maximum(wide - cortex[cell], 0)
    core = np.sqrt(np.maximum(inner * inner - v2, 0))
    first = u - strip.start
    last = strip.stop - u
    for plate, depth in zip(strip.plates, (first, last)):
        if plate:
            core *= np.clip(depth / plate, 0, 1)
    ends = np.clip(first * view.scale + 0.5, 0, 1) * np.clip(last * view.scale + 0.5, 0, 1)
    spongy = _SPONGY * core * _texture(u, v, view)
    return box, (2 * strip.density) * ends * (_CORTICAL * (whole - core) + spongy)


def _blob(blob, view, shape):
    box = _box(view.points(blob.outline()), 2, shape)
    if box is None:
        return None, None
    u = _local(view, box, blob.centre, blob.axis)
    v = _local(view, box, blob.centre, blob.side)
    a = u / blob.radii[1]
    b = v / blob.radii[0]
    radius = blob.swell(np.arctan2(a, b)) if blob.harmonics else np.float32(1)
    rho2 = (a * a + b * b) / (radius * radius)
    depth = 0.85 * min(blob.radii)
    shrink = max(1 - blob.cortex / min(blob.radii), 0.1)
    whole = np.sqrt(np.maximum(1 - rho2, 0))
    core = shrink * np.sqrt(np.maximum(1 - rho2 / shrink**2, 0))
    return box, 2 * depth * (_CORTICAL * (whole - core) + _SPONGY * core * _texture(u, v, view))


def bone(hand: Hand, view: View, shape: tuple[int, int]) -> np.ndarray:
    """Attenuation of all bones, float32 [H, W]: pieces of one bone join, short bones overlap."""
    total = np.zeros(shape, np.float32)
    for strip in hand.strips:
        box, piece = _strip(strip, view, shape)
        if box is not None:
            np.maximum(total[box], piece, out=total[box])
    for blob in hand.blobs:
        box, piece = _blob(blob, view, shape)
        if box is not None:
            below = total[box]
            # Half of what is underneath, so that overlaps stay readable.
            total[box] = np.maximum(below, piece) + 0.5 * np.minimum(below, piece)
    return total


def flesh(hand: Hand, view: View, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(thickness float32 [H, W] in hand units, inside bool [H, W]) of the soft tissue.

    The capsules melt into one another: the signed distance is -k log(sum exp(-d_i / k)), and the
    depth is blended with the same weights. The edge is rounded with the depth's radius.
    """
    total = np.zeros(shape, np.float32)
    depth = np.zeros(shape, np.float32)
    for part in hand.flesh:
        ends = view.points([part.start, part.stop])
        box = _box(ends, (max(part.radii) + 3.5 * _BLEND) * view.scale, shape)
        if box is None:
            continue
        length = np.hypot(*(part.stop - part.start))
        axis = (part.stop - part.start) / length
        u = _local(view, box, part.start, axis)
        v = _local(view, box, part.start, np.array([axis[1], -axis[0]]))
        t = np.clip(u, 0, length)
        radius = part.radii[0] + (part.radii[1] - part.radii[0]) / length * t
        distance = np.sqrt((u - t) ** 2 + v * v) - radius
        weight = np.exp(distance * np.float32(-1 / _BLEND))
        total[box] += weight
        depth[box] += weight * np.float32(part.depth)
    inside = total > 1
    depth /= np.maximum(total, 1e-6)
    within = np.minimum(np.log(np.maximum(total, 1)) * np.float32(_BLEND), depth)
    return 2 * np.sqrt(np.maximum(within * (2 * depth - within), 0)), inside
