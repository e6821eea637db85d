"""Hands with what was found on them: the mask's outline, key points found and true."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from boneage_jax.runtime import files

SIDE = 190  # pixels of an image's longer side on a sheet
COLUMNS = 8
WORST = 16  # images with the largest errors
SAMPLE = 32  # images of all, evenly spaced
FOUND = (86, 180, 233)
TRUE = (240, 228, 66)
OUTLINE = (0, 200, 120)
_LINE = 11  # pixels of a line of a caption


def hand(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    found: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    side: int = SIDE,
    outline: tuple[int, int, int] = OUTLINE,
) -> Image.Image:
    """An RGB picture of an image at full contrast, with what was found on it.

    Args:
        image: [H, W] uint8.
        mask: [H, W], drawn as its outline.
        found: [K, 2] (row, column), drawn as crosses; NaN for a point that was not found.
        truth: the same of the true points, drawn as rings.
        side: pixels of the picture's longer side.
        outline: the colour of the outline.
    """
    factor = side / max(image.shape)
    size = tuple(max(1, round(length * factor)) for length in reversed(image.shape))
    grey = Image.fromarray(_full_contrast(image)).resize(size, Image.Resampling.BILINEAR)
    picture = np.asarray(grey.convert('RGB')).copy()
    if mask is not None:
        picture[_border(mask, size, max(1, side // 200))] = outline
    picture = Image.fromarray(picture)
    pen = ImageDraw.Draw(picture)
    reach = max(3, side // 50)
    for row, column in _places(truth, factor):
        pen.ellipse((column - reach, row - reach, column + reach, row + reach), outline=TRUE)
    for row, column in _places(found, factor):
        pen.line((column - reach, row, column + reach, row), fill=FOUND)
        pen.line((column, row - reach, column, row + reach), fill=FOUND)
    return picture


def _full_contrast(image):
    low, high = np.percentile(image, (1, 99))
    stretched = (image.astype(np.float32) - low) * (255 / max(high - low, 1))
    return np.clip(stretched, 0, 255).astype(np.uint8)


def _border(mask, size, width):
    """The outline of a mask in a picture of `size` (columns, rows), `width` pixels thick."""
    large = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    inside = np.asarray(large.resize(size, Image.Resampling.BILINEAR)) > 127
    return inside & ~ndimage.binary_erosion(inside, iterations=width)


def _places(points, factor):
    points = np.zeros((0, 2)) if points is None else np.asarray(points, np.float64)
    return (points[np.isfinite(points).all(1)] + 0.5) * factor


def hands(
    names: list, pictures: list[Image.Image], badness: np.ndarray, path: pathlib.Path
) -> pathlib.Path:
    """Writes a sheet of hands: the worst first, then an even sample of all.

    Args:
        names: one for each picture.
        pictures: of `hand`.
        badness: [N], larger is worse.
        path: the PNG to write.

    Returns:
        `path`.
    """
    worst = np.argsort(-np.asarray(badness, np.float64), kind='stable')[:WORST]
    sample = np.linspace(0, len(names) - 1, min(len(names), SAMPLE))
    shown = []
    captions = []
    for i in worst:
        shown.append(pictures[i])
        captions.append([f'{names[i]} (worst)'])
    for i in np.unique(sample.astype(int)):
        shown.append(pictures[i])
        captions.append([str(names[i])])
    return contact_sheet(shown, captions, path, side=SIDE, columns=COLUMNS)


def contact_sheet(
    pictures: list[Image.Image],
    captions: list[list[str]],
    path: pathlib.Path,
    *,
    side: int,
    columns: int,
) -> pathlib.Path:
    """Writes pictures in rows of `columns`, each with its caption below, whole or not at all.

    Args:
        pictures: RGB, of at most `side` pixels.
        captions: a list of lines for each picture, as many for every one.
        path: the PNG to write.
        side: pixels of a cell.
        columns: pictures in a row.

    Returns:
        `path`.
    """
    height = side + _LINE * len(captions[0]) + 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new('RGB', (columns * side, rows * height))
    pen = ImageDraw.Draw(sheet)
    for place, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        x = place % columns * side
        y = place // columns * height
        sheet.paste(picture, (x, y))
        for number, line in enumerate(lines):
            pen.text((x + 2, y + side - 2 + _LINE * number), line, fill='white')
    path = pathlib.Path(path)
    with files.replacing(path) as temporary:
        sheet.save(temporary, 'PNG')
    return path
