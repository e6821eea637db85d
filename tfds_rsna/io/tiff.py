"""What Pillow leaves open in a TIFF: which page is the image, what stands for no data, 48 bits."""

import io
import logging
import warnings

import numpy as np
from PIL import Image

logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # a damaged file is named by the error
_SUBFILE = 254  # bit 0: a reduced copy of another page; bit 2: a mask of another page
_OLD_SUBFILE = 255  # 2: a reduced copy
_BITS = 258
_ORIENTATION = 274
_ON_ITS_SIDE = (5, 6, 7, 8)
# {orientation: whether the rows are upside down, whether the columns are}, once it is off its side
_FLIPS = {
    2: (False, True),
    3: (True, True),
    4: (True, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}
_SAMPLES = 277
_RESOLUTION_X = 282
_RESOLUTION_Y = 283
_SAMPLE_FORMAT = 339
_SIGNED = 2
_NO_DATA = 42113  # GDAL's: a number as text
_SMALLER = 4  # a first page with so many times fewer pixels than another one is its preview
_MOST_PAGES = 100


def choose_page(data: bytes) -> tuple[int, list[str]]:
    """The number of the page that is the image, and flags.

    The first page counts, unless it says that it is a reduced copy or a mask, or is far smaller
    than another one.
    """
    areas = {}
    # An image of its own: Pillow mixes the pages up once one of them was damaged.
    with Image.open(io.BytesIO(data), formats=['TIFF']) as image:
        for page in range(_MOST_PAGES):
            try:
                image.seek(page)
                kind = image.tag_v2.get(_SUBFILE, 0)
                reduced = (isinstance(kind, int) and kind & 5) or image.tag_v2.get(
                    _OLD_SUBFILE
                ) == 2
                if not reduced:
                    areas[page] = image.size[0] * image.size[1]
            except Exception:  # the end (EOFError), or a damaged page behind the first
                break
    if not areas:
        areas = {0: 1}
    chosen = next(iter(areas))
    largest = max(areas, key=areas.get)
    if areas[chosen] * _SMALLER < areas[largest]:
        chosen = largest
    flags = []
    if chosen:
        flags.append(f'page_{chosen + 1}_taken')
    if sum(area * _SMALLER >= areas[chosen] for area in areas.values()) > 1:
        flags.append('first_of_several_pages')
    return chosen, flags


def is_misread(image: Image.Image) -> bool:
    """Whether Pillow would give other values than the page holds: of more than 8 bits a colour the
    high byte alone, of signed bytes unsigned ones.
    """
    tags = image.tag_v2
    deepest = max(_all(tags.get(_BITS, 1)))
    is_signed = _SIGNED in _all(tags.get(_SAMPLE_FORMAT, 1))
    return (deepest > 8 and tags.get(_SAMPLES, 1) > 1) or (deepest <= 8 and is_signed)


def _all(value):
    return value if isinstance(value, tuple) else (value,)


def height_of_width(image: Image.Image) -> float:
    """How many times as high as wide a pixel of the upright page is; 1 where nothing says so."""
    across, along = (image.tag_v2.get(tag) for tag in (_RESOLUTION_X, _RESOLUTION_Y))
    try:
        height = float(across) / float(along)
        return 1 / height if image.tag_v2.get(_ORIENTATION) in _ON_ITS_SIDE else height
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0


def upright(grey: np.ndarray, image: Image.Image) -> np.ndarray:
    """The samples [H, W] of a page, turned as its orientation says."""
    orientation = image.tag_v2.get(_ORIENTATION)
    if orientation in _ON_ITS_SIDE:
        grey = grey.T
    turned_down, mirrored = _FLIPS.get(orientation, (False, False))
    grey = grey[::-1] if turned_down else grey
    return grey[:, ::-1] if mirrored else grey


def read_page(data: bytes, page: int) -> np.ndarray | None:
    """The samples of a page, [H, W] or [H, W, samples]; None where its packing is not known."""
    import tifffile  # comes with scikit-image; slow to import

    try:
        with warnings.catch_warnings(), tifffile.TiffFile(io.BytesIO(data)) as file:
            found = file.pages[page]
            values = found.asarray()
            planar = found.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    except Exception:  # damaged, or packed in a way that needs another library
        return None
    if values.ndim == 3 and planar and values.shape[0] <= 4:
        values = np.moveaxis(values, 0, -1)
    return values if values.ndim in (2, 3) else None


def void(values: np.ndarray, tags) -> np.ndarray | None:
    """bool [H, W], as `values`: what stands for no data by GDAL's tag; None for none."""
    text = tags.get(_NO_DATA)
    try:
        number = float(str(text).strip('\0 '))
    except ValueError:
        return None
    found = values == np.asarray(number, np.float64).astype(values.dtype)
    return found if found.any() and not found.all() else None
