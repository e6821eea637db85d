"""DICOM radiographs -> 8-bit grey; with `dicom_pixels` all that needs pydicom (extra `[dicom]`)."""

import io
import logging
import re
import unicodedata

import numpy as np

from tfds_rsna import sexes
from tfds_rsna.io import voi
from tfds_rsna.io.pixels import MAX_PIXELS, Decoded, ImageError, NotAnImageError, square

try:
    import pydicom

    from tfds_rsna.io import dicom_pixels
except ImportError:
    pydicom = None

# It logs what it meets in a damaged file with tracebacks; here that is an error of one sentence.
logging.getLogger('pydicom').setLevel(logging.CRITICAL)
_SIZE = ('Rows', 'Columns')
_PIXELS = ('PixelData', 'FloatPixelData', 'DoubleFloatPixelData')
# Where an enhanced image has its window, rescale, size of pixels and body part.
_GROUPS = ('PerFrameFunctionalGroupsSequence', 'SharedFunctionalGroupsSequence')
_PARTS_OF_GROUPS = (
    'FrameVOILUTSequence',
    'PixelValueTransformationSequence',
    'PixelMeasuresSequence',
    'FrameAnatomySequence',
)
# (vertical, horizontal) size of a pixel, or the ratio of the two
_SPACINGS = (
    'PixelAspectRatio',
    'PixelSpacing',
    'ImagerPixelSpacing',
    'NominalScannedPixelSpacing',
)
_SEXES = {'M': True, 'F': False}
# Modalities that are no radiographs, and what people call them.
_OTHER_MODALITIES = {
    'CT': 'computed tomography',
    'MR': 'magnetic resonance',
    'US': 'ultrasound',
    'IVUS': 'ultrasound',
    'PT': 'positron emission tomography',
    'NM': 'nuclear medicine',
    'RTDOSE': 'a dose of radiotherapy',
    'SEG': 'a segmentation',
    'MG': 'mammography',
    'BMD': 'bone densitometry',
    'ECG': 'electrocardiography',
    'ES': 'endoscopy',
    'GM': 'microscopy',
    'SM': 'microscopy',
    'XC': 'a photograph',
    'OP': 'a photograph of the eye',
    'OCT': 'optical tomography',
    'OPT': 'optical tomography',
    'PX': 'a panorama of the teeth',
    'IO': 'a radiograph of teeth',
}
# Body parts that are, or may hold, a hand, without spaces; they outweigh the others.
_HAND = re.compile(
    'HAND|WRIST|FINGER|THUMB|CARP|PHALAN|BONEAGE|FOREARM|(?<!UPPER)ARM|(?<!LOWER)(EXTREMITY|LIMB)|'
    'MANO|MANI|MAIN|MUNECA|POIGNET|POLSO|DEDO|DITO|DOIGT'
)
# Words of other body parts: the standard's terms, and what exports of other languages have.
_OTHER_PARTS = re.compile(
    r'\b(ABDOMEN|ANKLE|BACINO|BASSIN|BECKEN|BREAST|BRUST|CADERA|CALCANEUS|CAVIGLIA|CERVICAL|CHEST|'
    'CHEVILLE|CLAVICLE|COCCYX|CODO|COLON|COLUMNA|COUDE|CRANE|CRANEO|CRANIO|CSPINE|ELBOW|ELLBOGEN|'
    'ELLENBOGEN|EPAULE|FACE|FEMUR|FIBULA|FOOT|FUSS|GENOU|GINOCCHIO|GOMITO|HANCHE|HEAD|HEART|HIP|'
    'HOMBRO|HUEFTE|HUFTE|HUMERUS|JAW|KIDNEY|KNEE|KNIE|LEG|LOWER|LSPINE|LUMBAR|LUNG|MANDIBLE|'
    'MAXILLA|NECK|NOSE|ORBIT|PATELLA|PELVIS|PIED|PIEDE|PIE|RACHIS|RIB|RODILLA|SACRUM|SCAPULA|'
    'SCHADEL|SCHAEDEL|SCHULTER|SHOULDER|SINUS|SKULL|SPALLA|SPINE|SSPINE|STERNUM|TEETH|THIGH|THORAX|'
    r'THORACIC|TIBIA|TOBILLO|TOE|TORACE|TORAX|TOOTH|TSPINE|UPPERARM|ZYGOMA)S?\b'
)


def decode(data: bytes, name: str, *, depth: int | None = None) -> Decoded:
    """Decodes one DICOM file by the rules in `decoding`.

    With a VOI window (or LUT) its output range becomes 0 to 255, as DICOM PS3.3 C.11.2 has it.
    Without one, or with one that shows nothing, see `voi.to_grey`.

    Args:
        data: the whole file.
        name: its name, for messages.
        depth: see `decoding.decode`.

    Raises:
        ImageError: pydicom (or the decoder of a compressed transfer syntax) is not installed, no
            pixels, several frames, too many pixels, or a damaged file; NotAnImageError for a whole
            DICOM file of another kind.
    """
    if pydicom is None:
        raise ImageError(
            f'{name}: a DICOM file, and pydicom is not installed. '
            "Install the extra: pip install 'boneage_jax[dicom]'"
        )
    try:
        dataset = _open(data)
        _check(dataset, name)
        _settle_groups(dataset)
        male = _male(dataset)
        refused = _refused(dataset)
    except ImageError:
        raise
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise ImageError(
            f'{name}: a damaged DICOM file ({error}). Export it again, or drop it '
            '(data.on_error=skip)'
        ) from error
    try:
        grey, flags = _grey(dataset, name, depth)
    except ImageError:
        raise
    except BaseException as error:
        # A decoder written in Rust panics on damaged data, and a panic is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != 'PanicException':
            raise
        raise ImageError(_unreadable(dataset, name, error)) from error
    decoded = Decoded(np.ascontiguousarray(grey), tuple(flags), male=male, refused=refused)
    return square(decoded, _height_of_width(dataset))


def header(data: bytes) -> tuple[str, bool | None] | None:
    """What a DICOM file says of itself before its pixels: (kind, sex); None where it is cut there.

    `kind` is '' for an image, and for what cannot be told; else what it is, such as 'Media Storage
    Directory Storage'. The sex is True for male, None where it is not said.
    """
    if pydicom is None:
        return '', None
    try:
        dataset = _open(data, pixels=False)
        return _other_kind(dataset), _male(dataset)
    except Exception:  # a damaged file, too: whoever decodes it says so
        return None


def _open(data, *, pixels=True):
    if data[:4] == b'DICM':  # the preamble was lost
        data = bytes(128) + data
    return pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=not pixels)


def _grey(dataset, name, depth):
    """(grey [H, W], flags)."""
    values, void, flags = dicom_pixels.read(dataset, name)
    if values.ndim == 3:
        return dicom_pixels.luma(values, dataset, flags), flags
    grey, more = voi.to_grey(values, dataset, void=void, depth=depth)
    # What a MONOCHROME1 says again with INVERSE a MONOCHROME2 says alone.
    kind = dicom_pixels.photometric(dataset)
    if kind == 'MONOCHROME1' or _text(dataset, 'PresentationLUTShape') == 'INVERSE':
        grey = 255 - grey
        if void is not None:
            grey[void] = 0
    return grey, flags + more


def _height_of_width(dataset) -> float:
    """How many times as high as wide a pixel is; 1 where nothing says so."""
    for key in _SPACINGS:
        found = voi.numbers(dataset, key)
        if len(found) == 2 and min(found) > 0:
            return found[0] / found[1]
    return 1.0


def _unreadable(dataset, name, error):
    try:
        syntax = getattr(dataset, 'file_meta', {}).get('TransferSyntaxUID')
    except Exception:  # damaged itself
        syntax = None
    known = getattr(syntax, 'name', 'no transfer syntax')
    message = f'{name}: DICOM pixels that cannot be read: {known} ({error}). '
    plain = syntax in pydicom.uid.AllTransferSyntaxes and not syntax.is_encapsulated
    if not plain:
        message += "Compressed images need pip install 'boneage_jax[dicom]'; a "
    else:
        message += 'A '
    return message + 'damaged one must be exported again, or dropped (data.on_error=skip)'


def _check(dataset, name: str) -> None:
    kind = _other_kind(dataset)
    if kind:
        raise NotAnImageError(f'{name}: a DICOM file that is no image ({kind})')
    missing = [key for key in _SIZE if not dataset.get(key)]
    if not any(dataset.get(key) for key in _PIXELS):
        missing.append('PixelData')
    if missing:
        raise ImageError(
            f'{name}: a DICOM file without {", ".join(missing)}, so not an image. Export it again, '
            'or drop it (data.on_error=skip)'
        )
    if dataset.Rows * dataset.Columns > MAX_PIXELS:
        raise ImageError(
            f'{name}: {dataset.Columns} x {dataset.Rows} pixels; images above {MAX_PIXELS:,} '
            'pixels are refused as decompression bombs'
        )
    frames = voi.numbers(dataset, 'NumberOfFrames')
    if frames and frames[0] > 1:
        raise ImageError(
            f'{name}: {frames[0]:.0f} frames; a radiograph has one. Export one frame, or drop it'
        )


def _settle_groups(dataset) -> None:
    """Gives the dataset of an enhanced image what its functional groups say of the only frame."""
    for key in _GROUPS:
        for group in list(dataset.get(key) or [])[:1]:
            for part in _PARTS_OF_GROUPS:
                for item in list(group.get(part) or [])[:1]:
                    for element in item:
                        if element.tag not in dataset:
                            dataset[element.tag] = element


def _other_kind(dataset) -> str:
    """The kind of a DICOM object that holds no image; '' for others."""
    if any(key in dataset for key in (*_SIZE, *_PIXELS)):
        return ''
    meta = getattr(dataset, 'file_meta', {})
    uid = dataset.get('SOPClassUID') or meta.get('MediaStorageSOPClassUID')
    if uid:
        kind = pydicom.uid.UID(str(uid)).name
        return '' if 'Image' in kind else kind
    return 'a directory of files' if 'DirectoryRecordSequence' in dataset else ''


def _male(dataset) -> bool | None:
    """By M or F, or by a word; the letter of a word alone may be another language's (mujer)."""
    said = _text(dataset, 'PatientSex')
    return _SEXES.get(said, sexes.of_word(said))


def _refused(dataset) -> str:
    """Why this is no radiograph of a hand by its header, '' where the header allows it."""
    modality = _text(dataset, 'Modality')
    if modality in _OTHER_MODALITIES:
        return (
            f'Modality is {modality}, {_OTHER_MODALITIES[modality]}, and no radiograph. Leave it '
            'out; if the header is wrong, mend it or save the image as PNG'
        )
    part = _text(dataset, 'BodyPartExamined') or _region(dataset)
    letters = unicodedata.normalize('NFD', part)  # accents apart
    words = re.sub('[^A-Z]+', ' ', re.sub('[\u0300-\u036f]', '', letters))
    if _HAND.search(words.replace(' ', '')) or not _OTHER_PARTS.search(words):
        return ''
    return (
        f'BodyPartExamined is {part}, no hand. Leave it out; if the header is wrong, mend it or '
        'save the image as PNG'
    )


def _region(dataset) -> str:
    for item in dataset.get('AnatomicRegionSequence') or []:
        return _text(item, 'CodeMeaning')
    return ''


def _text(dataset, key) -> str:
    value = dataset.get(key)
    if value is None:
        return ''
    texts = [value] if isinstance(value, str) else [str(each) for each in np.atleast_1d(value)]
    return ' '.join(texts).strip().upper()
