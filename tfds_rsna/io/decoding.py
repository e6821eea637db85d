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
  everywhere is ignored, and so is a transparent grey that few pixels have.
- Pixels that a file says are higher than wide, or wider than high, are made square.
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

from tfds_rsna.io import jpeg, pixels, png, tiff
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
_ORIENTATION_TAG = 274
_BMP_HEADERS = (b'\x0c', b'\x28', b'\x34', b'\x38', b'\x40', b'\x6c', b'\x7c')  # their lengths
_JPEG = b'\xff\xd8\xff'
_LARGE_BIG_ENDIAN = b'MM\0+'  # a large TIFF
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
    b'\xffo\xffq': 'a JPEG 2000',
    b'\xff\x0a': 'a JPEG XL',
    b'ii\xbc\x01': 'a JPEG XR',
    b'8bps': 'a picture of Photoshop',
    b'%!ps': 'a PostScript file',
    b'nrrd': 'an NRRD',
    b'{\\rtf': 'a text document',
    b'version https://': 'a pointer of Git LFS in place of the file',
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
        bare = png.without_extras(data)
        if bare is None:
            raise
        decoded = _with_pillow(bare, name, depth)
    if data.startswith(png.MAGIC) and not png.has_whole_chunks(data):
        return dataclasses.replace(decoded, flags=(*decoded.flags, 'damaged_beside_pixels'))
    if data.startswith(_JPEG) and not jpeg.has_end(data):
        if jpeg.ends_in_zeros(data):
            raise ValueError('zeros in place of its end')
        return dataclasses.replace(decoded, flags=(*decoded.flags, 'jpeg_without_end'))
    return decoded


def _with_pillow(data, name, depth):
    is_tiff = describe(data) == 'a TIFF'
    flags = []
    if is_tiff:
        data, flags = tiff.first_page(data)
    try:
        if data[:4] == _LARGE_BIG_ENDIAN:
            raise Image.UnidentifiedImageError('Pillow takes it for a small one')
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        tags = tiff.tags(data) if is_tiff else None
        if tags is None:
            raise
        return _of_samples(data, tags, name, depth, flags)
    with image:
        _check_size(image.size, name)
        if is_tiff and tiff.is_signed_bytes(image.tag_v2):
            return _of_samples(data, image.tag_v2, name, depth, flags)
        if is_tiff and tiff.is_deep_colour(image.tag_v2):
            try:
                return _of_samples(data, image.tag_v2, name, depth, flags)
            except tiff.PackingError:
                pass  # Pillow has the high bytes at least
        height = _height_of_width(image)
        if is_tiff:
            _check_colour(image.tag_v2, name)
            height = tiff.height_of_width(image.tag_v2)
            tiff.settle(image)
        if image.format == 'PNG' and getattr(image, 'n_frames', 1) > 1:
            flags.append('first_of_several_pages')
        image.load()
        grey, more = _to_grey(image, data, name, depth)
        return pixels.square(Decoded(grey, (*flags, *more)), height)


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
    if data.startswith((png.MAGIC, _JPEG, b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')):
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
    # It takes a TIFF that says nothing for WhiteIsZero.
    unsaid = is_tiff and _PHOTOMETRIC_TAG not in tags
    unsigned = wide and tiff.is_unsigned(image)
    image = _upright(image)
    clear, flags = png.clear_ground(image, data)
    if wide:
        values = np.asarray(image)
        values = values.view(np.uint32) if unsigned else values
        void = tiff.void(values, tags) if clear is None else clear
        grey, more = pixels.scale_or_stretch(values, depth, void)
        if inverted:
            grey = 255 - grey
            if void is not None:
                grey[void] = 0
        return np.ascontiguousarray(grey), [*flags, *more]
    grey = _luma(image)
    if clear is not None:
        grey = np.where(clear, np.uint8(0), grey)
    if unsaid:
        grey = 255 - grey
        flags.append('photometric_guessed')
    # Pillow keeps the high byte of 16-bit colour: fewer than 13 used bits would be all but black.
    if png.is_deep_colour(data) or (is_tiff and _is_deep(tags)):
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


def _height_of_width(image) -> float:
    """How many times as high as wide a pixel of a PNG, JPEG or BMP is, once it is upright."""
    ratio = image.info.get('dpi') or image.info.get('aspect')
    if not ratio and image.info.get('jfif_unit') == 0:
        ratio = image.info.get('jfif_density')
    try:
        across, along = (float(number) for number in ratio)
        height = across / along
        if height == 1 or image.getexif().get(_ORIENTATION_TAG, 1) < 5:
            return height
        return 1 / height  # it lies on its side
    except Exception:  # none, zeros, or EXIF of many kinds of damage
        return 1.0


def _is_deep(tags):
    bits = tags.get(258, (1,))
    return max(bits if isinstance(bits, tuple) else (bits,)) > 8


def _upright(image):
    """The image turned as its EXIF says; as it is where that is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # of many kinds; the pixels are whole
        return image


def _of_samples(data, tags, name, depth, flags):
    """`Decoded` of a TIFF whose first page Pillow cannot read, or would read wrong; ImageError, a
    `tiff.PackingError`, for samples that cannot be unpacked.
    """
    _check_size(tiff.size(tags), name)
    _check_colour(tags, name)
    values = tiff.read_page(data)
    if values is None:
        raise tiff.PackingError(
            f'{name}: a TIFF of {tiff.packing(tags)}, which cannot be read here, or a damaged one. '
            'Save it with 8 or 16 bits without compression, or as PNG, or drop it '
            '(data.on_error=skip)'
        )
    values, alpha, bits = tiff.luma(values, tags)
    void = tiff.void(values, tags)
    grey, more = pixels.scale_or_stretch(values, depth or bits, void)
    if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
        grey = 255 - grey
        if void is not None:
            grey[void] = 0
    if alpha is not None and alpha.min() != alpha.max():
        grey = np.rint(grey * (alpha / np.float32(alpha.max()))).astype(np.uint8)
    decoded = Decoded(np.ascontiguousarray(tiff.upright(grey, tags)), (*flags, *more))
    return pixels.square(decoded, tiff.height_of_width(tags))


def _check_colour(tags, name):
    kind = tiff.unknown_colour(tags)
    if kind:
        raise ImageError(
            f'{name}: a TIFF whose colours are {kind}; grey, RGB, YCbCr, CMYK and palettes are '
            'read. Save it as grey, or drop it (data.on_error=skip)'
        )


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


def describe(data: bytes, otherwise: str = '') -> str:
    """What a file is by its first bytes, for messages; `otherwise` where that is not known."""
    return _known(data) or otherwise or f'a file that begins with {data[:8]!r}'


def _known(data):
    if data.startswith(_JPEG):
        return jpeg.kind(data)
    head = data[:16].lstrip().lower()
    if head[4:8] == b'ftyp':
        return 'a HEIC, AVIF or MP4'
    return next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), '')
