"""Contact sheets of a round: images with the outline of their masks."""

import io
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from boneage_jax import figures

_SIDE = 150  # pixels of an image on a sheet
_COLUMNS = 10
_ROWS = 6
COLOURS = {True: (0, 200, 120), False: (230, 97, 0)}  # accepted, refused: apart in brightness too


def png(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    stream = io.BytesIO()
    picture.save(stream, 'PNG')
    return stream.getvalue()


def draw(images, mask_of: Callable, rows: list[dict], accepted: dict, folder: pathlib.Path) -> None:
    """Writes `accepted.png` and `refused.png`: up to 60 images each, captioned with why.

    Args:
        images: `images[i]['image']` is uint8 `[H, W, 1]`.
        mask_of: `mask_of(i)` is the mask `[H, W]` of image i.
        rows: what the rule found, `[{'id', 'measures', 'reasons'}]`, one an image.
        accepted: `{id: ...}` of the accepted images.
        folder: where the sheets go.
    """
    for name, wanted in (('accepted', True), ('refused', False)):
        path = folder / f'{name}.png'
        found = [i for i, row in enumerate(rows) if (row['id'] in accepted) == wanted]
        if not found:
            path.unlink(missing_ok=True)
            continue
        pictures = []
        captions = []
        for place in np.linspace(0, len(found) - 1, min(len(found), _COLUMNS * _ROWS)):
            i = found[int(place)]
            image = images[i]['image'][..., 0]
            pictures.append(
                figures.hand(image, mask_of(i), side=_SIDE - 2, outline=COLOURS[wanted])
            )
            captions.append(_caption(rows[i]))
        figures.contact_sheet(pictures, captions, path, side=_SIDE, columns=_COLUMNS)


def _caption(row):
    """Two lines: the image and its agreement, the rules that refuse it."""
    rules = ', '.join(reason.partition(':')[0] for reason in row['reasons'])
    return [f'{row["id"]}: {row["measures"]["agreement"]:.2f}', rules[:24]]
