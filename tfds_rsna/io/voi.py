"""Stored values of a DICOM image -> grey, as its header says, or as the pixels say.

The chain of DICOM PS3.3 C.11: modality rescale or LUT, then the first VOI LUT or else the first
window that shows anything. Headers are often wrong here. A LUT that is empty, and a window of no
numbers, count as absent. One that makes the image all but flat, or black and white alone, is passed
over; where all are, the pixels' own percentiles become black and white.

A modality rescale gives values their unit. Without a window it changes no picture, but for a
negative slope, which inverts it.

The LUTs are looked up here and not by pydicom: its own takes entries of 8 bits for 16, and the
declared number of bits for the used one.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tfds_rsna.io import pixels


def to_grey(
    values: np.ndarray, dataset, *, void: np.ndarray | None, depth: int | None
) -> tuple[np.ndarray, list[str]]:
    """(grey uint8 [H, W] before any inversion, flags) of stored values [H, W].

    Args:
        values: numbers [H, W].
        dataset: the header.
        void: bool [H, W], pixels that are padding: they become 0 and decide nothing; None for none.
        depth: see `decoding.decode`; counts where there is no window.
    """
    rescaled, plain, inverted, flags = _rescale(values, dataset, void)
    ignored = False
    for render in _renderings(dataset):
        grey = render(rescaled)
        if not pixels.is_lost(grey, rescaled, void):
            if void is not None:
                grey[void] = 0
            return grey, flags + ['window_ignored'] * ignored
        ignored = True
    if ignored:
        grey = pixels.stretch(plain, void)
        more = ['window_ignored', 'stretched']
    else:
        grey, more = pixels.scale_or_stretch(plain, depth or _few_bits(plain, dataset), void)
    if inverted:
        grey = 255 - grey
        if void is not None:
            grey[void] = 0
    return grey, flags + more


def _few_bits(values, dataset) -> int | None:
    """The depth of an image that is stored in fewer than 8 bits; None for others."""
    if values.dtype.kind not in 'iu' or values.min() < 0:
        return None
    # 1 bit is black and white, in as many bits as it may be stored.
    bits = 1 if values.max() == 1 else int((numbers(dataset, 'BitsStored') or [0])[0])
    return bits if 0 < bits < 8 and values.max() < 2**bits else None


def numbers(dataset, key: str) -> list[float]:
    """The numbers of an element; none where it is missing, empty or no numbers."""
    try:
        value = dataset.get(key)
        found = np.atleast_1d(np.asarray(value, dtype=np.float64)) if value is not None else []
    except (TypeError, ValueError):
        return []
    return [float(number) for number in found if np.isfinite(number)]


def _rescale(values, dataset, void):
    """(values in the unit of windows, values to show without one, whether the latter are inverted,
    flags).
    """
    flags = []
    for item in _items(dataset, 'ModalityLUTSequence'):
        found = _table(item, values)
        if found is None:
            continue
        if not _is_cut(item) and not pixels.is_lost(pixels.stretch(found[0], void), values, void):
            return found[0], found[0], False, flags
        flags = ['rescale_ignored']
    slope = (numbers(dataset, 'RescaleSlope') or [1.0])[0]
    intercept = (numbers(dataset, 'RescaleIntercept') or [0.0])[0]
    if slope == 0:  # everything would be one value
        return values, values, False, ['rescale_ignored']
    if slope == 1 and intercept == 0:
        return values, values, False, flags
    return values * slope + intercept, _shifted(values, intercept / slope), slope < 0, flags


def _shifted(values, shift):
    """Signed integers moved up by `shift` where none is negative then; others as they are."""
    low = values.min()
    if values.dtype.kind != 'i' or not -low <= shift < 2**16 or low >= 0 or shift % 1:
        return values
    return values.astype(np.int64) + int(shift)


def _renderings(dataset) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """What the header offers, in order: functions from rescaled values to grey."""
    for item in _items(dataset, 'VOILUTSequence'):
        if _is_cut(item):
            yield lambda values: np.zeros(values.shape, np.uint8)
        elif _table(item, np.zeros(1)) is not None:
            yield lambda values, item=item: _looked_up(item, values)
    kind = str(dataset.get('VOILUTFunction') or 'LINEAR').strip().upper()
    windows = list(zip(numbers(dataset, 'WindowCenter'), numbers(dataset, 'WindowWidth')))
    for centre, width in windows:
        yield lambda values, centre=centre, width=width: window(values, centre, width, kind)


def window(values: np.ndarray, centre: float, width: float, kind: str) -> np.ndarray:
    """A window of PS3.3 C.11.2.1: 'LINEAR', 'LINEAR_EXACT' or 'SIGMOID'; others count as LINEAR.

    A window without width is black throughout.
    """
    values = values.astype(np.float64)
    if width <= 0:
        return np.zeros(values.shape, np.uint8)
    if kind == 'SIGMOID':
        exponent = np.clip(-4 * (values - centre) / width, -700, 700)
        share = 1 / (1 + np.exp(exponent))
    elif kind == 'LINEAR_EXACT':
        share = (values - centre) / width + 0.5
    elif width <= 1:
        share = values > centre - 0.5
    else:
        share = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _looked_up(item, values):
    found, table = _table(item, values)
    declared = int(numbers(item, 'LUTDescriptor')[2])
    high = int(table.max())
    # White is the declared number of bits. Films of 12 bits come with tables that declare 16, and
    # with ones that declare 8: then it is what the table uses.
    if 8 <= declared <= 16 and 2 ** (declared - 1) <= high < 2**declared:
        return pixels.scale(found, declared)
    return pixels.scale(found)


def _items(dataset, key):
    try:
        return list(dataset.get(key) or [])
    except TypeError:
        return []


def _is_cut(item) -> bool:
    """Whether a LUT has entries, and fewer than it declares."""
    descriptor = numbers(item, 'LUTDescriptor')
    if len(descriptor) != 3:
        return False
    count = int(descriptor[0]) or 2**16
    entries = _entries(item, count)
    return entries is not None and entries.size < count


def _table(item, values) -> tuple[np.ndarray, np.ndarray] | None:
    """(values looked up, the table's entries); None where the item holds no table."""
    descriptor = numbers(item, 'LUTDescriptor')
    if len(descriptor) != 3:
        return None
    count = int(descriptor[0]) or 2**16
    entries = _entries(item, count)
    if entries is None or entries.size < 2:
        return None
    first = descriptor[1]
    if first >= 2**15 and values.max() < first:  # a negative number read as an unsigned one
        first -= 2**16
    place = np.clip(np.rint(values - first), 0, entries.size - 1).astype(np.int64)
    return entries[place], entries


def _entries(item, count: int) -> np.ndarray | None:
    """The entries of a LUT: words, bytes one by one, or bytes packed two to a word."""
    data = item.get('LUTData')
    if data is None:
        return None
    if isinstance(data, bytes):
        if item.original_encoding[1] is False:  # big endian
            data = np.frombuffer(data[: len(data) // 2 * 2], '>u2').astype('<u2').tobytes()
        words = len(data) >= 2 * count
        found = np.frombuffer(
            data[: len(data) // 2 * 2] if words else data, '<u2' if words else 'u1'
        )
    else:
        found = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
        if 2 * found.size in (count, count + 1):
            found = np.frombuffer(found.astype('<u2').tobytes(), 'u1')
    return found[:count].astype(np.uint16) if found.size else None
