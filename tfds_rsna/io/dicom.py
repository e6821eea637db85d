"""DICOM radiographs -> 8-bit grey; the only module that needs pydicom (extra `[dicom]`)."""

import io

import numpy as np
from PIL import Image

from tfds_rsna.io.pixels import MAX_PIXELS, ImageError, scale

try:
    import pydicom
    from pydicom import pixels
except ImportError:
    pydicom = None

_NEEDED = ('Rows', 'Columns', 'PhotometricInterpretation', 'PixelData')
_GREY = ('MONOCHROME1', 'MONOCHROME2')
_COLOUR = ('RGB', 'YBR_FULL', 'YBR_FULL_422', 'YBR_ICT', 'YBR_RCT')


def decode(data: bytes, name: str, *, depth: int | None = None) -> np.ndarray:
    """Decodes one DICOM file by the rules in `decoding`.

    With a VOI window (or LUT) its output range becomes 0 to 255, as DICOM PS3.3 C.11.2 has it.
    Without one the rescaled values go by `pixels.scale`.

    Args:
        data: the whole file.
        name: its name, for messages.
        depth: see `decoding.decode`.

    Returns:
        uint8 [H, W].

    Raises:
        ImageError: pydicom (or the decoder of a compressed transfer syntax) is not installed, no
            pixels, several frames, a palette, too many pixels, or a damaged file.
    """
    if pydicom is None:
        raise ImageError(
            f'{name}: a DICOM file, and pydicom is not installed. '
            "Install the extra: pip install 'boneage_jax[dicom]'"
        )
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b'DICM')
        _check(dataset, name)
    except ImageError:
        raise
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise ImageError(
            f'{name}: a damaged DICOM file ({error}). Export it again, or drop it '
            '(data.on_error=skip)'
        ) from error
    try:
        values = pixels.pixel_array(dataset)  # colour comes as RGB
        if dataset.PhotometricInterpretation not in _GREY:
            return np.array(Image.fromarray(scale(values)).convert('L'))
        grey = _window(dataset, values, depth)
    except Exception as error:
        meta = getattr(dataset, 'file_meta', {})
        syntax = getattr(meta.get('TransferSyntaxUID'), 'name', 'no transfer syntax')
        raise ImageError(
            f'{name}: DICOM pixels that cannot be read: {syntax} ({error}). Compressed images need '
            "pip install 'boneage_jax[dicom]'; a damaged one must be exported again, or dropped "
            '(data.on_error=skip)'
        ) from error
    if dataset.PhotometricInterpretation == 'MONOCHROME1':
        grey = 255 - grey
    return np.ascontiguousarray(grey)


def _check(dataset, name: str) -> None:
    missing = [key for key in _NEEDED if key not in dataset]
    if missing:
        raise ImageError(
            f'{name}: a DICOM file without {", ".join(missing)}, so not an image (a report or a '
            'directory file?). Drop it (data.on_error=skip)'
        )
    if dataset.Rows * dataset.Columns > MAX_PIXELS:
        raise ImageError(
            f'{name}: {dataset.Columns} x {dataset.Rows} pixels; images above {MAX_PIXELS:,} '
            'pixels are refused as decompression bombs'
        )
    frames = int(dataset.get('NumberOfFrames') or 1)
    if frames > 1:
        raise ImageError(
            f'{name}: {frames} frames; a radiograph has one. Export one frame, or drop it'
        )
    if dataset.PhotometricInterpretation not in (*_GREY, *_COLOUR):
        raise ImageError(
            f'{name}: photometric interpretation {dataset.PhotometricInterpretation}; grey and RGB '
            'are read. Export it as grey'
        )


def _window(dataset, values: np.ndarray, depth: int | None) -> np.ndarray:
    rescaled = pixels.apply_modality_lut(values, dataset)
    if 'VOILUTSequence' in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return scale(pixels.apply_voi_lut(rescaled, dataset, index=0), bits)
    if dataset.get('WindowWidth') is None or dataset.get('WindowCenter') is None:
        # A slope makes floats of integers; the rule of depths needs integers.
        if np.array_equal(rescaled, np.rint(rescaled)):
            rescaled = rescaled.astype(np.int32)
        return scale(rescaled, depth)
    windowed = pixels.apply_windowing(rescaled, dataset, index=0)
    # What comes out far below and far above the window is black and white, whatever numbers pydicom
    # gives them.
    centre = _first(dataset['WindowCenter'])
    width = _first(dataset['WindowWidth'])
    beyond = np.array([centre - 50 * width, centre + 50 * width])
    low, high = pixels.apply_windowing(beyond, dataset, index=0)
    return np.clip(np.rint((windowed - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def _first(element) -> float:
    """The first number of a DICOM element, which may hold several."""
    return float(np.atleast_1d(element.value)[0])
