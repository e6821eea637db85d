"""What a page shows of an image: a small picture, the outline, points, parts and maps on it."""

import base64
import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from PIL import Image
from skimage import measure

from boneage_jax.figures import overlays
from boneage_jax.inference import pictures
from boneage_jax.inference.images import Seen

SIDE = 640  # pixels of a picture's longer side
_POINTS = ('fingertip', 'thumb tip', 'capitate')
_OPACITY = (25, 190)  # of 255, of the least and the largest value of a map
_TOLERANCE = 0.4  # pixels of the mask by which its outline is simplified


def view(seen: Seen, own: Mapping, hidden: np.ndarray | None = None) -> dict:
    """The picture of an image, JSON-ready; places are (x, y) in pixels of the picture.

    Args:
        seen: the image, with its native one.
        own: the network's auxiliary outputs of it.
        hidden: months [h, w] by which the age changes where a place is hidden, or None.

    Returns:
        `picture` (a data URL), `width`, `height`; where they are known `outlines` of the hand,
        `points` by name, `parts` (corners, the best first) and `maps` (title, picture).
    """
    image = Image.fromarray(seen.native)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    shown = {'picture': _url(image, 'JPEG'), 'width': image.width, 'height': image.height}
    rows, columns = seen.native.shape
    if seen.hand is not None:
        shape = seen.hand.mask.shape
        scale = np.array([image.height / shape[0], image.width / shape[1]])
        shown['outlines'] = _outlines(seen.hand.mask, scale)
        places = (seen.hand.points + 0.5) * scale
        shown['points'] = dict(zip(_POINTS, _xy(places)))
    if seen.refusal:
        return shown
    scale = np.array([image.height / rows, image.width / columns])
    boxes = own.get('part_boxes')
    if boxes is not None:
        parts = []
        for box in np.asarray(boxes)[np.asarray(own['part_valid'], bool)]:
            parts.append(_xy(overlays.corners(box, seen.matrix) * scale))
        shown['parts'] = parts
    maps = []
    for title, values in _maps(own, hidden).items():
        box = (0, 0, *seen.image.shape[:2])
        if title == 'attention' and own.get('map_box') is not None:
            box = own['map_box']
        overlay = _laid_over(np.asarray(values), box, seen.matrix, scale, image.size)
        maps.append({'title': title, 'picture': _url(overlay, 'PNG')})
    if maps:
        shown['maps'] = maps
    return shown


def _maps(own, hidden):
    """The network's own maps by title, and the one of what was hidden."""
    found = pictures.maps(own)
    if hidden is not None:
        found[f'hiding the brightest place changes the age by {hidden.max():.1f} months'] = hidden
    return found


def _outlines(mask, scale):
    """The outlines of a mask [h, w] on a picture that is `scale` (rows, columns) as large."""
    outlines = []
    for line in measure.find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        line = measure.approximate_polygon(line, _TOLERANCE)
        outlines.append(_xy((line - 0.5) * scale))  # the padding's pixel, and from centres to edges
    return outlines


def _laid_over(values, box, matrix, scale, size):
    """A map over its box of what the network saw, as an RGBA picture of `size` over the image.

    Args:
        values: [h, w].
        box: (top, left, bottom, right) on what the network saw.
        matrix: [2, 3], from there to the image.
        scale: (rows, columns) of the picture by those of the image.
        size: (columns, rows) of the picture.
    """
    top, left, bottom, right = box
    height, width = values.shape
    # From a place on the map to one on the picture, both as (row, column, 1).
    onto_seen = np.array(
        [[(bottom - top) / height, 0, top], [0, (right - left) / width, left], [0, 0, 1]]
    )
    onto_image = np.vstack([matrix, [0, 0, 1]])
    onto_picture = np.diag([*scale, 1]) @ onto_image @ onto_seen
    (a, b, c), (d, e, f), _ = np.linalg.inv(onto_picture)
    spread = max(float(np.ptp(values)), 1e-12)
    even = ((values - values.min()) / spread * 255).astype(np.uint8)
    colours = matplotlib.colormaps['inferno'](even, bytes=True)
    colours[..., 3] = _OPACITY[0] + even * ((_OPACITY[1] - _OPACITY[0]) / 255)
    how = (e, d, f, b, a, c)  # Pillow counts x, y
    return Image.fromarray(colours).transform(
        size, Image.Transform.AFFINE, how, Image.Resampling.BILINEAR
    )


def _xy(places):
    """Places [N, 2] (row, column) as rounded [x, y]."""
    return np.round(np.asarray(places, np.float64)[:, ::-1], 1).tolist()


def _url(image, kind):
    data = io.BytesIO()
    image.save(data, kind, quality=85)
    text = base64.b64encode(data.getvalue()).decode()
    return f'data:image/{kind.lower()};base64,{text}'
