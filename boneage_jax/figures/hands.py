"""Hands with what was found on them: the mask's outline, the key points found and, where known, the
true ones.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

SIDE = 190  # pixels of an image's longer side on a sheet
COLUMNS, WORST, SAMPLE = 8, 16, 32
_LINE = 11  # pixels of a line of a caption
FOUND, TRUE, OUTLINE = (86, 180, 233), (240, 228, 66), (0, 200, 120)


def hand(image, mask=None, found=None, truth=None, side=SIDE, outline=OUTLINE):
    """An RGB picture of an image uint8 [H, W] at full contrast, its longer side `side` pixels.

    `mask` [H, W] is drawn as its outline, the points `found` and `truth` [K, 2] (row, column) as
    crosses and rings.
    """
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image.astype(np.float32) - low) * (255 / max(high - low, 1)), 0, 255).astype(
        np.uint8
    )
    factor = side / max(image.shape)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    picture = np.asarray(
        Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert('RGB')
    ).copy()
    if mask is not None:
        large = (
            np.asarray(
                Image.fromarray((mask > 0).astype(np.uint8) * 255).resize(
                    size, Image.Resampling.BILINEAR
                )
            )
            > 127
        )
        picture[large & ~ndimage.binary_erosion(large, iterations=max(1, side // 200))] = outline
    picture = Image.fromarray(picture)
    pen, reach = ImageDraw.Draw(picture), max(3, side // 50)
    for row, column in _places(truth, factor):
        pen.ellipse((column - reach, row - reach, column + reach, row + reach), outline=TRUE)
    for row, column in _places(found, factor):
        pen.line((column - reach, row, column + reach, row), fill=FOUND)
        pen.line((column, row - reach, column, row + reach), fill=FOUND)
    return picture


def _places(points, factor):
    points = np.zeros((0, 2)) if points is None else np.asarray(points, np.float64)
    return (points[np.isfinite(points).all(1)] + 0.5) * factor


def hands(names, pictures, badness, path):
    """Writes a sheet of `pictures` (of `hand`): the worst first, by `badness` [N], then an even
    sample of all; -> path.
    """
    order = np.argsort(-np.asarray(badness, np.float64), kind='stable')[:WORST]
    sample = np.unique(np.linspace(0, len(names) - 1, min(len(names), SAMPLE)).astype(int))
    captions = [[f'{names[i]} (worst)'] for i in order] + [[str(names[i])] for i in sample]
    return contact_sheet(
        [pictures[i] for i in (*order, *sample)], captions, path, side=SIDE, columns=COLUMNS
    )


def contact_sheet(pictures, captions, path, *, side, columns):
    """Writes RGB `pictures` of at most `side` pixels in rows of `columns`, each with its caption, a
    list of lines, below; -> path.

    Every caption has as many lines. The file is whole or absent.
    """
    height = side + _LINE * len(captions[0]) + 2
    sheet = Image.new('RGB', (columns * side, -(-len(pictures) // columns) * height))
    pen = ImageDraw.Draw(sheet)
    for place, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        x, y = place % columns * side, place // columns * height
        sheet.paste(picture, (x, y))
        for number, line in enumerate(lines):
            pen.text((x + 2, y + side - 2 + _LINE * number), line, fill='white')
    path = Path(path)
    partial = path.with_name(f'.{path.name}')
    sheet.save(partial, 'PNG')
    partial.rename(path)
    return path
