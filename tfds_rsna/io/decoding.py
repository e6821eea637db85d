"""Any image file (PNG, JPEG, TIFF, DICOM) -> 8-bit grey, bright bone on dark ground.

The rules, in one place:
- More than 8 bits: linear, `grey = 255 * value / (2**depth - 1)`. `depth` is the least of 8, 10,
  12, 14, 16 bits that holds the image's largest value, unless `depth=` gives another. So a 12-bit
  image in a 16-bit file is not black, and no contrast is stretched by more than the unused bits.
  Floats and negative values have no depth: they go linearly from the image's own least to its
  largest value.
- TIFF WhiteIsZero and DICOM MONOCHROME1 are inverted.
- DICOM: modality rescale, then the first VOI window.
- Colour becomes ITU-R 601 luma. Transparency is laid over black; an alpha that is the same
  everywhere is ignored.
- EXIF orientation is applied.
- Of several pages the first counts. A DICOM of several frames is refused.
- More than `pixels.MAX_PIXELS` (Pillow's decompression bomb limit) is refused before anything is
  unpacked.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from tfds_rsna.io import pixels
from tfds_rsna.io.pixels import ImageError

VERSION = 1  # raise it when a change here, in `pixels` or in `dicom` alters the pixels of any image
_FORMATS = ('PNG', 'JPEG', 'TIFF')
_WHITE_IS_ZERO = 0
_PHOTOMETRIC_TAG = 262
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
)
# How files begin (in lower case), and what they are then.
_KINDS = {
    b'\x89png': 'a PNG',
    b'\xff\xd8': 'a JPEG',
    b'ii*\0': 'a TIFF',
    b'mm\0*': 'a TIFF',
    b'gif8': 'a GIF',
    b'bm': 'a BMP',
    b'%pdf': 'a PDF',
    b'pk\x03\x04': 'a zip',
    b'<': 'an HTML or XML page',
    b'riff': 'a WebP or other RIFF file',
}


def decode(data: bytes, name: str = 'image', *, depth: int | None = None) -> np.ndarray:
    """Decodes an image file to grey.

    Args:
        data: the whole file.
        name: its name, for messages. An ending in `.dcm` also marks a DICOM without preamble.
        depth: bits that hold the image's values where the file has more than 8. None finds the
            depth by the rule of the module's docstring.

    Returns:
        uint8 [H, W], C-contiguous.

    Raises:
        ImageError: empty, truncated, not an image, too many pixels, or a DICOM without pydicom
            installed.
    """
    if not data:
        raise ImageError(
            f'{name}: zero bytes. Copy or download this file again, or drop it (data.on_error=skip)'
        )
    if is_dicom(data, name):
        from tfds_rsna.io import dicom  # optional dependency

        return dicom.decode(data, name, depth=depth)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, name)
            image.load()
            return _to_grey(image, data, name, depth)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f'{name}: found {_describe(data)} of {len(data):,} bytes, which is none of the PNG, '
            'JPEG, TIFF and DICOM files that can be read, or is damaged. Export it as PNG, or drop '
            'it (data.on_error=skip)'
        ) from error
    except _DAMAGED as error:
        raise ImageError(
            f'{name}: {_describe(data)} of {len(data):,} bytes is damaged or cut short ({error}). '
            'Copy or download it again, or drop it (data.on_error=skip)'
        ) from error


def is_dicom(data: bytes, name: str = '') -> bool:
    """Whether this is a DICOM file: by its preamble, or by its name where it has none."""
    return data[128:132] == b'DICM' or name.lower().endswith(('.dcm', '.dicom'))


def _check_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > pixels.MAX_PIXELS:
        raise _bomb(name, f'{size[0]} x {size[1]} pixels')


def _bomb(name: str, found: str) -> ImageError:
    return ImageError(
        f'{name}: {found}; images above {pixels.MAX_PIXELS:,} pixels are refused as decompression '
        'bombs. Save it smaller, or drop it (data.on_error=skip)'
    )


def _to_grey(image: Image.Image, data: bytes, name: str, depth: int | None) -> np.ndarray:
    wide = image.mode.startswith('I') or image.mode == 'F'
    # Pillow inverts WhiteIsZero itself for 1 to 8 bits, and only for those.
    inverted = (
        wide and image.format == 'TIFF' and image.tag_v2.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    )
    image = ImageOps.exif_transpose(image)
    if wide:
        grey = pixels.scale(np.asarray(image), depth)
        if inverted:
            grey = 255 - grey
        return np.ascontiguousarray(grey)
    grey = _luma(image)
    # Pillow keeps the high byte of 16-bit colour: fewer than 13 used bits would be all but black.
    if _is_deep_colour_png(data) and grey.max() < 16:
        raise ImageError(
            f'{name}: a 16-bit colour PNG that uses fewer than 13 bits; it would come out black. '
            'Save it as 16-bit grey or as 8 bit'
        )
    return np.ascontiguousarray(grey)


def _luma(image: Image.Image) -> np.ndarray:
    """Grey of an image of 8 bits a channel, its transparency laid over black."""
    if image.mode == 'L':
        return np.asarray(image)
    one_is_clear = image.mode in ('P', 'RGB') and 'transparency' in image.info
    if image.mode in ('La', 'LA'):
        image = image.convert('LA')
    elif image.mode in ('PA', 'RGBA', 'RGBa') or one_is_clear:
        image = image.convert('RGBA')
    grey = np.asarray(image.convert('L'))
    if image.mode in ('LA', 'RGBA'):
        alpha = np.asarray(image.getchannel('A'))
        if alpha.min() != alpha.max():
            grey = np.rint(grey * (alpha / np.float32(255))).astype(np.uint8)
    return grey


def _is_deep_colour_png(data: bytes) -> bool:
    is_png = data[:4] == b'\x89PNG'
    is_deep = data[24:25] == b'\x10'
    return is_png and is_deep and data[25:26] in (b'\x02', b'\x04', b'\x06')


def _describe(data: bytes) -> str:
    """What a file is by its first bytes, for messages."""
    head = data[:16].lstrip().lower()
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            return kind
    return f'a file that begins with {data[:8]!r}'
