"""Stored values of a DICOM image -> grey, as its header says, or as the pixels say.

The chain of DICOM PS3.3 C.11: modality rescale or LUT, then the first VOI LUT or else the first
window that shows anything. Headers are often wrong here. A LUT that is empty, and a window of no
numbers, count as absent. One that makes the image all but flat, or black and white alone, is passed
over; where all are, the pixels' own percentiles become black and white.

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
    rescaled, flags = _rescale(values, dataset)
    ignored = False
    for render in _renderings(dataset):
        grey = render(rescaled)
        if not pixels.is_lost(grey, rescaled, void):
            if void is not None:
                grey[void] = 0
            return grey, flags + ['window_ignored'] * ignored
        ignored = True
    if ignored:
        return pixels.stretch(rescaled, void), [*flags, 'window_ignored', 'stretched']
    # A slope makes floats of integers; the rule of depths needs integers.
    if rescaled.dtype.kind == 'f' and np.array_equal(rescaled, np.rint(rescaled)):
        rescaled = rescaled.astype(np.int32)
    if depth is None and rescaled.dtype.kind in 'iu' and rescaled.min() >= 0:
        # 1 bit is black and white, in as many bits as it may be stored.
        bits = 1 if rescaled.max() == 1 else int((numbers(dataset, 'BitsStored') or [0])[0])
        depth = bits if 0 < bits < 8 and rescaled.max() < 2**bits else None
    grey, more = pixels.scale_or_stretch(rescaled, depth, void)
    return grey, flags + more


def numbers(dataset, key: str) -> list[float]:
    """The numbers of an element; none where it is missing, empty or no numbers."""
    try:
        value = dataset.get(key)
        found = np.atleast_1d(np.asarray(value, dtype=np.float64)) if value is not None else []
    except (TypeError, ValueError):
        return []
    return [float(number) for number in found if np.isfinite(number)]


def _rescale(values, dataset):
    for item in _items(dataset, 'ModalityLUTSequence'):
        found = _table(item, values)
        if found is not None:
            return found[0], []
    slope = numbers(dataset, 'RescaleSlope') or [1.0]
    intercept = numbers(dataset, 'RescaleIntercept') or [0.0]
    if slope[0] == 0:  # everything would be one value
        return values, ['rescale_ignored']
    if slope[0] == 1 and intercept[0] == 0:
        return values, []
    return values * slope[0] + intercept[0], []


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
    entries = _entries(item.get('LUTData'), count)
    return entries is not None and entries.size < count


def _table(item, values) -> tuple[np.ndarray, np.ndarray] | None:
    """(values looked up, the table's entries); None where the item holds no table."""
    descriptor = numbers(item, 'LUTDescriptor')
    if len(descriptor) != 3:
        return None
    count = int(descriptor[0]) or 2**16
    entries = _entries(item.get('LUTData'), count)
    if entries is None or entries.size < 2:
        return None
    first = descriptor[1]
    if first >= 2**15 and values.max() < first:  # a negative number read as an unsigned one
        first -= 2**16
    place = np.clip(np.rint(values - first), 0, entries.size - 1).astype(np.int64)
    return entries[place], entries


def _entries(data, count: int) -> np.ndarray | None:
    """The entries of a LUT: words, bytes one by one, or bytes packed two to a word."""
    if data is None:
        return None
    if isinstance(data, bytes):
        words = len(data) >= 2 * count
        found = np.frombuffer(
            data[: len(data) // 2 * 2] if words else data, '<u2' if words else 'u1'
        )
    else:
        found = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
        if 2 * found.size in (count, count + 1):
            found = np.frombuffer(found.astype('<u2').tobytes(), 'u1')
    return found[:count].astype(np.uint16) if found.size else None
