"""Stored pixel values of a DICOM dataset, and what its header gets wrong about them.

pydicom unpacks them. Before that, elements that are missing or that contradict the pixel data are
settled, as far as the data can tell; each such decision has a flag.
"""

import io
import re

import numpy as np
from PIL import Image
from pydicom import encaps, pixels, uid
from pydicom.dataset import FileMetaDataset

from tfds_rsna.io import jpeg, voi
from tfds_rsna.io.pixels import ImageError, scale

_GREY = ('MONOCHROME1', 'MONOCHROME2')
_COLOUR = ('RGB', 'YBR_FULL', 'YBR_FULL_422', 'YBR_ICT', 'YBR_RCT')
_PALETTE = 'PALETTE COLOR'
_END = b'\xff\xd9'  # of a codestream
_ITEM = b'\xfe\xff\x00\xe0'  # what encapsulated pixel data begins with
# Transfer syntaxes that one decoder reads whichever of them the file names
_FAMILIES = (
    uid.JPEG2000TransferSyntaxes,
    uid.JPEGLSTransferSyntaxes,
    (uid.JPEGLossless, uid.JPEGLosslessSV1),
    (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit),
)
# elements of the groups 6000 to 601E
_OVERLAY_BIT_POSITION = 0x0102
_OVERLAY_DATA = 0x3000
_ROUGHER = 2.0  # so many times larger are steps between values whose sign was misread
_NEAR = 6  # levels of 255 that two channels of the same grey may differ by


def photometric(dataset) -> str:
    """The photometric interpretation, in capitals; '' where there is none."""
    kind = str(dataset.get('PhotometricInterpretation') or '').strip().upper()
    return re.sub('MONOCHROME[ _]+', 'MONOCHROME', kind)


def read(dataset, name: str) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """(values [H, W] or [H, W, 3], void [H, W] or None, flags) of the only frame.

    Colour is as stored, see `luma`. `dataset` is settled in place.

    Raises:
        ImageError: several frames, or an unknown kind of colour.
        Exception: pydicom's, of many kinds.
    """
    flags = []
    fragments = _settle_syntax(dataset, flags)
    _settle_frames(dataset, fragments, name)
    _refuse_cut(fragments, name)
    _settle_samples(dataset, fragments, flags)
    kind = photometric(dataset)
    if kind not in (*_GREY, *_COLOUR, _PALETTE):
        raise ImageError(
            f'{name}: photometric interpretation {kind}; grey, RGB and palettes are read. Export '
            'it as grey'
        )
    if kind == _PALETTE:
        try:
            colours = pixels.apply_color_lut(pixels.pixel_array(dataset), dataset)
        except ValueError as error:
            raise ValueError(f'{_PALETTE}: {error}') from error
        return colours, None, flags
    if kind in _COLOUR:
        values = pixels.pixel_array(dataset, raw=True)
        _one_frame(values, 3, name)
        return _settle_planes(values, dataset, fragments, flags), None, flags
    values, void = _grey_values(dataset, fragments, flags)
    _one_frame(values, 2, name)
    if void is not None and void.all():
        void = None
        flags.append('padding_ignored')
    return values, void, flags


def _one_frame(values, dimensions, name):
    if values.ndim != dimensions:
        _refuse_frames(len(values), name)


def luma(values: np.ndarray, dataset, flags: list[str]) -> np.ndarray:
    """Grey uint8 [H, W] of colour [H, W, 3] as `read` gave it.

    A radiograph in colour is grey nearly everywhere. So its pixels tell whether they are RGB (three
    equal channels) or YCbCr (a first channel beside two of no colour), which headers of JPEGs often
    tell wrong. Only an image that is neither is taken as the header says.
    """
    grey = scale(values)
    no_colour, equal = _greyness(grey)
    kind = photometric(dataset)
    is_ybr = kind.startswith('YBR_FULL')
    if max(no_colour, equal) > 0.5:
        found = no_colour > equal
        if found != is_ybr and kind in ('RGB', 'YBR_FULL', 'YBR_FULL_422'):
            flags.append('colour_space_guessed')
        is_ybr = found
    if is_ybr:
        return grey[..., 0]  # the luma itself
    return np.array(Image.fromarray(grey).convert('L'))


def _greyness(colour) -> tuple[float, float]:
    """Shares of the pixels [H, W, 3] uint8 that are grey, taken as YCbCr and as RGB."""
    first, second, third = (colour[..., channel].astype(np.int16) for channel in range(3))
    no_colour = (abs(second - 128) <= _NEAR) & (abs(third - 128) <= _NEAR)
    equal = (abs(first - second) <= _NEAR) & (abs(first - third) <= _NEAR)
    return float(no_colour.mean()), float(equal.mean())


def _settle_planes(values, dataset, fragments, flags):
    """Plain colour [H, W, 3], its planes taken the other way where it is grey only then."""
    if fragments or max(_greyness(scale(values))) > 0.5:
        return values
    # The same samples: [H, W, 3] was read from planes, or the other way round.
    if dataset.PlanarConfiguration:
        samples = np.moveaxis(values, -1, 0).reshape(values.shape)
    else:
        samples = np.moveaxis(values.reshape(3, *values.shape[:2]), 0, -1)
    if max(_greyness(scale(samples))) < 0.9:
        return values
    flags.append('planes_guessed')
    return samples


def _settle_syntax(dataset, flags) -> list[bytes]:
    """Gives the dataset a transfer syntax that fits its pixel data; the fragments of encapsulated
    data, `[]` for others.
    """
    meta = getattr(dataset, 'file_meta', None)
    dataset.file_meta = FileMetaDataset() if meta is None else meta
    syntax = dataset.file_meta.get('TransferSyntaxUID')
    data = dataset.get('PixelData') or b''
    fragments = _fragments(data)
    guess = _guess(fragments[0]) if fragments else None
    if syntax is not None:
        known = syntax in uid.AllTransferSyntaxes
        private = fragments and not known and guess is None  # pydicom names it
        fits = known and syntax.is_encapsulated == bool(fragments)
        if private or (fits and (guess is None or _family(guess) == _family(syntax))):
            return fragments
        flags.append('transfer_syntax_guessed')
    implicit, little = dataset.original_encoding
    if fragments:
        found = guess or uid.RLELossless
    elif implicit:
        found = uid.ImplicitVRLittleEndian
    else:
        found = uid.ExplicitVRBigEndian if little is False else uid.ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = found
    return fragments


def _fragments(data: bytes) -> list[bytes]:
    if data[:4] != _ITEM:
        return []
    stream = io.BytesIO(data)
    encaps.parse_basic_offsets(stream)
    return list(encaps.generate_fragments(stream))


def _family(syntax: uid.UID) -> int:
    """Which of `_FAMILIES` a transfer syntax is in; their number for none."""
    families = (number for number, family in enumerate(_FAMILIES) if syntax in family)
    return next(families, len(_FAMILIES))


def _guess(codestream: bytes) -> uid.UID | None:
    """The transfer syntax of a codestream, by its own markers; None for none that is known."""
    if codestream[:4] == b'\xff\x4f\xff\x51':
        return uid.JPEG2000
    marker = _frame_header(codestream)[0]
    kinds = {
        0xC0: uid.JPEGBaseline8Bit,
        0xC1: uid.JPEGExtended12Bit,
        0xC2: uid.JPEGBaseline8Bit,  # progressive, which its decoders read too
        0xC3: uid.JPEGLosslessSV1,
        0xF7: uid.JPEGLSNearLossless,
    }
    return kinds.get(marker)


def _frame_header(codestream: bytes) -> tuple[int, int]:
    """(marker, components) of the frame of a JPEG or JPEG-LS stream; zeros for others."""
    at = jpeg.frame_at(codestream)
    return (codestream[at + 1], codestream[at + 9]) if at else (0, 0)


def _precision(codestream: bytes) -> int:
    """The bits of a sample that a codestream names; 0 for a kind that is not known."""
    if codestream[:4] == b'\xff\x4f\xff\x51':
        return (codestream[42] & 0x7F) + 1 if len(codestream) > 42 else 0
    at = jpeg.frame_at(codestream)
    return codestream[at + 4] if at else 0


def _settle_frames(dataset, fragments, name):
    """Refuses several codestreams in one image; drops a number of frames that is none."""
    frames = voi.numbers(dataset, 'NumberOfFrames')
    if 'NumberOfFrames' in dataset and (not frames or frames[0] < 1):
        del dataset.NumberOfFrames
    starts = [each for each in fragments if each[:2] == b'\xff\xd8' or each[:3] == b'\xff\x4f\xff']
    if dataset.file_meta.TransferSyntaxUID == uid.RLELossless:
        starts = fragments
    if len(starts) > 1:
        _refuse_frames(len(starts), name)


def _refuse_cut(fragments, name):
    """Refuses a codestream without its end, which decoders fill up with grey without a word."""
    codestream = b''.join(fragments)
    marked = codestream.startswith((b'\xff\xd8', b'\xff\x4f\xff'))
    if marked and _END not in codestream.rstrip(b'\0')[-16:]:  # bytes that pad may follow
        raise ImageError(
            f'{name}: its compressed pixels have no end: cut short. Export it again, or drop it '
            '(data.on_error=skip)'
        )


def _refuse_frames(count, name):
    raise ImageError(
        f'{name}: pixel data of {count} frames, though NumberOfFrames does not say so; a '
        'radiograph has one. Export one frame, or drop it'
    )


def _settle_samples(dataset, fragments, flags):
    """Makes samples a pixel and photometric interpretation agree with each other and the data."""
    kind = photometric(dataset)
    samples = _number(dataset, 'SamplesPerPixel')
    _settle_allocated(dataset, fragments, 3 if kind in _COLOUR else 1, flags)
    held = _samples_held(dataset, fragments)
    wanted = 1 if kind in (*_GREY, _PALETTE) else 3 if kind in _COLOUR else samples or 1
    if held in (1, 3):
        wanted = held
    changed = []
    if samples != wanted:
        dataset.SamplesPerPixel = wanted
        changed += ['samples'] * (samples > 0)
    known = kind in (*_GREY, *_COLOUR, _PALETTE)
    if (not known and wanted == 1) or (known and (wanted == 3) == (kind in (*_GREY, _PALETTE))):
        dataset.PhotometricInterpretation = 'RGB' if wanted == 3 else 'MONOCHROME2'
        changed.append('kind')
    elif kind != dataset.PhotometricInterpretation:
        dataset.PhotometricInterpretation = kind
    if changed:
        flags.append('photometric_guessed')
    if wanted == 3 and dataset.get('PlanarConfiguration') not in (0, 1):
        dataset.PlanarConfiguration = 0
    allocated = _number(dataset, 'BitsAllocated')
    if allocated and not 0 < _number(dataset, 'BitsStored') <= allocated:
        dataset.BitsStored = allocated
    if 'PixelRepresentation' not in dataset or dataset.PixelRepresentation not in (0, 1):
        dataset.PixelRepresentation = 0
    if 'HighBit' not in dataset or dataset.HighBit is None:
        dataset.HighBit = dataset.BitsStored - 1


def _number(dataset, key) -> int:
    """A whole number of the header; 0 where there is none."""
    return int((voi.numbers(dataset, key) or [0])[0])


def _settle_allocated(dataset, fragments, samples, flags):
    """Takes BitsAllocated from the pixel data where the header has none that can be: from the
    length of plain ones, and from the precision that a codestream names.
    """
    allocated = _number(dataset, 'BitsAllocated')
    stored = _number(dataset, 'BitsStored')
    impossible = allocated not in (1, 8, 16, 32, 64) or stored > allocated
    data = dataset.get('PixelData')
    precision = _precision(fragments[0]) if fragments else 0
    if data is None or not (impossible or 0 < precision <= 8 < allocated or allocated < precision):
        return
    if fragments:
        found = 16 if (precision or stored) > 8 else 8
    else:
        found = 8 * (len(data) // (dataset.Rows * dataset.Columns * samples))
        if found < stored:  # packed, which no decoder here reads, or cut short
            raise ValueError(
                f'BitsAllocated is {allocated or "missing"}, and {len(data):,} bytes of pixel data '
                f'are too few for {stored} bits a pixel in whole bytes'
            )
    if found in (8, 16, 32) and found != allocated:
        dataset.BitsAllocated = found
        if _number(dataset, 'BitsStored') > found:
            dataset.BitsStored = found
            dataset.HighBit = found - 1
        flags.append('bits_allocated_guessed')


def _samples_held(dataset, fragments) -> int:
    """How many samples a pixel has by the pixel data, 0 where that is not clear."""
    if fragments:
        first = fragments[0]
        if first[:4] == b'\xff\x4f\xff\x51':
            return int.from_bytes(first[40:42], 'big')
        return _frame_header(first)[1]
    allocated = _number(dataset, 'BitsAllocated')
    data = dataset.get('PixelData')
    if data is None or allocated not in (8, 16, 32) or photometric(dataset) == 'YBR_FULL_422':
        return 0
    plane = dataset.Rows * dataset.Columns * allocated // 8
    whole, rest = divmod(len(data), plane)
    declared = _number(dataset, 'SamplesPerPixel')
    grey = photometric(dataset) in _GREY
    if whole == 1 and rest <= 1:
        return 1
    # Three planes of one grey sample each are three pages, unless anything says colour.
    return 3 if whole == 3 and rest <= 1 and (declared == 3 or not grey) else 0


def _grey_values(dataset, fragments, flags) -> tuple[np.ndarray, np.ndarray | None]:
    """Stored values of a grey image, and which of them are padding."""
    padding = _padding(dataset)
    allocated = int(dataset.BitsAllocated)
    if 'PixelData' not in dataset or allocated not in (8, 16, 32):
        values = pixels.pixel_array(dataset)
        raw = values.view(f'u{values.itemsize}') if values.dtype.kind == 'i' else values
        return values, _void(values, raw, padding)
    stored = int(dataset.BitsStored)
    high = int(dataset.HighBit)
    signed = dataset.PixelRepresentation == 1
    # All bits as they are: what they mean is settled below.
    dataset.BitsStored = allocated
    dataset.HighBit = allocated - 1
    dataset.PixelRepresentation = 0
    raw = pixels.pixel_array(dataset)
    stored = min(stored, 8 * raw.itemsize)  # a codestream may need fewer bytes than are allocated
    dataset.BitsStored = stored
    if raw.ndim != 2:
        return raw, None
    void = _void(raw, raw, padding)
    values = _interpret(raw, void, stored, high, signed, _has_overlay_bits(dataset), flags)
    return values, _void(values, raw, padding)


def _interpret(raw, void, stored, high, signed, overlays, flags) -> np.ndarray:
    """What raw words (unsigned, [H, W]) mean, given how many bits are said to be used."""
    inside = raw if void is None else raw[~void]
    if not inside.size:
        inside = raw
    shift = high + 1 - stored
    if shift > 0 and high < 8 * raw.itemsize:
        low = inside & np.array((1 << shift) - 1, raw.dtype)
        if not low.any() or int(inside.max()) >> stored:
            raw = raw >> np.array(shift, raw.dtype)
            inside = inside >> np.array(shift, raw.dtype)
        else:
            flags.append('high_bit_ignored')
    beyond = bool(int(inside.max()) >> stored)
    mask = np.array((1 << stored) - 1, raw.dtype)
    whole = raw.view(f'i{raw.itemsize}')
    if not beyond:
        if not signed and stored > 8 and _is_split(inside, stored):
            return _smoother(raw, _extended(raw, stored), void, 'sign_guessed', flags)
        if not signed or not int(inside.max()) >> (stored - 1):
            return raw.astype(f'i{raw.itemsize}') if signed else raw
        return _smoother(_extended(raw, stored), raw, void, 'sign_guessed', flags)
    if overlays:
        return _extended(raw & mask, stored) if signed else raw & mask
    extended = _extended(raw & mask, stored)
    is_extended = extended == whole
    if (is_extended if void is None else is_extended[~void]).all():
        if signed:
            return whole
        return _smoother(raw, whole, void, 'sign_guessed', flags)
    said = extended if signed else raw & mask
    found = whole if signed else raw
    if _is_garbage(inside >> stored, raw >> stored, said, found, void):
        flags.append('high_bits_ignored')
        return said
    flags.append('bits_stored_ignored')
    return found


def _is_garbage(inside, beyond, said, found, void):
    """Whether the bits beyond the stored ones are no part of the values: the same everywhere, or
    the image is far rougher with them.
    """
    if inside.min() == inside.max():
        return True
    crossing = beyond[:, 1:] != beyond[:, :-1]
    if void is not None:
        crossing &= ~(void[:, 1:] | void[:, :-1])
    if not crossing.any():
        return False
    return _jump(found, crossing, void) > _ROUGHER * _jump(said, crossing, void)


def _is_split(words, stored):
    """Whether words lie near both ends of `stored` bits and nowhere between, as small negative
    numbers beside positive ones do.
    """
    quarter = 1 << (stored - 2)
    high = words >= 3 * quarter
    low = words < quarter
    if not (high.any() and low.any() and (high | low).mean() > 0.999):
        return False
    return bool(words[high].min() < words[high].max())  # one value is padding


def _extended(raw, stored):
    """Words of `stored` bits as two's complement numbers."""
    shift = 8 * raw.itemsize - stored
    left = (raw << np.array(shift, raw.dtype)).view(f'i{raw.itemsize}')
    return left >> np.array(shift, left.dtype)


def _smoother(said, other, void, flag, flags):
    """`said`, unless `other` is far smoother: the same words, once with and once without sign.

    They differ where neighbours have the sign bit and have it not: there one of the two jumps from
    end to end.
    """
    signed = said if said.dtype.kind == 'i' else other
    crossing = (signed[:, 1:] < 0) != (signed[:, :-1] < 0)
    if void is not None:
        crossing &= ~(void[:, 1:] | void[:, :-1])
    if not crossing.any():
        return said
    if _jump(said, crossing, void) > _ROUGHER * _jump(other, crossing, void):
        flags.append(flag)
        return other
    return said


def _jump(values, crossing, void):
    """The median step of neighbours at `crossing`, as a share of the range of values."""
    inside = values if void is None else values[~void]
    steps = np.abs(np.diff(values.astype(np.float32), axis=1))[crossing]
    return float(np.median(steps)) / max(1.0, float(inside.max()) - float(inside.min()))


def _has_overlay_bits(dataset) -> bool:
    """Whether overlay planes lie in unused bits of the pixel data."""
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, _OVERLAY_BIT_POSITION))
        if position is not None and position.value and (group, _OVERLAY_DATA) not in dataset:
            return True
    return False


def _padding(dataset) -> list[float]:
    """[value] or [value, limit of the range] that stand for no pixel."""
    for kind in ('DoubleFloatPixelPadding', 'FloatPixelPadding', 'PixelPadding'):
        value = voi.numbers(dataset, f'{kind}Value')[:1]
        if value:
            return value + voi.numbers(dataset, f'{kind}RangeLimit')[:1]
    return []


def _void(values, raw, padding) -> np.ndarray | None:
    """bool [H, W]: where values (or the same words as unsigned ones) are padding; None: nowhere."""
    if not padding:
        return None
    if values.dtype.kind == 'f':
        low = np.asarray(min(padding), values.dtype)
        high = np.asarray(max(padding), values.dtype)
        void = (values >= low) & (values <= high)
        return void if void.any() else None
    words = sorted(int(number) % (1 << 8 * raw.itemsize) for number in padding)
    void = np.isin(raw, np.array(words, raw.dtype))
    if len(padding) == 2 and (padding[0] < 0) == (padding[1] < 0):
        void |= (raw >= words[0]) & (raw <= words[1])
    elif len(padding) == 2:
        void |= (values >= min(padding)) & (values <= max(padding))
    return void if void.any() else None
