"""The lead marker: the side's letter and the technician's initials, as strokes, so that no font file is needed."""
import numpy as np

# Strokes on a grid 2 wide and 4 high ("xy", y down); strokes are separated by blanks.
_LETTERS = {
    'A': '041024 0323', 'B': '0400102112 1202 122304', 'C': '2110000424', 'D': '040010212314 1404',
    'E': '20000424 0212', 'F': '200004 0212', 'G': '2100042422 1222', 'H': '0004 2024 0222', 'J': '202314 1403',
    'K': '0004 2002 0224', 'L': '000424', 'M': '0400122024', 'N': '04002420', 'P': '04002022 2202', 'R': '0400202202 1224',
    'S': '2000022224 2404', 'T': '0020 1014', 'V': '001420', 'W': '0004122420', 'Y': '0012 2012 1214', 'Z': '00200424'}
INITIALS = tuple('ABCDEFGHJKLMNPRSTVWZ')


def _strokes(letter):
    for stroke in _LETTERS[letter].split():
        points = np.array([(int(stroke[i]) / 2, int(stroke[i + 1]) / 4) for i in range(0, len(stroke), 2)])
        yield from zip(points[:-1], points[1:])


def layout(side, initials, stacked):
    """Stroke segments [N, 2, 2] (x, y) of a marker, the side's letter 1 high, and its (width, height)."""
    segments = [np.array(s) * (.55, 1) for s in _strokes(side)]
    if stacked:
        for k, letter in enumerate(initials):
            segments += [np.array(s) * (.32, .40) + (.10, 1.2 + .55 * k) for s in _strokes(letter)]
        return np.array(segments), (.6, 1.2 + .55 * len(initials))
    for k, letter in enumerate(initials):
        segments += [np.array(s) * (.28, .45) + (.42 * k - .1, 1.25) for s in _strokes(letter)]
    return np.array(segments), (.42 * max(len(initials), 1) + .1, 1.75)


def coverage(segments, width, shape, origin):
    """How much of each pixel [h, w] the strokes cover; `segments` [N, 2, 2] and `origin` (x, y) in pixels."""
    y, x = np.mgrid[:shape[0], :shape[1]].astype(np.float32)
    x, y = x + origin[0], y + origin[1]
    nearest = np.full(shape, np.inf, np.float32)
    for (x0, y0), (x1, y1) in segments:
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        np.minimum(nearest, np.hypot(x - x0 - t * dx, y - y0 - t * dy), out=nearest)
    return np.clip(width / 2 - nearest + .5, 0, 1)
