"""What Pillow leaves open in a TIFF: which page is the image, what stands for no data, 48 bits."""

import io
import logging
import re
import struct
import warnings

import numpy as np
from PIL import Image, TiffImagePlugin

from tfds_rsna.io.pixels import ImageError

logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # a damaged file is named by the error
_SUBFILE = 254  # bit 0: a reduced copy of another page; bit 2: a mask of another page
_OLD_SUBFILE = 255  # 2: a reduced copy
_WIDTH = 256
_HEIGHT = 257
_BITS = 258
_COMPRESSION = 259
_PHOTOMETRIC = 262
_PALETTE = 3
_CMYK = 5
_YCBCR = 6
# Kinds of colour that are read: grey (two ways), RGB, and those above.
_KNOWN = (0, 1, 2, _PALETTE, _CMYK, _YCBCR)
_OTHERS = {8: 'CIELab', 9: 'ICCLab', 10: 'ITULab', 32803: 'a colour filter', 34892: 'linear raw'}
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
_COLOURS = 320
_INNER_PAGES = 330
_EXTRA = 338
_ALPHA = (2, 999)  # not multiplied into the colours; of 1 it is, as over black
_SAMPLE_FORMAT = 339
_UNSIGNED = 1
_SIGNED = 2
_NO_DATA = 42113  # GDAL's: a number as text
_SMALLER = 4  # a first page with so many times fewer pixels than another one is its preview
_MOST_PAGES = 100
_MOST_TAGS = 1000
_WHOLE = {1: 'B', 3: 'H', 4: 'I', 13: 'I', 16: 'Q', 18: 'Q'}  # kinds of whole numbers
_LUMA = np.array([0.299, 0.587, 0.114])


class PackingError(ImageError):
    """Samples of a TIFF that nothing here unpacks."""


def first_page(data: bytes) -> tuple[bytes, list[str]]:
    """The file with the page that is the image put first, and flags.

    The first page counts, unless it says that it is a reduced copy or a mask, or is far smaller
    than another one, or than one that stands inside it (a preview with the image below).
    """
    pages, inner = _pages(data)
    if not pages:
        return data, []
    whole = [page for page in pages if not page[2]] or [pages[0]]
    chosen = whole[0]
    largest = max([*whole, *(page for page in inner if not page[2])], key=lambda page: page[1])
    if chosen[1] * _SMALLER < largest[1]:
        chosen = largest
    flags = []
    if chosen in inner:
        flags.append('inner_page_taken')
    elif chosen is not pages[0]:
        flags.append(f'page_{pages.index(chosen) + 1}_taken')
    if sum(area * _SMALLER >= chosen[1] for _, area, _ in whole) > 1:
        flags.append('first_of_several_pages')
    if chosen is pages[0]:
        return data, flags
    order = 'little' if data[:2] == b'II' else 'big'
    start, size = (8, 8) if 43 in data[2:4] else (4, 4)  # a large TIFF has longer numbers
    return data[:start] + chosen[0].to_bytes(size, order) + data[start + size :], flags


def _pages(data):
    """[(offset, pixels, whether it is a copy or a mask)] of the pages, and of those inside them."""
    pages = []
    inner = []
    order = '<' if data[:2] == b'II' else '>'
    large = 43 in data[2:4]
    try:
        (offset,) = struct.unpack_from(order + 'IQ'[large], data, 4 * (1 + large))
        while offset and len(pages) < _MOST_PAGES:
            found, following = _numbers(data, offset, order, large)
            pages.append(_page(offset, found))
            for below in found.get(_INNER_PAGES, ())[:_MOST_PAGES]:
                inner.append(_page(below, _numbers(data, below, order, large)[0]))
            offset = 0 if following in [page[0] for page in pages] else following
    except (struct.error, KeyError, IndexError):  # a damaged page behind the first
        pass
    return pages, inner


def _numbers(data, offset, order, large):
    """({tag: whole numbers} of a directory, the offset of the next), as they are in the file."""
    (count,) = struct.unpack_from(order + 'HQ'[large], data, offset)
    at = offset + (8 if large else 2)
    found = {}
    for _ in range(min(count, _MOST_TAGS)):
        tag, kind, length = struct.unpack_from(order + ('HHQ' if large else 'HHI'), data, at)
        place = at + (12 if large else 8)
        if kind in _WHOLE and length <= _MOST_PAGES:
            form = f'{order}{length}{_WHOLE[kind]}'
            if struct.calcsize(form) > (8 if large else 4):
                (place,) = struct.unpack_from(order + 'IQ'[large], data, place)
            found[tag] = struct.unpack_from(form, data, place)
        at += 20 if large else 12
    return found, struct.unpack_from(order + 'IQ'[large], data, at)[0]


def _page(offset, found):
    kind = found.get(_SUBFILE, (0,))[0]
    reduced = bool(kind & 5) or found.get(_OLD_SUBFILE) == (2,)
    return offset, found[_WIDTH][0] * found[_HEIGHT][0], reduced


def _directory(data, offset=None):
    """The directory at an offset of a TIFF; without one an empty one that knows the first."""
    header = data[:8]
    if 43 in data[2:4]:  # Pillow knows a large TIFF by this alone
        header = b'II+\0' + data[4:16]
    directory = TiffImagePlugin.ImageFileDirectory_v2(header, prefix=data[:2])
    if offset is not None:
        stream = io.BytesIO(data)
        stream.seek(offset)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            directory.load(stream)
    return directory


def tags(data: bytes):
    """The tags of the first page, as a mapping; None where they cannot be read."""
    try:
        return _directory(data, _directory(data).next)
    except Exception:  # of many kinds, for a damaged file
        return None


def unknown_colour(tags) -> str:
    """What colours of a kind that is not read are, '' for those that are."""
    kind = tags.get(_PHOTOMETRIC, 1)
    return '' if kind in _KNOWN else _OTHERS.get(kind, f'photometric interpretation {kind}')


def packing(tags) -> str:
    """How many bits a sample of a page has, and how they are packed, in words."""
    compression = tags.get(_COMPRESSION, 1)
    name = TiffImagePlugin.COMPRESSION_INFO.get(compression, compression)
    return f'{max(_all(tags.get(_BITS, 1)))} bits a sample and compression {name}'


def size(tags) -> tuple[int, int]:
    """Columns and rows of a page."""
    return tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)


def settle(image: Image.Image) -> None:
    """Mends what Pillow would get wrong of a page that is not loaded yet.

    Its library unpacks words in the machine's own order, whatever the file's, and Pillow takes only
    some of them so. Colours of old files have 8 bits, where 16 are due.
    """
    for number, tile in enumerate(image.tile):
        if tile.codec_name == 'libtiff':
            kind = re.sub(r'(?<=;16|;32)B', 'N', tile.args[0])
            image.tile[number] = tile._replace(args=(kind, *tile.args[1:]))
    colours = image.tag_v2.get(_COLOURS, ())
    if image.mode == 'P' and colours and max(colours) < 256:
        image.putpalette(np.reshape(colours, (3, -1)).T.astype(np.uint8).tobytes())


def is_unsigned(image: Image.Image) -> bool:
    """Whether an image is of unsigned numbers of 32 bits, which Pillow has as signed ones."""
    if image.format != 'TIFF' or image.mode != 'I':
        return False
    kinds = _all(image.tag_v2.get(_SAMPLE_FORMAT, _UNSIGNED))
    return max(_all(image.tag_v2.get(_BITS, 1))) == 32 and _UNSIGNED in kinds


def is_deep_colour(tags) -> bool:
    """Whether samples have more than 8 bits a colour, of which Pillow keeps the high byte alone."""
    return max(_all(tags.get(_BITS, 1))) > 8 and tags.get(_SAMPLES, 1) > 1


def is_signed_bytes(tags) -> bool:
    """Whether samples are signed bytes, which Pillow takes for unsigned ones."""
    return max(_all(tags.get(_BITS, 1))) <= 8 and _SIGNED in _all(tags.get(_SAMPLE_FORMAT, 1))


def luma(values: np.ndarray, tags) -> tuple[np.ndarray, np.ndarray | None, int | None]:
    """(grey [H, W] of the samples of a page, its alpha or None, bits that they have or None)."""
    kind = tags.get(_PHOTOMETRIC)
    if kind == _PALETTE and values.ndim == 2 and tags.get(_COLOURS):
        values = np.moveaxis(np.reshape(tags[_COLOURS], (3, -1))[:, values], 0, -1)
        values = values.astype(np.uint16)
    if values.ndim == 2:
        return values, None, None
    if kind == _YCBCR:
        return values[..., 0], None, None
    if kind == _CMYK and values.shape[2] >= 4 and values.dtype.kind == 'u':
        most = np.iinfo(values.dtype).max
        light = (most - values[..., :4].astype(np.float64)) / most
        grey = (light[..., :3] @ _LUMA) * light[..., 3] * most
        return np.rint(grey).astype(values.dtype), None, 8 * values.dtype.itemsize
    channels = 3 if values.shape[2] >= 3 else 1
    grey = values[..., :3] @ _LUMA if channels == 3 else values[..., 0]
    if values.dtype.kind in 'iu':
        grey = np.rint(grey).astype(values.dtype)
    extra = _all(tags.get(_EXTRA, ()))[:1]
    has_alpha = values.shape[2] > channels and extra and extra[0] in _ALPHA
    return grey, values[..., channels] if has_alpha else None, None


def _all(value):
    return value if isinstance(value, tuple) else (value,)


def height_of_width(tags) -> float:
    """How many times as high as wide a pixel of the upright page is; 1 where nothing says so."""
    across, along = (tags.get(tag) for tag in (_RESOLUTION_X, _RESOLUTION_Y))
    try:
        height = float(across) / float(along)
        return 1 / height if tags.get(_ORIENTATION) in _ON_ITS_SIDE else height
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0


def upright(grey: np.ndarray, tags) -> np.ndarray:
    """The samples [H, W] of a page, turned as its orientation says."""
    orientation = tags.get(_ORIENTATION)
    if orientation in _ON_ITS_SIDE:
        grey = grey.T
    turned_down, mirrored = _FLIPS.get(orientation, (False, False))
    grey = grey[::-1] if turned_down else grey
    return grey[:, ::-1] if mirrored else grey


def read_page(data: bytes) -> np.ndarray | None:
    """The samples of the first page, [H, W] or [H, W, samples]; None for a packing not known."""
    import tifffile  # comes with scikit-image; slow to import

    try:
        with warnings.catch_warnings(), tifffile.TiffFile(io.BytesIO(data)) as file:
            found = file.pages[0]
            values = found.asarray()
            planar = found.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    except Exception:  # damaged, or packed in a way that needs another library
        return None
    if values.ndim == 3 and planar and values.shape[0] <= 4:
        values = np.moveaxis(values, 0, -1)
    return values if values.ndim in (2, 3) and values.dtype.kind in 'biuf' else None


def void(values: np.ndarray, tags) -> np.ndarray | None:
    """bool [H, W], as `values`: what stands for no data by GDAL's tag; None for none."""
    text = tags.get(_NO_DATA)
    try:
        number = float(str(text).strip('\0 '))
    except ValueError:
        return None
    found = values == np.asarray(number, np.float64).astype(values.dtype)
    return found if found.any() and not found.all() else None
