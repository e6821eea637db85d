"""Odd DICOM files as hospitals have them: the right grey, a flag where the header was of no use."""

import io
import pathlib
import struct

import dicom_writer
import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
)

from tfds_rsna.io import decoding
from tfds_rsna.io import dicom as dicom_lib

# What pydicom warns of is what these files are about.
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:pydicom')

ROWS, COLUMNS = np.mgrid[:48, :40]
# A bright oval with a grain on a dark ground: smooth, with all levels of grey.
SMOOTH = np.clip(250 - 0.6 * ((ROWS - 24) ** 2 + (COLUMNS - 20) ** 2), 5, 250)
FILM = np.rint(SMOOTH + 3 * np.sin(ROWS * 7 + COLUMNS * 5)).astype(np.uint8)
TWELVE = np.rint(FILM * (4095 / 255)).astype(np.uint16)
WINDOW = {'WindowCenter': 2048, 'WindowWidth': 4096}


def odd(values, kind='MONOCHROME2', *, bits=12, allocated=16, high=None, data=None, **elements):
    """A DICOM file of `values` [H, W(, 3)] whose elements are as given, right or wrong.

    Args:
        values: the pixels.
        kind: the photometric interpretation; None leaves the element out.
        bits: BitsStored.
        allocated: BitsAllocated.
        high: HighBit; None: as it should be.
        data: the bytes of the pixel data, where these are not those of `values`.
        **elements: more elements; None deletes one. No elements are `frames` (encapsulated),
            `syntax`, and `bare` ('implicit' or 'explicit': no meta information).
    """
    with disable_value_validation():
        return _odd(values, kind, bits, allocated, high, data, elements)


def _odd(values, kind, bits, allocated, high, data, elements):
    frames = elements.pop('frames', None)
    bare = elements.pop('bare', None)
    syntax = elements.pop('syntax', ExplicitVRLittleEndian)
    dataset = dicom_writer.started(ComputedRadiographyImageStorage, syntax)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = 'CR'
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = allocated
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1 if high is None else high
    dataset.PixelRepresentation = int(values.dtype.kind == 'i')
    for key, value in elements.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    if kind is None:
        del dataset.PhotometricInterpretation
    if frames:
        dataset.PixelData = encapsulate(frames)
        dataset['PixelData'].is_undefined_length = True
        dataset['PixelData'].VR = 'OB'
    else:
        data = values.tobytes() if data is None else data
        dataset.PixelData = data + b'\0' * (len(data) % 2)
        dataset['PixelData'].VR = 'OW' if allocated > 8 else 'OB'
    buffer = io.BytesIO()
    if bare:
        dataset.file_meta = FileMetaDataset()
        dataset.preamble = None
        dataset.save_as(
            buffer, enforce_file_format=False, implicit_vr=bare == 'implicit', little_endian=True
        )
    else:
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lut(descriptor, entries, *, vr='US'):
    """A sequence of one LUT; bytes are written as they are."""
    item = Dataset()
    item.add_new(0x00283002, 'US', descriptor)
    item.add_new(0x00283006, vr, entries)
    return [item]


def words(numbers):
    return [int(number) for number in numbers]


def read(data, name='film.dcm'):
    decoded = decoding.read(data, name)
    return decoded.grey.astype(int), set(decoded.flags)


def jpeg(image, *, jfif=True, **options):
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=95, **options)
    data = buffer.getvalue()
    if not jfif:
        at = data.index(b'\xff\xe0')
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big') :]
    return data


RAMP = np.arange(4096)
EMPTY = Dataset()
EMPTY.add_new(0x00283002, 'US', None)
EMPTY.add_new(0x00283006, 'OW', None)


@pytest.mark.parametrize(
    'elements',
    [
        pytest.param({'VOILUTSequence': lut([4096, 0, 12], words(RAMP))}, id='as-declared'),
        pytest.param({'VOILUTSequence': lut([4096, 0, 16], words(RAMP))}, id='narrower'),
        pytest.param({'VOILUTSequence': lut([4096, 0, 8], words(RAMP))}, id='wider'),
        pytest.param({'VOILUTSequence': lut([4096, 0, 16], words(RAMP * 16))}, id='16-bit'),
        pytest.param({'VOILUTSequence': lut([4096, 0, 8], words(RAMP // 16))}, id='8-bit-words'),
        pytest.param(
            {'VOILUTSequence': lut([4096, 0, 8], bytes(words(RAMP // 16)), vr='OW')},
            id='packed-bytes',
        ),
        pytest.param(
            {
                'VOILUTSequence': lut(
                    [4096, 0, 8],
                    list(struct.unpack('<2048H', bytes(words(RAMP // 16)))),
                )
            },
            id='packed-words',
        ),
        pytest.param({'VOILUTSequence': [], **WINDOW}, id='no-item'),
        pytest.param({'VOILUTSequence': [EMPTY], **WINDOW}, id='empty-item'),
        pytest.param({'VOILUTSequence': [Dataset()], **WINDOW}, id='item-of-nothing'),
        pytest.param({'VOILUTFunction': '', **WINDOW}, id='empty-function'),
        pytest.param({'VOILUTFunction': 'linear ', **WINDOW}, id='function-in-small-letters'),
        pytest.param(
            {'VOILUTFunction': 'LINEAR_EXACT', 'WindowCenter': 2047.5, 'WindowWidth': 4095},
            id='linear-exact',
        ),
        pytest.param({'WindowCenter': 2048, 'WindowWidth': ''}, id='half-a-window'),
        pytest.param({'RescaleSlope': '', 'RescaleIntercept': '', **WINDOW}, id='empty-rescale'),
        pytest.param({'ModalityLUTSequence': lut([4096, 0, 12], words(RAMP))}, id='modality-lut'),
    ],
)
def test_luts_and_windows(elements):
    grey, flags = read(odd(TWELVE, **elements))
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert not flags


def test_a_lut_may_begin_below_zero():
    signed = (TWELVE.astype(np.int32) - 2048).astype(np.int16)
    table = lut([4096, 65536 - 2048, 12], words(RAMP))
    grey, _ = read(odd(signed, VOILUTSequence=table))
    np.testing.assert_allclose(grey, FILM, atol=1)


def test_sigmoid_is_steepest_in_its_middle():
    grey, _ = read(odd(TWELVE, VOILUTFunction='SIGMOID', WindowCenter=2048, WindowWidth=2048))
    expected = 255 / (1 + np.exp(-4 * (TWELVE - 2048.0) / 2048))
    np.testing.assert_allclose(grey, expected, atol=1)


@pytest.mark.parametrize(
    'elements',
    [
        {'WindowCenter': -3000, 'WindowWidth': 200},
        {'WindowCenter': 30000, 'WindowWidth': 400},
        {'WindowCenter': 2048, 'WindowWidth': 0},
        {'WindowCenter': 2048, 'WindowWidth': -4096},
        {'WindowCenter': 2048, 'WindowWidth': 1},
        {'WindowCenter': 2048, 'WindowWidth': 4_000_000},
        {'WindowCenter': 2048, 'WindowWidth': 40_000},
        {'VOILUTSequence': lut([4096, 0, 12], words(range(2000)))},
        {'VOILUTSequence': lut([256, 60000, 8], words(range(256)))},
    ],
)
def test_what_shows_nothing_is_passed_over_with_a_flag(elements):
    grey, flags = read(odd(TWELVE, **elements))
    assert {'window_ignored', 'stretched'} <= flags
    assert np.corrcoef(grey.ravel(), FILM.ravel())[0, 1] > 0.999
    assert grey.min() == 0 and grey.max() == 255


DIM = (500 + TWELVE // 2).astype(np.uint16)


@pytest.mark.parametrize(
    'slope, intercept',
    [
        (1, 0),
        (2, 0),
        ('0.1', 0),
        (4, 1000),
        (1, -1000),
        (1, 30_000),
        (2_000_000, 5),
        ('1e-9', 1000),
    ],
)
def test_a_rescale_without_a_window_changes_no_picture(slope, intercept):
    grey, flags = read(odd(DIM, RescaleSlope=slope, RescaleIntercept=intercept))
    np.testing.assert_allclose(grey, DIM * (255 / 4095), atol=1)
    assert not flags
    grey, _ = read(odd(4095 - DIM, RescaleSlope=f'-{slope}', RescaleIntercept=intercept))
    np.testing.assert_allclose(grey, DIM * (255 / 4095), atol=1)


def test_a_rescale_may_lift_negative_values():
    signed = (DIM.astype(np.int32) - 2048).astype(np.int16)
    for slope in (1, 2):
        grey, _ = read(odd(signed, RescaleSlope=slope, RescaleIntercept=slope * 2048))
        np.testing.assert_allclose(grey, DIM * (255 / 4095), atol=1)


@pytest.mark.parametrize(
    'table',
    [
        lut([4096, 0, 12], words(RAMP[:1200])),
        lut([4096, 0, 12], [7] * 4096),
        lut([256, 60000, 12], words(range(256))),
    ],
    ids=['cut', 'one-value', 'elsewhere'],
)
def test_a_modality_lut_that_shows_nothing_is_passed_over(table):
    grey, flags = read(odd(TWELVE, ModalityLUTSequence=table, **WINDOW))
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert flags == {'rescale_ignored'}


def test_words_of_a_lut_in_a_file_of_big_endian():
    turned = np.ascontiguousarray(RAMP[::-1]).astype('>u2').tobytes()
    data = odd(TWELVE, VOILUTSequence=lut([4096, 0, 12], turned, vr='OW'))
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = TWELVE.astype('>u2').tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    grey, _ = read(buffer.getvalue())
    np.testing.assert_allclose(grey, 255 - FILM, atol=1)


def part(**elements):
    """A dataset of these elements."""
    dataset = Dataset()
    for key, value in elements.items():
        setattr(dataset, key, value)
    return dataset


@pytest.mark.parametrize(
    'group', ['SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence']
)
def test_functional_groups_of_an_enhanced_image_count(group):
    parts = part(
        FrameVOILUTSequence=[part(WindowCenter=1000, WindowWidth=2048)],
        PixelValueTransformationSequence=[part(RescaleSlope=-1, RescaleIntercept=2048)],
        PixelMeasuresSequence=[part(PixelSpacing=[0.3, 0.15])],
    )
    stored = (2048 - TWELVE // 2).astype(np.uint16)
    grey, flags = read(odd(stored, NumberOfFrames=1, **{group: [parts]}))
    expected = np.clip((TWELVE // 2 - 999.5) / 2047 + 0.5, 0, 1) * 255
    assert grey.shape == (2 * FILM.shape[0], FILM.shape[1]) and flags == {'pixels_made_square'}
    rows = grey[1:-1].reshape(FILM.shape[0] - 1, 2, -1).mean(1)
    np.testing.assert_allclose(rows, (expected[1:] + expected[:-1]) / 2, atol=2)


def test_a_second_window_stands_in_for_a_bad_first_one():
    grey, flags = read(odd(TWELVE, WindowCenter=[-9000, 2048], WindowWidth=[10, 4096]))
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert flags == {'window_ignored'}


PADDED = np.zeros(FILM.shape, bool)
PADDED[:, :8] = True


@pytest.mark.parametrize(
    'padding, signed, elements',
    [
        (65535, False, {'PixelPaddingValue': 65535}),
        (-32768, True, {'PixelPaddingValue': -32768}),
        (-2000, True, {'PixelPaddingValue': -2000}),
        (63536, False, {'PixelPaddingValue': 63536}),
        (65000, False, {'PixelPaddingValue': 65535, 'PixelPaddingRangeLimit': 64000}),
        (65535, False, {}),
        (32767, False, {}),
        (-32768, True, {}),
        (65535, False, {'PixelPaddingValue': 65535, **WINDOW}),
    ],
)
def test_padding_takes_no_part_in_the_contrast(padding, signed, elements):
    values = np.where(PADDED, padding, TWELVE).astype(np.int16 if signed else np.uint16)
    grey, flags = read(odd(values, bits=16, **elements))
    inside = ~PADDED
    assert (grey[PADDED] == 0).all()
    assert np.corrcoef(grey[inside], FILM[inside])[0, 1] > 0.999
    assert grey[inside].std() > 0.9 * FILM[inside].std()
    assert flags == (set() if elements else {'padding_guessed'})


def test_padding_of_floats():
    values = np.where(PADDED, np.float32(-0.8), FILM / np.float32(255))
    dataset = pydicom.dcmread(io.BytesIO(odd(TWELVE, FloatPixelPaddingValue=-0.8)))
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.BitsAllocated = 32
    dataset.FloatPixelData = values.astype('<f4').tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    grey, flags = read(buffer.getvalue())
    inside = ~PADDED
    assert (grey[PADDED] == 0).all() and not flags
    low, high = FILM[inside].min(), FILM[inside].max()
    np.testing.assert_allclose(grey[inside], (FILM[inside] - low) * (255 / (high - low)), atol=1)


def test_padding_of_monochrome1_is_black_too():
    values = np.where(PADDED, 0, np.maximum(4095 - TWELVE, 1)).astype(np.uint16)
    grey, _ = read(odd(values, 'MONOCHROME1', PixelPaddingValue=0))
    assert (grey[PADDED] == 0).all()
    np.testing.assert_allclose(grey[~PADDED], FILM[~PADDED], atol=1)


def test_an_image_that_is_padding_alone_keeps_its_pixels():
    half = np.where(PADDED, 100, 3000).astype(np.uint16)
    limits = {'PixelPaddingValue': 0, 'PixelPaddingRangeLimit': 4095}
    grey, flags = read(odd(half, **limits))
    assert grey.std() > 10 and flags == {'padding_ignored'}


SIGNED = (TWELVE.astype(np.int32) - 2048).astype(np.int16)


@pytest.mark.parametrize(
    'data, flag',
    [
        pytest.param(odd(TWELVE << 4, high=15), None, id='high-bit-15'),
        pytest.param(odd((TWELVE << 4) | 5, high=15), None, id='overlay-in-the-low-bits'),
        pytest.param(odd(TWELVE, high=15), 'high_bit_ignored', id='high-bit-wrong'),
        pytest.param(odd(TWELVE, high=7), None, id='high-bit-too-low'),
        pytest.param(odd(TWELVE, bits=8), 'bits_stored_ignored', id='bits-stored-too-few'),
        pytest.param(odd(TWELVE, bits=16, BitsStored=0), None, id='no-bits-stored'),
        pytest.param(odd(SIGNED, **{'WindowCenter': 0, 'WindowWidth': 4096}), None, id='signed'),
        pytest.param(
            odd((SIGNED & 0xFFF).astype(np.int16), WindowCenter=0, WindowWidth=4096),
            None,
            id='sign-not-extended',
        ),
        pytest.param(
            odd(TWELVE, PixelRepresentation=1, **WINDOW),
            'sign_guessed',
            id='unsigned-called-signed',
        ),
        pytest.param(
            odd(
                SIGNED.view(np.uint16),
                bits=16,
                PixelRepresentation=0,
                WindowCenter=0,
                WindowWidth=4096,
            ),
            'sign_guessed',
            id='signed-called-unsigned',
        ),
    ],
)
def test_bits_and_signs(data, flag):
    grey, flags = read(data)
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert flags == ({flag} if flag else set())


def test_overlays_in_unused_bits_are_no_pixels():
    overlay = np.where(PADDED, 1 << 15, 0).astype(np.uint16)
    dataset = pydicom.dcmread(io.BytesIO(odd(TWELVE | overlay)))
    dataset.add_new((0x6000, 0x0100), 'US', 16)
    dataset.add_new((0x6000, 0x0102), 'US', 15)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    grey, flags = read(buffer.getvalue())
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert not flags


TEN = np.rint(FILM * (1023 / 255)).astype(np.uint16)
LETTERS = (COLUMNS // 4 % 2).astype(np.uint16)


@pytest.mark.parametrize(
    'data',
    [
        odd(TEN | (np.random.default_rng(0).integers(0, 64, FILM.shape, np.uint16) << 10), bits=10),
        odd(TEN | 5 << 10, bits=10),
        odd(TWELVE | LETTERS << 15),
        odd(TWELVE | LETTERS << 15, **WINDOW),
    ],
    ids=['noise', 'one-value', 'letters', 'letters-and-window'],
)
def test_bits_above_the_stored_ones_that_are_no_pixels(data):
    grey, flags = read(data)
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert flags == {'high_bits_ignored'}


def test_one_and_four_bits_reach_white():
    bits = FILM > 100
    packed = np.packbits(bits.ravel(), bitorder='little').tobytes()
    grey, _ = read(odd(bits.astype(np.uint8), bits=1, allocated=1, data=packed))
    np.testing.assert_array_equal(grey, 255 * bits)
    grey, _ = read(odd(bits.astype(np.uint8), bits=8, allocated=8))
    np.testing.assert_array_equal(grey, 255 * bits)
    grey, _ = read(odd(FILM // 16, bits=4, allocated=8))
    np.testing.assert_allclose(grey, FILM // 16 * 17, atol=1)


def test_values_far_from_zero_are_stretched():
    grey, flags = read(odd(TWELVE // 4 + 30000, bits=16))
    assert flags == {'stretched'} and np.corrcoef(grey.ravel(), FILM.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(odd(TWELVE, bare='implicit', **WINDOW), id='implicit'),
        pytest.param(odd(TWELVE, bare='explicit', **WINDOW), id='explicit'),
        pytest.param(odd(TWELVE, **WINDOW)[128:], id='no-preamble'),
        pytest.param(odd(TWELVE, **WINDOW)[132:], id='meta-alone'),
    ],
)
def test_files_without_their_first_parts(data):
    for name in ('film.dcm', 'IM000001'):
        grey, _ = read(data, name)
        np.testing.assert_allclose(grey, FILM, atol=1)


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(odd(TWELVE, BitsAllocated=None, **WINDOW), id='missing'),
        pytest.param(odd(TWELVE, BitsAllocated=12, **WINDOW), id='packed-it-says'),
        pytest.param(odd(TWELVE, BitsAllocated=8, **WINDOW), id='fewer-than-stored'),
        pytest.param(
            odd(FILM, frames=[jpeg(Image.fromarray(FILM))], syntax=JPEGBaseline8Bit),
            id='more-than-the-jpeg-has',
        ),
    ],
)
def test_bits_allocated_that_cannot_be(data):
    grey, flags = read(data)
    np.testing.assert_allclose(grey, FILM, atol=8)
    assert flags == {'bits_allocated_guessed'}


def test_a_bare_jpeg_and_a_wrong_transfer_syntax():
    grey_film = jpeg(Image.fromarray(FILM))
    for data in (
        odd(
            FILM, bits=8, allocated=8, frames=[grey_film], syntax=JPEGBaseline8Bit, bare='explicit'
        ),
        odd(FILM, bits=8, allocated=8, frames=[grey_film], syntax=ExplicitVRLittleEndian),
    ):
        grey, _ = read(data)
        np.testing.assert_allclose(grey, FILM, atol=8)
    explicit = odd(TWELVE, **WINDOW)
    rle = explicit.replace(b'1.2.840.10008.1.2.1\0', b'1.2.840.10008.1.2.5\0')
    assert rle != explicit
    grey, flags = read(rle)
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert flags == {'transfer_syntax_guessed'}


def j2k(values, **elements):
    """A DICOM of JPEG 2000 whose header then gets other elements."""
    dataset = pydicom.dcmread(io.BytesIO(odd(values)))
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    for key, value in elements.items():
        setattr(dataset, key, value)
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'data, flags',
    [
        (j2k(TWELVE), set()),
        (j2k(SIGNED, WindowCenter=0, WindowWidth=4096), set()),
        (j2k(TWELVE, PixelRepresentation=1), {'sign_guessed'}),
        (j2k(TWELVE, PixelRepresentation=1, **WINDOW), {'sign_guessed'}),
        (j2k(TWELVE, HighBit=15), {'high_bit_ignored'}),
        (
            j2k(TWELVE).replace(b'1.2.840.10008.1.2.4.90', b'1.2.840.10008.1.2.4.50'),
            {'transfer_syntax_guessed'},
        ),
    ],
    ids=['plain', 'signed', 'not-signed', 'not-signed-window', 'high-bit', 'called-jpeg'],
)
def test_codestreams_are_interpreted_as_plain_pixels_are(data, flags):
    grey, found = read(data)
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert found == flags


RGB = np.stack([FILM] * 3, -1)
EIGHT = {'bits': 8, 'allocated': 8}


@pytest.mark.parametrize(
    'data, guessed',
    [
        pytest.param(odd(RGB, 'RGB', **EIGHT), False, id='rgb'),
        pytest.param(odd(RGB, 'MONOCHROME2', **EIGHT), True, id='three-samples-called-grey'),
        pytest.param(odd(FILM, 'RGB', **EIGHT), True, id='one-sample-called-rgb'),
        pytest.param(
            odd(FILM, 'RGB', SamplesPerPixel=3, PlanarConfiguration=0, **EIGHT),
            True,
            id='one-sample-said-to-be-three',
        ),
        pytest.param(odd(RGB, 'RGB', SamplesPerPixel=1, **EIGHT), True, id='three-said-to-be-one'),
        pytest.param(odd(255 - FILM, 'MONOCHROME 1', **EIGHT), False, id='a-space'),
        pytest.param(odd(FILM, 'MONOCHROME2', SamplesPerPixel=None, **EIGHT), False, id='unsaid'),
        pytest.param(odd(FILM, None, **EIGHT), True, id='no-photometric-interpretation'),
        pytest.param(odd(RGB, 'RGB', PlanarConfiguration=None, **EIGHT), False, id='no-planes'),
        pytest.param(odd(FILM, 'monochrome2 ', **EIGHT), False, id='small-letters'),
    ],
)
def test_samples_against_photometric_interpretation(data, guessed):
    grey, flags = read(data)
    np.testing.assert_allclose(grey, FILM, atol=1)
    assert flags == ({'photometric_guessed'} if guessed else set())


@pytest.mark.parametrize('called', ['RGB', 'YBR_FULL', 'YBR_FULL_422', 'MONOCHROME2'])
@pytest.mark.parametrize('jfif', [True, False])
def test_a_grey_film_in_a_colour_jpeg_is_grey_whatever_it_is_called(called, jfif):
    stream = jpeg(Image.fromarray(RGB), jfif=jfif)
    grey, _ = read(odd(RGB, called, frames=[stream], syntax=JPEGBaseline8Bit, **EIGHT))
    np.testing.assert_allclose(grey, FILM, atol=8)


@pytest.mark.parametrize('planes', [0, 1])
def test_planes_against_planar_configuration(planes):
    data = RGB if planes else np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    grey, flags = read(odd(RGB, 'RGB', data=data.tobytes(), PlanarConfiguration=planes, **EIGHT))
    np.testing.assert_array_equal(grey, FILM)
    assert flags == {'planes_guessed'}


def test_ybr_that_is_called_rgb_is_flagged():
    ybr = np.stack([FILM, np.full_like(FILM, 128), np.full_like(FILM, 128)], -1)
    grey, flags = read(odd(ybr, 'RGB', **EIGHT))
    np.testing.assert_array_equal(grey, FILM)
    assert flags == {'colour_space_guessed'}


def test_palettes_are_looked_up():
    path = pathlib.Path(pydicom.data.get_testdata_file('examples_palette.dcm'))
    decoded = dicom_lib.decode(path.read_bytes(), path.name)
    assert decoded.grey.shape == (350, 800) and decoded.grey.std() > 20


@pytest.mark.parametrize(
    'data, found',
    [
        (odd(TWELVE, data=TWELVE.tobytes() * 3), '3 frames, though NumberOfFrames does not say so'),
        (
            odd(FILM, frames=[jpeg(Image.fromarray(FILM))] * 2, syntax=JPEGBaseline8Bit, **EIGHT),
            '2 frames, though',
        ),
        (
            odd(TWELVE, NumberOfFrames=3, data=TWELVE.tobytes() * 3),
            '3 frames; a radiograph has one',
        ),
        (
            odd(np.stack([FILM] * 4, -1), 'CMYK', SamplesPerPixel=4, bits=8, allocated=8),
            'photometric interpretation CMYK',
        ),
        (odd(TWELVE, Modality='CT'), 'Modality is CT, computed tomography'),
        (odd(TWELVE, BodyPartExamined='CHEST'), 'BodyPartExamined is CHEST'),
        (odd(TWELVE, BodyPartExamined='Left foot'), 'BodyPartExamined is LEFT FOOT'),
        (odd(TWELVE, BodyPartExamined='LOWER EXTREMITY'), 'LOWER EXTREMITY'),
        (odd(TWELVE, BodyPartExamined='T\xf3rax'), 'no hand'),
        (odd(TWELVE, BodyPartExamined='Genou G'), 'GENOU G, no hand'),
        (odd(TWELVE, data=b''), 'without PixelData'),
        (
            odd(TWELVE, BitsAllocated=12, data=TWELVE.tobytes()[: 3 * TWELVE.size // 2]),
            'BitsAllocated is 12',
        ),
        (
            odd(TWELVE, BitsAllocated=None, data=TWELVE.tobytes()[: TWELVE.size]),
            'BitsAllocated is missing',
        ),
        (
            odd(FILM, frames=[b'\xff\x0a' * 40], syntax=JPEGBaseline8Bit, **EIGHT).replace(
                b'1.2.840.10008.1.2.4.50', b'1.2.840.10008.1.2.4.99'
            ),
            'cannot be read: 1.2.840.10008.1.2.4.99',
        ),
        (odd(np.full_like(TWELVE, 700)), 'blank, one grey value'),
        (odd(np.full_like(TWELVE, 700), **WINDOW), 'blank, one grey value'),
    ],
)
def test_refused_by_name(data, found):
    with pytest.raises(decoding.ImageError, match=found) as error:
        decoding.read(data, 'film.dcm')
    assert str(error.value).startswith('film.dcm: ')


@pytest.mark.parametrize(
    'part', ['HAND', 'Hand li. d.p.', 'WRIST', 'UPPER EXTREMITY', 'HAND AND FOOT', '', 'XYZ']
)
def test_hands_and_what_may_be_one_are_taken(part):
    assert read(odd(TWELVE, BodyPartExamined=part, Modality='DX'))[0].std() > 20


SEXES = [('M', True), ('F', False), ('f ', False), ('O', None), ('', None), ('Female', False)]
SEXES += [('MUJER', False), ('Maedchen', False), ('MISSING', None), (['M', 'F'], None)]


@pytest.mark.parametrize('sex, male', SEXES)
def test_the_sex_of_the_header(sex, male):
    assert decoding.read(odd(TWELVE, PatientSex=sex)).male is male
    assert dicom_lib.header(odd(TWELVE, PatientSex=sex)) == ('', male)
    assert decoding.flags_of(decoding.read(odd(TWELVE, PatientSex='M')), False) == (
        'sex_contradicts_header',
    )


def other_object(uid):
    return dicom_writer.written(dicom_writer.started(uid), PatientID='0')


@pytest.mark.parametrize(
    'elements, shape',
    [
        ({'PixelAspectRatio': [2, 1]}, (2, 1)),
        ({'PixelAspectRatio': [1, 2]}, (1, 2)),
        ({'ImagerPixelSpacing': [0.3, 0.15]}, (2, 1)),
        ({'PixelSpacing': [0.15, 0.1505]}, (1, 1)),
        ({'PixelSpacing': [15, 0.15]}, (1, 1)),
        ({'PixelSpacing': [0, 0]}, (1, 1)),
    ],
)
def test_pixels_that_are_not_square_are_made_so(elements, shape):
    grey, flags = read(odd(TWELVE, **elements))
    assert grey.shape == (FILM.shape[0] * shape[0], FILM.shape[1] * shape[1])
    assert flags == ({'pixels_made_square'} if max(shape) > 1 else set())
    assert abs(grey.mean() - FILM.mean()) < 2


def test_a_jpeg_that_is_cut_short_is_refused():
    whole = jpeg(Image.fromarray(FILM))
    options = {'bits': 8, 'allocated': 8, 'syntax': JPEGBaseline8Bit}
    grey, flags = read(odd(FILM, frames=[whole], **options))
    np.testing.assert_allclose(grey, FILM, atol=12)
    assert not flags
    for cut in (whole[: len(whole) // 2], whole[:-2]):
        with pytest.raises(
            decoding.ImageError, match='film.dcm: its compressed pixels have no end'
        ):
            read(odd(FILM, frames=[cut], **options))


def test_an_inverse_presentation_is_inverted():
    grey, _ = read(odd(4095 - TWELVE, PresentationLUTShape='INVERSE'))
    np.testing.assert_allclose(grey, FILM, atol=1)
    grey, _ = read(odd(4095 - TWELVE, kind='MONOCHROME1', PresentationLUTShape='INVERSE'))
    np.testing.assert_allclose(grey, FILM, atol=1)
    grey, _ = read(odd(TWELVE, PresentationLUTShape='IDENTITY'))
    np.testing.assert_allclose(grey, FILM, atol=1)


def test_objects_without_an_image_are_no_images():
    for uid in (KeyObjectSelectionDocumentStorage, MediaStorageDirectoryStorage):
        with pytest.raises(decoding.NotAnImageError, match='no image'):
            decoding.read(other_object(uid), 'x')
        assert dicom_lib.header(other_object(uid))[0] == uid.name
    # An image class without pixels is a damaged image.
    with pytest.raises(decoding.ImageError) as error:
        decoding.read(other_object(ComputedRadiographyImageStorage), 'x')
    assert not isinstance(error.value, decoding.NotAnImageError)


def test_damaged_elements_are_named():
    data = odd(TWELVE, PatientSex='F', **WINDOW)
    for element in (b'\x08\0\x60\0CS', b'\x10\0\x40\0CS', b'\x28\0\x04\0CS', b'\x02\0\x10\0UI'):
        assert element in data
        with pytest.raises(decoding.ImageError) as error:
            decoding.read(data.replace(element, element[:4] + b'\x43\xe0'), 'film.dcm')
        assert str(error.value).startswith('film.dcm: ')


def test_every_file_of_pydicom_is_grey_or_refused_by_name():
    folder = pathlib.Path(pydicom.data.__file__).parent / 'test_files'
    counts = {'grey': 0, 'other': 0, 'refused': 0}
    for path in sorted(folder.rglob('*')):
        if not path.is_file() or path.suffix == '.py':
            continue
        try:
            grey = decoding.decode(path.read_bytes(), path.name)
        except decoding.NotAnImageError:
            counts['other'] += 1
        except decoding.ImageError as error:
            assert str(error).startswith(f'{path.name}: ')
            counts['refused'] += 1
        else:
            assert grey.dtype == np.uint8 and grey.ndim == 2
            counts['grey'] += 1
    assert counts['grey'] > 40 and counts['other'] > 8
