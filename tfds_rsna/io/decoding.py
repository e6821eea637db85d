"""Any image file (PNG, JPEG, TIFF, BMP, DICOM, also in gzip) -> 8-bit grey, bones bright.

The rules, in one place:
- More than 8 bits: linear, `grey = 255 * value / (2**depth - 1)`. `depth` is the least of 8, 10,
  12, 14, 16 bits that holds the image's largest value, unless `depth=` gives another. So a 12-bit
  image in a 16-bit file is not black, and no contrast is stretched by more than the unused bits.
  Floats and negative values have no depth: they go linearly from the image's own least to its
  largest value. An image in which nothing could be made out then (98% of its pixels within 16 grey
  levels) is stretched between its percentiles, and flagged.
- What stands for no data (GDAL's tag, DICOM's padding, not a number, a value far from all others)
  becomes black and decides nothing.
- TIFF WhiteIsZero and DICOM MONOCHROME1 are inverted.
- DICOM: modality rescale, then the first VOI LUT or window that shows anything; see `voi`.
- Colour becomes ITU-R 601 luma. Transparency is laid over black; an alpha that is the same
  everywhere is ignored.
- Pixels that a TIFF or DICOM says are higher than wide, or wider than high, are made square.
- EXIF orientation is applied; EXIF data that cannot be read are ignored.
- Of several pages the first counts that is no reduced copy. A DICOM of several frames is refused.
- More than `pixels.MAX_PIXELS` (Pillow's decompression bomb limit) is refused before anything is
  unpacked.
- `decode` takes pictures of anything. `read`, for radiographs of hands, also refuses an image of
  one grey value, and a DICOM that says that it is of something else.
"""

import dataclasses
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from tfds_rsna.io import pixels, tiff
from tfds_rsna.io.pixels import Decoded, ImageError, NotAnImageError

__all__ = [
    'Decoded',
    'ImageError',
    'NotAnImageError',
    'decode',
    'describe',
    'flags_of',
    'is_dicom',
    'is_image',
    'read',
]

# Raise it when a change here, in `pixels`, `tiff`, `voi` or the modules of DICOM alters the pixels
# of any image.
VERSION = 4
# The same for 8-bit PNG and JPEG alone, which are all that RSNA and the phantom have.
PLAIN_VERSION = 1
OTHER_SEX = 'sex_contradicts_header'  # a flag: the header gives the other sex
_FORMATS = ('PNG', 'JPEG', 'TIFF', 'BMP')
_WHITE_IS_ZERO = 0
_PHOTOMETRIC_TAG = 262
_PNG = b'\x89PNG\r\n\x1a\n'
_PNG_CHUNKS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')  # what the pixels need
_BMP_HEADERS = (b'\x0c', b'\x28', b'\x34', b'\x38', b'\x40', b'\x6c', b'\x7c')  # their lengths
_GZIP = b'\x1f\x8b'
_MOST_UNPACKED = 1 << 30  # bytes in a gzip file
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
    b'ii+\0': 'a TIFF',
    b'mm\0+': 'a TIFF',
    b'mm\0*': 'a TIFF',
    b'gif8': 'a GIF',
    b'bm': 'a BMP',
    b'%pdf': 'a PDF',
    b'pk\x03\x04': 'a zip',
    b'<': 'an HTML or XML page',
    b'riff': 'a WebP or other RIFF file',
    b'rar!': 'a RAR archive',
    b'7z\xbc\xaf': 'a 7-Zip archive',
    b'\0\0\0\x0cjp': 'a JPEG 2000',
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
    return _decoded(data, name, depth).grey


def read(data: bytes, name: str = 'image', *, depth: int | None = None) -> Decoded:
    """Decodes the file of a radiograph: `decode` with flags, and with what its header says.

    Raises:
        ImageError: as `decode`; an image of one grey value; a DICOM of another kind of image or of
            another part of the body. NotAnImageError where a whole file holds no image.
    """
    decoded = _decoded(data, name, depth)
    if decoded.refused:
        raise ImageError(f'{name}: {decoded.refused}')
    if pixels.is_blank(decoded.grey):
        raise ImageError(
            f'{name}: blank, one grey value ({np.median(decoded.grey):.0f} of 255) everywhere. '
            'Export it again, or drop it (data.on_error=skip)'
        )
    if pixels.is_flat(decoded.grey):
        decoded = dataclasses.replace(decoded, flags=(*decoded.flags, 'low_contrast'))
    return decoded


def flags_of(decoded: Decoded, male: bool | None) -> tuple[str, ...]:
    """The flags of an image of this sex: its own, and one where its header gives the other sex."""
    if None in (male, decoded.male) or male == decoded.male:
        return decoded.flags
    return (*decoded.flags, OTHER_SEX)


def _decoded(data, name, depth):
    if not data:
        raise ImageError(
            f'{name}: zero bytes. Copy or download this file again, or drop it (data.on_error=skip)'
        )
    if data[:2] == _GZIP:
        data = _unpacked(data, name)
    if is_dicom(data, name.lower().removesuffix('.gz')):
        from tfds_rsna.io import dicom  # optional dependency

        return dicom.decode(data, name, depth=depth)
    try:
        return _opened(data, name, depth)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        values = tiff.read_page(data, 0) if describe(data) == 'a TIFF' else None
        if values is not None:  # such as 12 bits packed
            _check_size(values.shape[1::-1], name)
            return _of_samples(values, None, depth, [])
        raise ImageError(
            f'{name}: found {describe(data)} of {len(data):,} bytes, which is none of the PNG, '
            'JPEG, TIFF, BMP and DICOM files that can be read, or is damaged. Export it as PNG, or '
            'drop it (data.on_error=skip)'
        ) from error
    except _DAMAGED as error:
        raise ImageError(
            f'{name}: {describe(data)} of {len(data):,} bytes is damaged or cut short ({error}). '
            'Copy or download it again, or drop it (data.on_error=skip)'
        ) from error


def _opened(data, name, depth):
    """The image by Pillow; a PNG that fails once more without its texts, profiles and so on."""
    try:
        decoded = _with_pillow(data, name, depth)
    except (ImageError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except _DAMAGED:
        bare = _without_extras(data)
        if bare is None:
            raise
        decoded = _with_pillow(bare, name, depth)
    if data.startswith(_PNG) and not _has_whole_chunks(data):
        return dataclasses.replace(decoded, flags=(*decoded.flags, 'damaged_beside_pixels'))
    return decoded


def _with_pillow(data, name, depth):
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        page = 0
        flags = []
        if image.format == 'TIFF':
            page, flags = tiff.choose_page(data)
            image.seek(page)
        _check_size(image.size, name)
        is_tiff = image.format == 'TIFF'
        values = tiff.read_page(data, page) if is_tiff and tiff.is_misread(image) else None
        height = tiff.height_of_width(image) if is_tiff else 1.0
        if values is not None:
            decoded = _of_samples(values, image.tag_v2, depth, flags)
            turned = tiff.upright(decoded.grey, image)
            decoded = dataclasses.replace(decoded, grey=np.ascontiguousarray(turned))
        else:
            image.load()
            grey, more = _to_grey(image, data, name, depth)
            decoded = Decoded(grey, (*flags, *more))
        return pixels.square(decoded, height)


def is_dicom(data: bytes, name: str = '') -> bool:
    """Whether this is a DICOM file: by its preamble, or by its name or first element without one.

    Args:
        data: the file, or its first 256 bytes or more.
        name: its name.
    """
    if data[128:132] == b'DICM' or data[:4] == b'DICM':
        return True
    if _is_picture(data) or _known(data):
        return False
    return name.lower().endswith(('.dcm', '.dicom', '.dc3', '.ima')) or _is_bare_dataset(data)


def is_image(data: bytes) -> bool:
    """Whether a file is an image that can be read, by its first 256 bytes or more."""
    return _is_picture(data) or is_dicom(data)


def _is_picture(data):
    if data.startswith((_PNG, b'\xff\xd8\xff', b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')):
        return True
    return data[:2] == b'BM' and data[6:10] == bytes(4) and data[14:15] in _BMP_HEADERS


def _is_bare_dataset(data):
    """Whether data begin as a DICOM without preamble: with an element of group 2 or 8."""
    if len(data) < 16:
        return False
    for order in ('<', '>'):
        group, element, short, length = struct.unpack(f'{order}HHHH', data[:8])
        if group not in (0x0002, 0x0008) or element > 0x0070:
            continue
        explicit = data[4:6] in (b'UL', b'CS', b'UI', b'DA', b'TM', b'SH', b'LO', b'OB', b'PN')
        # In implicit VR a length of 32 bits stands where explicit VR has two letters.
        implicit = order == '<' and length == 0 and short < 256
        if explicit or implicit:
            return True
    return False


def unpacked_head(data: bytes, most: int = 1 << 18) -> bytes:
    """The first bytes of a file, of one in gzip at most `most` of those inside."""
    if data[:2] != _GZIP:
        return data
    try:
        return zlib.decompressobj(wbits=31).decompress(data, most)
    except zlib.error:
        return data


def _unpacked(data, name):
    """What a gzip file holds; ImageError for a damaged one, and for one that is far too large."""
    parts = []
    room = _MOST_UNPACKED
    while data[:2] == _GZIP:  # programs on several cores write a member for each block
        unpacker = zlib.decompressobj(wbits=31)
        try:
            parts.append(unpacker.decompress(data, max(room, 1)))
        except zlib.error as error:
            raise ImageError(
                f'{name}: a gzip file that is damaged ({error}). Copy or download it again, or '
                'drop it (data.on_error=skip)'
            ) from error
        room -= len(parts[-1])
        if not unpacker.eof:
            what = 'too large' if unpacker.unconsumed_tail else 'cut short'
            raise ImageError(f'{name}: a gzip file that is {what}; unpack it, or drop it')
        data = unpacker.unused_data
    return b''.join(parts)


def _has_whole_chunks(data) -> bool:
    """Whether the checksums of all chunks of a PNG are right, up to its end."""
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], 'big')
        checksum = int.from_bytes(data[end - 4 : end], 'big')
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != checksum:
            return False
        if data[at + 4 : at + 8] == b'IEND':
            return True
        at = end
    return False


def _without_extras(data) -> bytes | None:
    """A PNG without the chunks that the pixels do not need; None for other files."""
    if not data.startswith(_PNG):
        return None
    kept = [_PNG]
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], 'big')
        if data[at + 4 : at + 8] in _PNG_CHUNKS:
            kept.append(data[at:end])
        at = end
    bare = b''.join(kept)
    return bare if len(bare) < len(data) else None


def _check_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > pixels.MAX_PIXELS:
        raise _bomb(name, f'{size[0]} x {size[1]} pixels')


def _bomb(name: str, found: str) -> ImageError:
    return ImageError(
        f'{name}: {found}; images above {pixels.MAX_PIXELS:,} pixels are refused as decompression '
        'bombs. Save it smaller, or drop it (data.on_error=skip)'
    )


def _to_grey(image: Image.Image, data: bytes, name: str, depth: int | None):
    """(grey uint8 [H, W], flags) of a loaded image."""
    wide = image.mode.startswith('I') or image.mode == 'F'
    is_tiff = image.format == 'TIFF'
    # Pillow inverts WhiteIsZero itself for 1 to 8 bits, and only for those.
    inverted = wide and is_tiff and image.tag_v2.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    tags = image.tag_v2 if is_tiff else {}
    image = _upright(image)
    if wide:
        values = np.asarray(image)
        void = tiff.void(values, tags)
        grey, flags = pixels.scale_or_stretch(values, depth, void)
        if inverted:
            grey = 255 - grey
            if void is not None:
                grey[void] = 0
        return np.ascontiguousarray(grey), flags
    grey = _luma(image)
    flags = []
    # Pillow keeps the high byte of 16-bit colour: fewer than 13 used bits would be all but black.
    if _is_deep_colour_png(data) or (is_tiff and _is_deep(tags)):
        if grey.max() < 16:
            raise ImageError(
                f'{name}: {describe(data)} of 16-bit colour that uses fewer than 13 bits; it '
                'would come out black. Save it as 16-bit grey or as 8 bit'
            )
        if grey.max() < 128:  # 13 to 15 bits
            most = 63 if grey.max() < 64 else 127
            grey = np.rint(grey * np.float32(255 / most)).astype(np.uint8)
            flags.append('few_grey_levels')
    return np.ascontiguousarray(grey), flags


def _is_deep(tags):
    bits = tags.get(258, (1,))
    return max(bits if isinstance(bits, tuple) else (bits,)) > 8


def _upright(image):
    """The image turned as its EXIF says; as it is where that is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # of many kinds; the pixels are whole
        return image


def _of_samples(values, tags, depth, flags):
    """`Decoded` of the samples of a TIFF, [H, W] or [H, W, samples] of any type."""
    alpha = None
    if values.ndim == 3:
        if values.shape[2] in (2, 4):
            alpha = values[..., -1]
        channels = 3 if values.shape[2] >= 3 else 1
        weights = np.array([0.299, 0.587, 0.114]) if channels == 3 else np.ones(1)
        luma = values[..., :channels] @ weights
        values = np.rint(luma).astype(values.dtype) if values.dtype.kind in 'iu' else luma
    void = tiff.void(values, tags or {})
    grey, more = pixels.scale_or_stretch(values, depth, void)
    if tags and tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if alpha is not None and alpha.min() != alpha.max():
        grey = np.rint(grey * (alpha / np.float32(alpha.max()))).astype(np.uint8)
    return Decoded(np.ascontiguousarray(grey), (*flags, *more))


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


def describe(data: bytes, otherwise: str = '') -> str:
    """What a file is by its first bytes, for messages; `otherwise` where that is not known."""
    return _known(data) or otherwise or f'a file that begins with {data[:8]!r}'


def _known(data):
    head = data[:16].lstrip().lower()
    if head[4:8] == b'ftyp':
        return 'a HEIC, AVIF or MP4'
    return next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), '')
