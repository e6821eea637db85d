"""Every kind of image file comes out as the right grey, every bad one as a clear error."""

import gzip
import io
import os
import pathlib
import zlib

import numpy as np
import pydicom
import pydicom.data
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from tfds_rsna.io import decoding, pixels

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image, file_format='PNG', **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, file_format, **options
    )
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def palette(**options):
    """The ramp with shuffled indices: wrong unless the palette is looked up."""
    order = np.random.default_rng(0).permutation(256)
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[RAMP])
    image.putpalette(bytes(768))
    image.putpalette(np.repeat(order.astype(np.uint8), 3).tobytes())
    return encoded(image, **options)


def with_alpha(mode, alpha):
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    return encoded(image)


OPAQUE = np.full((16, 16), 255, np.uint8)
WIDE = RAMP.astype(np.uint16)
TWELVE = np.rint(RAMP * (4095 / 255)).astype(np.uint16)


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(encoded(RAMP), id='png'),
        pytest.param(encoded(RAMP, 'TIFF'), id='tiff'),
        pytest.param(encoded(RAMP, 'TIFF', compression='tiff_lzw'), id='tiff-lzw'),
        pytest.param(encoded(np.stack([RAMP] * 3, -1)), id='rgb'),
        pytest.param(palette(), id='palette'),
        pytest.param(palette(transparency=bytes(256)), id='palette-transparent-everywhere'),
        pytest.param(with_alpha('L', OPAQUE), id='grey-alpha'),
        pytest.param(with_alpha('RGB', OPAQUE), id='rgb-alpha'),
        pytest.param(with_alpha('RGB', 0 * OPAQUE), id='alpha-zero-everywhere-is-ignored'),
        pytest.param(encoded(WIDE * 257), id='16-bit'),
        pytest.param(encoded(TWELVE), id='12-bit-in-16'),
        pytest.param(encoded(WIDE), id='8-bit-in-16'),
        pytest.param(tiff(WIDE * 257, photometric='minisblack'), id='tiff-16'),
        pytest.param(tiff(255 - RAMP, photometric='miniswhite'), id='white-is-zero'),
        pytest.param(
            tiff(255 - RAMP, photometric='miniswhite', compression='zlib'),
            id='white-is-zero-packed',
        ),
        pytest.param(tiff(4095 - TWELVE, photometric='miniswhite'), id='white-is-zero-12-in-16'),
        pytest.param(
            tiff((WIDE * 257).astype('>u2'), photometric='minisblack', byteorder='>'),
            id='tiff-16-big-endian',
        ),
        pytest.param(tiff(RAMP / np.float32(255), photometric='minisblack'), id='tiff-float'),
    ],
)
def test_right_grey(data):
    grey = decoding.decode(data)
    assert grey.dtype == np.uint8 and grey.flags.c_contiguous
    np.testing.assert_array_equal(grey, RAMP)


def test_one_bit_is_black_and_white():
    bits = (RAMP % 2).astype(bool)
    expected = np.where(bits, 255, 0)
    np.testing.assert_array_equal(decoding.decode(encoded(bits)), expected)
    np.testing.assert_array_equal(decoding.decode(tiff(bits, photometric='minisblack')), expected)
    np.testing.assert_array_equal(
        decoding.decode(tiff(bits, photometric='miniswhite')), 255 - expected
    )


def test_jpeg_grey_colour_and_cmyk():
    smooth = np.repeat(RAMP[::-1, :1], 16, 1)
    for image in (
        Image.fromarray(smooth),
        Image.fromarray(smooth).convert('RGB'),
        Image.fromarray(smooth).convert('RGB').convert('CMYK'),
    ):
        found = decoding.decode(encoded(image, 'JPEG', quality=98))
        np.testing.assert_allclose(found.astype(int), smooth, atol=6)


def test_transparency_is_laid_over_black():
    alpha = OPAQUE.copy()
    alpha[:8] = 0
    expected = np.where(alpha == 255, RAMP, 0)
    for mode in ('L', 'RGB'):
        np.testing.assert_array_equal(decoding.decode(with_alpha(mode, alpha)), expected)


def test_depth_is_the_least_that_holds_the_image_and_can_be_given():
    dark = encoded(np.array([[0, 100, 700]], np.uint16))
    np.testing.assert_array_equal(
        decoding.decode(dark), np.rint([[0, 100 * 255 / 1023, 700 * 255 / 1023]])
    )
    np.testing.assert_array_equal(
        decoding.decode(dark, depth=12), np.rint([[0, 100 * 255 / 4095, 700 * 255 / 4095]])
    )


def test_negative_values_go_by_the_images_own_range():
    np.testing.assert_array_equal(pixels.scale(np.array([-1000, 0, 1000], np.int16)), [0, 128, 255])
    np.testing.assert_array_equal(pixels.scale(np.full(3, -7.0)), [0, 0, 0])


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    image = np.zeros((8, 16), np.uint8)
    image[0, 0] = 255
    grey = decoding.decode(encoded(image, 'PNG', exif=exif))
    assert grey.shape == (16, 8) and grey[0, 7] == 255


def raw_png(side, kind, rows):
    """A PNG of `side` x `side` pixels of packed `rows`; `kind` = bit depth and colour type."""

    def chunk(name, body):
        return (
            len(body).to_bytes(4, 'big') + name + body + zlib.crc32(name + body).to_bytes(4, 'big')
        )

    header = side.to_bytes(4, 'big') * 2 + kind + bytes(3)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )


NOISY = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
NOISE = encoded(NOISY)


@pytest.mark.parametrize(
    'data, found',
    [
        (b'', 'zero bytes'),
        (NOISE[:900], 'a PNG of 900 bytes is damaged or cut short'),
        (NOISE[:-30], 'damaged or cut short'),
        (encoded(RAMP)[:20], 'a PNG of 20 bytes'),
        (encoded(RAMP, 'JPEG')[:-150], 'a JPEG of .* damaged or cut short'),
        (encoded(RAMP, 'TIFF')[:-60], 'a TIFF of'),
        (b'<!DOCTYPE html><html>404</html>', 'an HTML or XML page'),
        (b'%PDF-1.7 ...', 'a PDF'),
        (encoded(RAMP, 'GIF'), 'a GIF'),
        (b'id,boneage,male\n', "begins with b'id,bonea'"),
        (raw_png(20_000, b'\x08\0', b''), 'decompression bombs'),
        # between the size at which Pillow warns and the one at which it refuses
        (raw_png(10_000, b'\x08\0', b''), 'decompression bombs'),
    ],
    ids=[
        'empty',
        'cut',
        'cut-end',
        'cut-head',
        'cut-jpeg',
        'cut-tiff',
        'html',
        'pdf',
        'gif',
        'text',
        'bomb',
        'small-bomb',
    ],
)
def test_bad_files_are_named(data, found):
    with pytest.raises(decoding.ImageError, match=found) as error:
        decoding.decode(data, 'hands/17.png')
    assert str(error.value).startswith('hands/17.png: ')


def test_deep_colour_that_would_be_black_is_refused():
    with pytest.raises(decoding.ImageError, match='16-bit colour'):
        decoding.decode(raw_png(1, b'\x10\x02', b'\0' + np.full(3, 2000, '>u2').tobytes()), 'x.png')


def with_chunk(kind, body):
    """A PNG with another chunk behind its header."""
    data = encoded(RAMP)
    chunk = len(body).to_bytes(4, 'big') + kind + body
    return data[:33] + chunk + zlib.crc32(kind + body).to_bytes(4, 'big') + data[33:]


LONG = zlib.compress(b'scanner ok. ' * 200_000)


@pytest.mark.parametrize(
    'data',
    [
        with_chunk(b'zTXt', b'Log\0\0' + LONG),
        with_chunk(b'iTXt', b'Log\0\1\0\0\0' + LONG),
        with_chunk(b'iCCP', b'p\0\0' + LONG),
        with_chunk(b'iCCP', b'p\0\0 no profile'),
        with_chunk(b'eXIf', b'no exif at all'),
        with_chunk(b'eXIf', b'MM\0*\0\0\0\x08\0\x01\x01\x12'),
        with_chunk(b'zTXt', b'Log\0\0 no zlib'),
        with_chunk(b'pHYs', b'short'),
    ],
    ids=['text', 'itext', 'profile', 'bad-profile', 'bad-exif', 'cut-exif', 'zlib', 'size'],
)
def test_what_is_not_pixels_damages_no_png(data):
    np.testing.assert_array_equal(decoding.decode(data, 'film.png'), RAMP)


def test_a_damaged_checksum_of_pixels_is_damage_all_the_same():
    data = bytearray(encoded(RAMP))
    data[data.index(b'IDAT') + 12] ^= 0xFF
    with pytest.raises(decoding.ImageError, match='damaged'):
        decoding.decode(bytes(data), 'film.png')


GROUND = np.where(np.arange(16) < 4, 255, np.minimum(RAMP, 254)).astype(np.uint8)


@pytest.mark.parametrize(
    'image, grey',
    [(GROUND, 255), (GROUND.astype(np.uint16) * 257, 65535), (RAMP, 0)],
    ids=['8', '16', 'black'],
)
def test_a_transparent_grey_ground_becomes_black(image, grey):
    decoded = decoding.read(encoded(image, transparency=grey))
    np.testing.assert_array_equal(
        decoded.grey, np.where(GROUND == 255, 0, GROUND) if grey else RAMP
    )
    assert not decoded.flags


def test_a_transparent_grey_that_saturated_bones_have_is_passed_over():
    bones = np.clip(RAMP.astype(int) + 20, 0, 255).astype(np.uint8)
    decoded = decoding.read(encoded(bones[::-1, ::-1][2:-2, 2:-2], transparency=235))
    np.testing.assert_array_equal(decoded.grey, bones[::-1, ::-1][2:-2, 2:-2])
    assert decoded.flags == ('transparency_ignored',)


def test_pixels_that_are_not_square_in_png_and_jpeg():
    for options in ({'dpi': (200, 100)}, {'dpi': (100, 200)}):
        for kind in ('PNG', 'JPEG', 'BMP'):
            decoded = decoding.read(encoded(RAMP, kind, **options))
            tall = options['dpi'][0] > 100
            assert decoded.grey.shape == ((32, 16) if tall else (16, 32))
            assert decoded.flags == ('pixels_made_square',)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decoding.decode(encoded(RAMP, dpi=(200, 100), exif=exif)).shape == (16, 32)
    assert decoding.decode(encoded(RAMP, dpi=(0, 100))).shape == (16, 16)


def test_a_moving_png_is_flagged():
    data = encoded(RAMP, save_all=True, append_images=[Image.fromarray(RAMP.T.copy())])
    decoded = decoding.read(data)
    np.testing.assert_array_equal(decoded.grey, RAMP)
    assert decoded.flags == ('first_of_several_pages',)


def test_a_jpeg_without_its_end_is_flagged_and_one_of_zeros_refused():
    whole = encoded(NOISY, 'JPEG', quality=90)
    assert decoding.read(whole).flags == ()
    assert decoding.read(whole + bytes(200)).flags == ()
    assert decoding.read(whole[:-2] + bytes(8)).flags == ('jpeg_without_end',)
    half = len(whole) // 2
    with pytest.raises(decoding.ImageError, match='film.jpg: a JPEG .*zeros in place of its end'):
        decoding.read(whole[:half] + bytes(half), 'film.jpg')


def with_frame(marker, bits):
    """A JPEG whose frame is of another kind."""
    data = encoded(RAMP, 'JPEG')
    at = data.index(b'\xff\xc0')
    return data[: at + 1] + bytes([marker]) + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]


@pytest.mark.parametrize(
    'data, found',
    [
        (with_frame(0xF7, 8), 'a JPEG-LS'),
        (with_frame(0xC3, 12), 'a lossless JPEG'),
        (with_frame(0xC1, 12), 'a JPEG of 12 bits'),
        (b'\xff\x4f\xff\x51' + bytes(99), 'a JPEG 2000'),
        (b'NRRD0004' + bytes(99), 'an NRRD'),
        (b'version https://git-lfs.github.com/spec/v1', 'a pointer of Git LFS'),
    ],
)
def test_what_is_no_ordinary_jpeg_is_named(data, found):
    for name in ('film.jpg', 'film.dcm'):
        with pytest.raises(decoding.ImageError, match=f'{name}: found {found}'):
            decoding.read(data, name)


def test_gzip_is_unpacked():
    for data, name in ((encoded(RAMP), 'a.png.gz'), (dicom(TWELVE), 'a.dcm.gz')):
        grey = decoding.decode(gzip.compress(data), name)
        np.testing.assert_allclose(grey.astype(int), RAMP, atol=1)
    data = encoded(RAMP)
    blocks = gzip.compress(data[:99]) + gzip.compress(data[99:]) + bytes(8)
    np.testing.assert_array_equal(decoding.decode(blocks, 'a.png.gz'), RAMP)
    with pytest.raises(decoding.ImageError, match='a.png.gz: a gzip file that is cut short'):
        decoding.decode(gzip.compress(encoded(RAMP))[:-30], 'a.png.gz')


def test_other_names_of_jpeg_and_bmp():
    smooth = np.repeat(RAMP[::-1, :1], 16, 1)
    for kind in ('JPEG', 'BMP'):
        grey = decoding.decode(encoded(smooth, kind), 'film')
        np.testing.assert_allclose(grey.astype(int), smooth, atol=6)


@pytest.mark.parametrize('grey', [0, 90, 255])
def test_blank_images_are_refused_and_mere_pictures_not(grey):
    blank = np.full((40, 30), grey, np.uint8)
    blank[3, 4] = 255 - grey  # a dead pixel is no picture
    with pytest.raises(decoding.ImageError, match=f'film.png: blank, one grey value \\({grey} of'):
        decoding.read(encoded(blank), 'film.png')
    assert decoding.decode(encoded(blank), 'mask.png').shape == (40, 30)
    assert decoding.read(encoded(RAMP), 'film.png').flags == ()


def dicom(values, photometric='MONOCHROME2', syntax=None, preamble=True, bits=12, **elements):
    """A DICOM file of `values` [H, W]."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b'\0' * 128 if preamble else None)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == 'i')
    dataset.PixelData = values.astype('<u2' if values.dtype.kind == 'u' else '<i2').tobytes()
    for key, value in elements.items():
        setattr(dataset, key, value)
    if syntax is not None:
        dataset.compress(syntax)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=preamble)
    return buffer.getvalue()


WINDOW = {'WindowCenter': 2048, 'WindowWidth': 4096}


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(dicom(TWELVE), id='plain'),
        pytest.param(dicom(TWELVE, preamble=False), id='no-preamble'),
        pytest.param(dicom(4095 - TWELVE, 'MONOCHROME1'), id='monochrome1'),
        pytest.param(dicom(TWELVE, **WINDOW), id='window'),
        pytest.param(dicom(4095 - TWELVE, 'MONOCHROME1', **WINDOW), id='monochrome1-window'),
        pytest.param(dicom(TWELVE, bits=16), id='12-in-16'),
        pytest.param(
            dicom(WIDE * 257, bits=16, **{'WindowCenter': 32768, 'WindowWidth': 65536}),
            id='16-bit-window',
        ),
        pytest.param(
            dicom(
                TWELVE,
                RescaleSlope=2,
                RescaleIntercept=-1000,
                WindowCenter=2 * 2048 - 1000,
                WindowWidth=2 * 4096,
            ),
            id='rescale-window',
        ),
        pytest.param(
            dicom(TWELVE, WindowCenter=[2048, 100], WindowWidth=[4096, 10]),
            id='first-of-two-windows',
        ),
        pytest.param(
            dicom(
                (TWELVE.astype(np.int32) - 2048).astype(np.int16), WindowCenter=0, WindowWidth=4096
            ),
            id='signed-window',
        ),
        pytest.param(
            dicom((TWELVE.astype(np.int32) - 2048).astype(np.int16)), id='signed-own-range'
        ),
        pytest.param(dicom(TWELVE, syntax=RLELossless), id='rle'),
    ],
)
def test_dicom_is_the_right_grey(data):
    grey = decoding.decode(data, 'image.dcm')
    assert grey.dtype == np.uint8 and grey.shape == (16, 16)
    np.testing.assert_allclose(grey.astype(int), RAMP, atol=1)


@pytest.mark.parametrize(
    'packed', ['jpeg_ls_lossless', 'jp2klossless', 'RLE', 'implicit', 'bigendian']
)
def test_compressed_dicom_equals_plain(packed):
    plain, other = (
        decoding.decode(pathlib.Path(pydicom.data.get_testdata_file(name)).read_bytes(), name)
        for name in ('MR_small.dcm', f'MR_small_{packed}.dcm')
    )
    assert plain.std() > 20
    np.testing.assert_array_equal(plain, other)


def test_colour_dicom_is_luma():
    """Colour bars: as RGB, and as the same bars in YBR and in RLE."""
    rgb, *others = (
        decoding.decode(pathlib.Path(pydicom.data.get_testdata_file(name)).read_bytes(), name)
        for name in (
            'SC_rgb_dcmtk_+eb+cr.dcm',
            'SC_ybr_full_422_uncompressed.dcm',
            'SC_rgb_rle.dcm',
        )
    )
    assert 76 in rgb  # pure red: 0.299 * 255
    for other in others:
        np.testing.assert_allclose(other.astype(int), rgb, atol=2)


def test_dicom_window_clips():
    grey = decoding.decode(dicom(TWELVE, WindowCenter=1000, WindowWidth=500), 'image.dcm')
    assert (grey[TWELVE <= 740] == 0).all() and (grey[TWELVE >= 1260] == 255).all()
    middle = TWELVE[np.abs(TWELVE.astype(int) - 1000).argmin(axis=None) // 16].astype(float)
    np.testing.assert_allclose(
        grey[np.isin(TWELVE, middle)], np.clip((middle - 750) / 500 * 255, 0, 255), atol=1
    )


@pytest.mark.parametrize(
    'data, found',
    [
        (dicom(TWELVE)[:-100], 'cannot be read'),
        (dicom(TWELVE)[:200], 'DICOM'),
        (dicom(TWELVE, NumberOfFrames=2), '2 frames'),
        (dicom(TWELVE, 'PALETTE COLOR'), 'PALETTE COLOR'),
        (dicom(TWELVE, Rows=20_000, Columns=20_000), 'decompression bombs'),
        (b'nothing of the kind', 'DICOM file'),
    ],
    ids=['cut', 'cut-head', 'frames', 'palette', 'bomb', 'text'],
)
def test_bad_dicom_is_named(data, found):
    with pytest.raises(decoding.ImageError, match=found) as error:
        decoding.decode(data, 'image.dcm')
    assert str(error.value).startswith('image.dcm: ')


def test_dicom_without_pydicom_names_the_extra(monkeypatch):
    from tfds_rsna.io import dicom as module

    monkeypatch.setattr(module, 'pydicom', None)
    with pytest.raises(decoding.ImageError, match=r'boneage_jax\[dicom\]'):
        decoding.decode(dicom(TWELVE), 'image.dcm')


@pytest.mark.skipif('BONEAGE_DATA' not in os.environ, reason='needs BONEAGE_DATA')
def test_real_images():
    root = pathlib.Path(os.environ['BONEAGE_DATA'])
    for path in [*sorted(root.glob('rsna_native/*.png'))[:3], *sorted(root.glob('dha/*.jpg'))[:2]]:
        grey = decoding.decode(path.read_bytes(), path.name)
        assert min(grey.shape) > 500 and 20 < grey.mean() < 220 and grey.std() > 20
