"""Contact sheets of a round: films with the outline of their masks."""

import io

import numpy as np
from PIL import Image, ImageDraw

from boneage_jax import figures

_SIDE = 150  # pixels of a film on a sheet
_COLUMNS, _ROWS = 10, 6
COLOURS = {True: (0, 200, 120), False: (230, 97, 0)}  # accepted, refused: apart in brightness too


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, 'PNG')
    return stream.getvalue()


def draw(films, mask_of, rows, accepted, folder):
    """Writes `accepted.png` and `refused.png` into `folder`: up to 60 films each, evenly drawn, captioned with why."""
    for name, wanted in (('accepted', True), ('refused', False)):
        chosen = [i for i, row in enumerate(rows) if (row['id'] in accepted) == wanted]
        if not chosen:
            (folder / f'{name}.png').unlink(missing_ok=True)
            continue
        chosen = [chosen[int(k)] for k in np.linspace(0, len(chosen) - 1, min(len(chosen), _COLUMNS * _ROWS))]
        sheet = Image.new('RGB', (_COLUMNS * _SIDE, -(-len(chosen) // _COLUMNS) * (_SIDE + 24)))
        pen = ImageDraw.Draw(sheet)
        for place, i in enumerate(chosen):
            x, y = place % _COLUMNS * _SIDE, place // _COLUMNS * (_SIDE + 24)
            sheet.paste(figures.hand(films[i]['image'][..., 0], mask_of(i), side=_SIDE - 2, outline=COLOURS[wanted]), (x, y))
            why = rows[i]['reasons']
            pen.text((x + 2, y + _SIDE - 2), f'{rows[i]["id"]}: {rows[i]["measures"]["agreement"]:.2f}', fill='white')
            pen.text((x + 2, y + _SIDE + 9), ', '.join(reason.partition(':')[0] for reason in why)[:24], fill='white')
        partial = folder / f'.{name}.png'
        sheet.save(partial, 'PNG')
        partial.rename(folder / f'{name}.png')
