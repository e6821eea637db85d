"""Contact sheets of a round: films with the outline of their masks."""

import io

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

_SIDE = 150  # pixels of a film on a sheet
_COLUMNS, _ROWS = 10, 6
COLOURS = {True: (0, 200, 120), False: (230, 97, 0)}  # accepted, refused: apart in brightness too


def overlay(image, mask, side, colour):
    """An RGB picture of a film uint8 `[H, W]` at full contrast, its longer side `side` pixels, with the mask's outline."""
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image.astype(np.float32) - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
    factor = side / max(image.shape)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    picture = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert('RGB')).copy()
    large = np.asarray(Image.fromarray((mask > 0).astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127
    outline = large & ~ndimage.binary_erosion(large, iterations=max(1, side // 200))
    picture[outline] = colour
    return Image.fromarray(picture)


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
            sheet.paste(overlay(films[i]['image'][..., 0], mask_of(i), _SIDE - 2, COLOURS[wanted]), (x, y))
            why = rows[i]['reasons']
            pen.text((x + 2, y + _SIDE - 2), f'{rows[i]["id"]}: {rows[i]["measures"]["agreement"]:.2f}', fill='white')
            pen.text((x + 2, y + _SIDE + 9), ', '.join(reason.partition(':')[0] for reason in why)[:24], fill='white')
        partial = folder / f'.{name}.png'
        sheet.save(partial, 'PNG')
        partial.rename(folder / f'{name}.png')
