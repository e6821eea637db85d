"""TIFF files: which page is the image, what stands for no data, and more than 8 bits a colour."""

import io

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
