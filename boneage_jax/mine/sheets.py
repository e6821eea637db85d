"""Contact sheets of a round: images with the outline of their masks."""

import io

import numpy as np

from boneage_jax import figures

_SIDE = 150  # pixels of an image on a sheet
_COLUMNS, _ROWS = 10, 6
COLOURS = {True: (0, 200, 120), False: (230, 97, 0)}  # accepted, refused: apart in brightness too


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, 'PNG')
    return stream.getvalue()


def draw(images, mask_of, rows, accepted, folder):
    """Writes `accepted.png` and `refused.png` into `folder`: up to 60 images each, evenly drawn,
    captioned with why.
    """
    for name, wanted in (('accepted', True), ('refused', False)):
        chosen = [i for i, row in enumerate(rows) if (row['id'] in accepted) == wanted]
        if not chosen:
            (folder / f'{name}.png').unlink(missing_ok=True)
            continue
        chosen = [
            chosen[int(k)]
            for k in np.linspace(0, len(chosen) - 1, min(len(chosen), _COLUMNS * _ROWS))
        ]
        pictures = [
            figures.hand(
                images[i]['image'][..., 0], mask_of(i), side=_SIDE - 2, outline=COLOURS[wanted]
            )
            for i in chosen
        ]
        captions = [
            [
                f'{rows[i]["id"]}: {rows[i]["measures"]["agreement"]:.2f}',
                ', '.join(reason.partition(':')[0] for reason in rows[i]['reasons'])[:24],
            ]
            for i in chosen
        ]
        figures.contact_sheet(
            pictures, captions, folder / f'{name}.png', side=_SIDE, columns=_COLUMNS
        )
