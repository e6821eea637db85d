"""The lead marker: the side's letter and the technician's initials, drawn without a font."""

import numpy as np

# Strokes on a grid 2 wide and 4 high, each point two digits (x, y; y down); blanks separate
# strokes.
_LETTERS = {
    'A': '041024 0323',
    'B': '0400102112 1202 122304',
    'C': '2110000424',
    'D': '040010212314 1404',
    'E': '20000424 0212',
    'F': '200004 0212',
    'G': '2100042422 1222',
    'H': '0004 2024 0222',
    'J': '202314 1403',
    'K': '0004 2002 0224',
    'L': '000424',
    'M': '0400122024',
    'N': '04002420',
    'P': '04002022 2202',
    'R': '0400202202 1224',
    'S': '2000022224 2404',
    'T': '0020 1014',
    'V': '001420',
    'W': '0004122420',
    'Z': '00200424',
}
_INITIALS = tuple(_LETTERS)


def strokes(letter: str) -> np.ndarray:
    """[N, 2, 2] segments of a letter in a unit square."""
    segments = []
    for stroke in _LETTERS[letter].split():
        points = np.array([int(digit) for digit in stroke], float).reshape(-1, 2) / (2, 4)
        segments += zip(points[:-1], points[1:])
    return np.array(segments)


def _layout(side: str, initials: str, stacked: bool) -> tuple[np.ndarray, np.ndarray]:
    """Segments [N, 2, 2] (x, y) with the side's letter 1 high, and the whole's (width, height)."""
    parts = [strokes(side) * (0.55, 1)]
    for k, letter in enumerate(initials):
        if stacked:
            size = (0.32, 0.40)
            place = (0.10, 1.2 + 0.55 * k)
        else:
            size = (0.28, 0.45)
            place = (0.42 * k, 1.25)
        parts.append(strokes(letter) * size + place)
    segments = np.concatenate(parts)
    return segments, segments.max((0, 1))


def _seat(joints, reach, mirror, size, rng) -> np.ndarray:
    """A place (x, y) on the little finger's side, clear of the hand if any place drawn is."""
    side = min(size)
    frame = np.array(size[::-1])
    seats = rng.uniform((0.01, 0.05), (0.24, 0.95), (24, 2))
    if mirror < 0:
        seats[:, 0] = 1 - seats[:, 0]
    seats = np.clip(seats * side + (frame - side) / 2, reach, frame - 1 - reach)
    clear = np.hypot(*(seats[:, None] - joints[None]).T).min(0) - reach
    free = np.flatnonzero(clear > 0.07 * side)
    if free.size:
        return seats[free[0]]
    return seats[clear.argmax()]


def mark(grey: np.ndarray, joints: np.ndarray, mirror: int, rng: np.random.Generator) -> None:
    """Draws a marker on an image, in place.

    Args:
        grey: float32 [H, W].
        joints: [N, 2] (x, y) in pixels, which the marker keeps away from.
        mirror: -1 for a right hand.
        rng: draws the letters, their size and their place.
    """
    side = min(grey.shape)
    initials = ''.join(rng.choice(_INITIALS, rng.integers(1, 4)))
    segments, extent = _layout('L' if mirror > 0 else 'R', initials, rng.random() < 0.3)
    height = rng.uniform(0.045, 0.085) * side
    angle = rng.normal(0, 0.22) + rng.choice([0, 0, 0, 0, 0.6])
    plate = rng.random() < 0.6
    lead = rng.uniform(185, 255)
    stroke = rng.uniform(0.11, 0.17) * height
    extent = extent * height
    reach = np.hypot(*extent) / 2 + 0.2 * height
    seat = _seat(joints, reach, mirror, grey.shape, rng)
    c, s = np.cos(angle), np.sin(angle)
    lines = (segments * height - extent / 2) @ np.array([[c, s], [-s, c]]) + seat
    low = np.maximum(seat - reach, 0).astype(int)
    area = grey[low[1] : int(seat[1] + reach) + 2, low[0] : int(seat[0] + reach) + 2]
    x = np.arange(area.shape[1], dtype=np.float32)[None, :] + low[0]
    y = np.arange(area.shape[0], dtype=np.float32)[:, None] + low[1]
    if plate:
        u = np.abs(c * (x - seat[0]) + s * (y - seat[1]))
        v = np.abs(c * (y - seat[1]) - s * (x - seat[0]))
        inside = np.minimum(extent[0] / 2 + 0.16 * height - u, extent[1] / 2 + 0.16 * height - v)
        area += np.clip(inside + 0.5, 0, 1) * np.float32(6 + 0.08 * lead)
    nearest = np.full(area.shape, np.inf, np.float32)
    for (x0, y0), (x1, y1) in lines:
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        np.minimum(nearest, np.hypot(x - x0 - t * dx, y - y0 - t * dy), out=nearest)
    faint = min(stroke, 1)  # where it is thinner than a pixel
    cover = np.clip(stroke / 2 - nearest + 0.5, 0, 1) * faint
    area += (np.float32(lead) - area) * cover
