"""TIFF files: which page is the image, what stands for no data, and more than 8 bits a colour."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from tfds_rsna.io import decoding

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
TWELVE = np.rint(RAMP * (4095 / 255)).astype(np.uint16)
COLOUR = np.stack([RAMP] * 3, -1)


def written(*pages):
    """A TIFF of (array, options of `TiffWriter.write`)."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for array, options in pages:
            writer.write(array, **{'photometric': 'minisblack', 'metadata': None} | options)
    return buffer.getvalue()


def read(data):
    decoded = decoding.read(data, 'film.tif')
    return decoded.grey.astype(int), set(decoded.flags)


@pytest.mark.parametrize(
    'pages, flags',
    [
        ([(RAMP, {})], set()),
        ([(RAMP, {}), (RAMP.T, {})], {'first_of_several_pages'}),
        ([(RAMP, {}), (RAMP[::4, ::4], {'subfiletype': 1})], set()),
        ([(RAMP[::2, ::2], {'subfiletype': 1}), (RAMP, {})], {'page_2_taken'}),
        ([(RAMP[::4, ::4], {}), (RAMP, {})], {'page_2_taken'}),
    ],
    ids=['one', 'two', 'copy-behind', 'copy-in-front', 'preview-unmarked'],
)
def test_the_page_that_is_the_image(pages, flags):
    grey, found = read(written(*pages))
    np.testing.assert_array_equal(grey, RAMP)
    assert found == flags


def test_a_damaged_list_of_pages_leaves_the_first_one_whole():
    data = written((RAMP, {}), (RAMP.T, {}))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        second = file.pages[1].offset
    broken = data[:second] + b'\xff' * (len(data) - second)
    grey, _ = read(broken)
    np.testing.assert_array_equal(grey, RAMP)


@pytest.mark.parametrize(
    'array, options',
    [
        (np.stack([TWELVE] * 3, -1), {'photometric': 'rgb'}),
        (np.stack([TWELVE] * 3, -1), {'photometric': 'rgb', 'compression': 'zlib'}),
        (np.stack([TWELVE] * 3), {'photometric': 'rgb', 'planarconfig': 'separate'}),
        (COLOUR.astype(np.uint16) * 257, {'photometric': 'rgb'}),
        (COLOUR.astype(np.float32) / 255, {'photometric': 'rgb'}),
    ],
    ids=['12-in-48', 'packed', 'planes', '48', 'floats'],
)
def test_deep_colour_has_all_its_bits(array, options):
    grey, flags = read(written((array, options)))
    np.testing.assert_allclose(grey, RAMP, atol=1)
    assert not flags


VOID = np.zeros(RAMP.shape, bool)
VOID[:, :3] = True
GDAL = 42113


@pytest.mark.parametrize(
    'value, tag, flags',
    [
        (np.nan, None, {'padding_guessed'}),
        (-np.inf, None, {'padding_guessed'}),
        (-3.4e38, None, {'padding_guessed'}),
        (-9999.0, None, {'padding_guessed'}),
        (-9999.0, '-9999', set()),
        (0.5, '0.5', set()),
    ],
)
def test_no_data_takes_no_part_in_the_contrast(value, tag, flags):
    values = np.where(VOID, value, RAMP / 255).astype(np.float32)
    extra = [(GDAL, 's', 0, tag, True)] if tag else []
    grey, found = read(written((values, {'extratags': extra})))
    assert (grey[VOID] == 0).all() and found == flags
    low, high = RAMP[~VOID].min(), RAMP[~VOID].max()
    np.testing.assert_allclose(grey[~VOID], (RAMP[~VOID] - low) * (255 / (high - low)), atol=1)


def test_signed_bytes_are_signed():
    grey, _ = read(written(((RAMP.astype(np.int16) - 128).astype(np.int8), {})))
    np.testing.assert_array_equal(grey, RAMP)


@pytest.mark.parametrize('array', [RAMP, COLOUR.astype(np.uint16) * 257], ids=['8', '48'])
def test_pixels_that_are_not_square_are_made_so(array):
    options = {'photometric': 'rgb' if array.ndim == 3 else 'minisblack', 'resolution': (200, 100)}
    grey, flags = read(written((array, options)))
    assert grey.shape == (32, 16) and flags == {'pixels_made_square'}
    np.testing.assert_allclose(grey[1:-1].reshape(15, 2, 16).mean(1), RAMP[:-1] + 8.0, atol=6)
    # Lying on its side, its rows are the columns.
    grey, _ = read(written((array, options | {'extratags': [(274, 3, 1, 6)]})))
    assert grey.shape == (16, 32)
    np.testing.assert_allclose(
        grey[:, 1:-1].reshape(16, 15, 2).mean(2)[:, ::-1].T, RAMP[:-1] + 8.0, atol=6
    )


@pytest.mark.parametrize('orientation', range(1, 9))
def test_deep_colour_is_turned_as_pillow_turns_what_it_reads(orientation):
    options = {'photometric': 'rgb', 'extratags': [(274, 3, 1, orientation)]}
    deep, _ = read(written((COLOUR.astype(np.uint16) * 257, options)))
    plain, _ = read(written((COLOUR, options)))
    np.testing.assert_array_equal(deep, plain)
    assert (orientation == 1) == (deep == RAMP).all()


def test_values_in_a_sliver_of_16_bits_are_stretched():
    grey, flags = read(written((TWELVE // 4 + 40000, {})))
    assert flags == {'stretched'} and grey.min() == 0 and grey.max() == 255


def test_alpha_of_deep_grey_is_laid_over_black():
    alpha = np.where(VOID, 0, 4095).astype(np.uint16)
    data = written((np.stack([TWELVE, alpha], -1), {'extrasamples': ['unassalpha']}))
    grey, _ = read(data)
    np.testing.assert_allclose(grey, np.where(VOID, 0, RAMP), atol=1)


def test_what_names_and_headers_of_other_kinds_hold():
    for kind in ('BMP', 'PNG', 'TIFF'):
        buffer = io.BytesIO()
        Image.fromarray(RAMP).save(buffer, kind)
        np.testing.assert_array_equal(decoding.decode(buffer.getvalue(), 'film.dcm'), RAMP)


INVERSES = [
    (255 - RAMP),
    (4095 - TWELVE),
    (2047 - TWELVE.astype(np.int32)).astype(np.int16),
    (127 - RAMP.astype(np.int16)).astype(np.int8),
    4095 - TWELVE.astype(np.uint32),
    4095 - TWELVE.astype(np.uint64),
    1 - RAMP / 255,
]


@pytest.mark.parametrize('values', INVERSES, ids=lambda values: values.dtype.name)
@pytest.mark.parametrize('order', '<>')
def test_white_is_zero_is_inverted_whoever_reads_it(values, order):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=order) as writer:
        writer.write(values, photometric='miniswhite', metadata=None, compression='zlib')
    grey, _ = read(buffer.getvalue())
    np.testing.assert_allclose(grey, RAMP, atol=1)


SIGNED = (TWELVE.astype(np.int32) - 2048).astype(np.int16)


@pytest.mark.parametrize('values', [TWELVE, SIGNED, SIGNED.astype(np.int32), RAMP / np.float32(9)])
@pytest.mark.parametrize('packing', ['zlib', 'packbits'])
@pytest.mark.parametrize('big', [False, True])
def test_packed_words_of_either_byte_order(values, packing, big):
    if packing == 'packbits':
        dtype = values.dtype
        image = Image.fromarray(values.astype(np.int32) if dtype == np.int16 else values)
        buffer = io.BytesIO()
        image.save(buffer, 'TIFF', compression='packbits', big_tiff=big)
        data = buffer.getvalue()
    else:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer, byteorder='>', bigtiff=big) as writer:
            writer.write(values, photometric='minisblack', metadata=None, compression=packing)
        data = buffer.getvalue()
    grey, _ = read(data)
    np.testing.assert_allclose(grey, RAMP, atol=1)


def test_unsigned_numbers_of_32_bits():
    grey, _ = read(written((RAMP.astype(np.uint32) * 16_843_009, {})))
    np.testing.assert_allclose(grey, RAMP, atol=1)


@pytest.mark.parametrize('values', [RAMP / 255, TWELVE.astype(np.uint64)], ids=['f64', 'u64'])
def test_what_pillow_cannot_read_has_pages_and_orientation_all_the_same(values):
    grey, _ = read(written((values, {'extratags': [(274, 3, 1, 6)], 'resolution': (100, 200)})))
    expected, flags = read(written((RAMP, {'extratags': [(274, 3, 1, 6)], 'resolution': (1, 2)})))
    assert flags == {'pixels_made_square'}
    np.testing.assert_allclose(grey, expected, atol=1)
    grey, flags = read(written((RAMP[::4, ::4], {'subfiletype': 1}), (values, {})))
    np.testing.assert_allclose(grey, RAMP, atol=1)
    assert flags == {'page_2_taken'}


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('values', [RAMP, TWELVE])
def test_an_image_inside_the_page_of_its_preview_is_taken(big, order, values):
    buffer = io.BytesIO()
    options = {'photometric': 'minisblack', 'metadata': None}
    with tifffile.TiffWriter(buffer, bigtiff=big, byteorder=order) as writer:
        writer.write(RAMP[::4, ::4], subifds=1, subfiletype=1, **options)
        writer.write(values, **options)
    grey, flags = read(buffer.getvalue())
    np.testing.assert_allclose(grey, RAMP, atol=1)
    assert flags == {'inner_page_taken'}


INK = (255 - COLOUR).astype(np.uint16) * 257
NONE = np.zeros_like(INK)
UNSAID = {'photometric': 'rgb', 'extrasamples': ['unspecified']}
COLOURS = np.stack([np.arange(65536)[::-1]] * 3).astype(np.uint16)


@pytest.mark.parametrize(
    'values, options',
    [
        (np.concatenate([INK, NONE[..., :1]], -1), {'photometric': 'separated'}),
        (np.concatenate([NONE, INK[..., :1]], -1), {'photometric': 'separated'}),
        (np.stack([TWELVE] * 3 + [4095 - TWELVE], -1), UNSAID),
        (65535 - RAMP.astype(np.uint16) * 257, {'photometric': 'palette', 'colormap': COLOURS}),
        (
            255 - RAMP,
            {'photometric': 'palette', 'colormap': COLOURS[:, -256:]},  # of 8 bits, as once written
        ),
    ],
    ids=['cmy', 'black-ink', 'no-alpha', 'palette-16', 'palette-of-bytes'],
)
def test_other_colours(values, options):
    grey, _ = read(written((values, options)))
    np.testing.assert_allclose(grey, RAMP, atol=1)


def test_alpha_that_is_in_the_colours_is_not_laid_over_them_again():
    half = np.where(VOID, 128, 255).astype(np.uint16) * 257
    grey = np.rint(RAMP * (half / 65535.0))
    deep = grey.astype(np.uint16) * 257
    data = written(
        (
            np.stack([deep] * 3 + [half], -1),
            {'photometric': 'rgb', 'extrasamples': ['assocalpha']},
        )
    )
    np.testing.assert_allclose(read(data)[0], grey, atol=1)


def without(tag, data):
    """A TIFF whose element of that number has another, which nothing reads."""
    entry = struct.pack('<HHI', tag, 3, 1)
    assert entry in data
    return data.replace(entry, struct.pack('<HHI', tag + 1, 3, 1))


def test_a_page_that_does_not_say_which_end_is_white_is_flagged():
    grey, flags = read(without(262, written((RAMP, {}))))
    np.testing.assert_array_equal(grey, RAMP)
    assert flags == {'photometric_guessed'}


@pytest.mark.parametrize(
    'data, found',
    [
        (written((RAMP.astype(np.complex64), {})), '64 bits a sample'),
        (
            written((RAMP, {})).replace(b'\3\1\3\0\1\0\0\0\1\0', b'\3\1\3\0\1\0\0\0\x85\x88'),
            '34949',
        ),
        (written((RAMP, {})).replace(b'\6\1\3\0\1\0\0\0\1\0', b'\6\1\3\0\1\0\0\0\x08\0'), 'CIELab'),
    ],
    ids=['complex', 'packing', 'colour'],
)
def test_what_cannot_be_read_is_named(data, found):
    with pytest.raises(decoding.ImageError, match=f'film.tif: .*{found}'):
        read(data)
