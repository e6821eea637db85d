"""Damaged and hostile files of every kind: refused by name, or read right; never a traceback."""

import gc
import io
import json
import sys
import zipfile

import numpy as np
import pytest
import torch_file_writer as torch_files

from benchmarks import damaged_files, repacked, specimens
from boneage_jax import config as c
from boneage_jax.errors import CheckpointError, ConfigError
from boneage_jax.models import keras_files, weight_files
from boneage_jax.runs import predictions
from boneage_jax.runtime import checkpoint
from tfds_rsna import prepared, table_files
from tfds_rsna.errors import UserError
from tfds_rsna.io import archive, decoding, zips

INPUTS = 320
FEWEST = 16  # of each kind
KINDS = sorted(
    ['png', 'jpeg', 'bmp', 'tiff', 'gzip', 'csv', 'xlsx', 'zip', 'safetensors', 'exported', 'npz']
    + ['pth', 'old pth', 'config.json', 'predictions.csv', 'records', 'checkpoint', 'dicom']
    + ['keras h5']
)


@pytest.fixture(scope='module')
def reading(tmp_path_factory):
    """Whole files of all kinds, read once: what damaged ones are compared with."""
    return damaged_files.Reading(tmp_path_factory.mktemp('damaged'))


# A read of tensorstore's that ends after its loop was closed complains from a thread of its own.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('kind', KINDS)
def test_damage_is_refused_by_name_or_harmless(kind, reading):
    if kind not in reading.kinds:
        pytest.skip('its library is not installed')
    plan = damaged_files.schedule(reading.kinds, 8 * INPUTS)
    numbers = [number for number, planned in enumerate(plan) if planned == kind]
    planned = sum(number < INPUTS for number in numbers)
    # Half of the damage to a checkpoint, whose files have random names, is beside what is read.
    found = [reading.read(kind, number, 0) for number in numbers[: max(planned, FEWEST)]]
    gc.collect()  # what a library left open is collected here, not in another test
    assert len(found) >= FEWEST
    assert not [result for result in found if result.offends]
    seen = {result.outcome for result in found}
    assert seen & {'refused', 'flagged'}, 'no damage was noticed'
    for result in found:
        if result.outcome == 'refused':
            assert result.error.strip() and 'Traceback' not in result.error


def test_an_offender_is_told_from_a_refusal(reading):
    """The judge itself: another exception, a value that changed behind a checksum, and a hang."""
    name = 'a.npz'
    whole = reading.kinds['npz'][0]

    def judged(read):
        specimen = specimens.Specimen(whole.files, read, whole.sealed)
        reading.kinds['npz'] = [specimen]
        return reading.read('npz', 5, 0).outcome

    def refuse(folder):
        raise UserError('a.npz: damaged')

    kept = reading.kinds['npz']
    try:
        assert judged(lambda folder: 1 / 0) == 'ZeroDivisionError'
        assert judged(lambda folder: ((folder / name).read_bytes(), ())) == 'read as if whole'
        assert judged(lambda folder: (0, ('a flag',))) == 'flagged'
        assert judged(refuse) == 'refused'
        if sys.platform == 'linux':
            assert judged(lambda folder: bytearray(3 << 30)) == 'MemoryError'
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(damaged_files, '_WAIT', 0.1)
            assert judged(lambda folder: damaged_files.time.sleep(5)) == 'a hang'
    finally:
        reading.kinds['npz'] = kept


def test_damage_is_a_function_of_seed_and_number(reading):
    one = reading.damage('png', 3, 0)
    assert one == reading.damage('png', 3, 0)
    assert one[2] != reading.damage('png', 4, 0)[2] and one[2] != reading.damage('png', 3, 1)[2]


# PNG, DICOM


def png(name=b'', *, spoil=0):
    """The phantom's image as PNG; the last byte of the checksum of chunk `name` off by `spoil`."""
    data = bytearray(specimens._png(specimens.FILM))
    if name:
        at = data.index(name)
        length = int.from_bytes(data[at - 4 : at], 'big')
        data[at + 7 + length] ^= spoil
    return bytes(data)


@pytest.mark.parametrize('name', [b'tEXt', b'pHYs', b'IEND'])
def test_a_wrong_checksum_beside_the_pixels_is_flagged(name):
    assert decoding.read(png(), 'a.png').flags == ()
    found = decoding.read(png(name, spoil=1), 'a.png')
    np.testing.assert_array_equal(found.grey, specimens.FILM)
    assert found.flags == ('damaged_beside_pixels',)


def test_a_png_without_its_end_is_flagged():
    found = decoding.read(png()[:-12], 'a.png')
    np.testing.assert_array_equal(found.grey, specimens.FILM)
    assert found.flags == ('damaged_beside_pixels',)


def test_a_decoder_that_panics_is_a_damaged_image(monkeypatch):
    pytest.importorskip('pydicom')
    from tfds_rsna.io import dicom_pixels

    class PanicException(BaseException):  # as libraries written in Rust raise it
        pass

    def panic(*_):
        raise PanicException('index out of bounds: the len is 3840')

    data = specimens._dicom(specimens.TWELVE, 12)
    monkeypatch.setattr(dicom_pixels, 'read', panic)
    with pytest.raises(decoding.ImageError, match='a.dcm: DICOM pixels that cannot be read'):
        decoding.read(data, 'a.dcm')

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dicom_pixels, 'read', stop)
    with pytest.raises(KeyboardInterrupt):
        decoding.read(data, 'a.dcm')


# zips, tables


def listed(folder):
    with archive.Archive(tolerant=True) as opened:
        found = [entry.path for entry in opened.entries(folder, archive.re.compile(''))]
        return found, opened.failures


def test_a_directory_that_hides_members_is_damage(tmp_path):
    data = bytearray(repacked.zipped({'1.png': png(), '2.png': png()}, zipfile.ZIP_STORED))
    path = tmp_path / 'a.zip'
    path.write_bytes(data)
    assert listed(tmp_path) == (['a.zip/1.png', 'a.zip/2.png'], {})
    data[data.index(b'PK\1\2') + 33] = 1  # the first member's comment: 256 bytes longer
    path.write_bytes(data)
    found, failures = listed(tmp_path)
    assert not found and 'its directory lists 1 of 2 members' in failures['a.zip']


def test_a_zip_cut_short_is_not_taken_for_the_zip_in_it(tmp_path):
    inner = repacked.zipped({'1.png': png()}, zipfile.ZIP_DEFLATED)
    members = {'inner.zip': inner, '2.png': png()}
    whole = repacked.zipped(members, zipfile.ZIP_STORED)
    path = tmp_path / 'a.zip'
    path.write_bytes(whole)
    assert listed(tmp_path)[0] == ['a.zip/2.png', 'a.zip/inner.zip/1.png']
    path.write_bytes(whole[: whole.index(b'PK\5\6') + 22])
    found, failures = listed(tmp_path)
    assert not found and 'cut short: its directory leaves out' in failures['a.zip']
    path.write_bytes(whole[:1] + whole[5:])  # the zip inside begins before the file does then
    found, failures = listed(tmp_path)
    assert 'a.zip' in failures or 'a.zip/inner.zip' in failures
    # A program that unpacks itself has its directory's first member behind it, too.
    path.write_bytes(b'MZ program' + whole)
    assert listed(tmp_path)[0] == ['a.zip/2.png', 'a.zip/inner.zip/1.png']


def test_a_bomb_is_refused_and_a_large_file_is_not():
    info = zipfile.ZipInfo('a.png')
    info.file_size = 3 << 30
    info.compress_size = 1 << 30
    zips.refuse_bomb([info])
    info.compress_size = 3 << 20
    with pytest.raises(zipfile.BadZipFile, match='decompression bomb'):
        zips.refuse_bomb([info])


def test_a_row_of_a_sheet_far_down_is_no_hang():
    def numbered(number):
        with zipfile.ZipFile(io.BytesIO(specimens._xlsx())) as book:
            members = {info.filename: book.read(info) for info in book.infolist()}
        sheet = 'xl/worksheets/sheet1.xml'
        assert members[sheet].count(b'<row r="31"') == 1
        members[sheet] = members[sheet].replace(b'<row r="31"', b'<row r="%d"' % number)
        return repacked.zipped(members, zipfile.ZIP_DEFLATED)

    rows = table_files.read_table(numbered(40), 'a.xlsx')
    assert len(rows) == 30 and rows[29]['id'] == '1029'
    with pytest.raises(UserError, match='a.xlsx: not a readable xlsx .*more than 1,048,576 rows'):
        table_files.read_table(numbered(999_999_999), 'a.xlsx')


def test_predictions_that_are_no_text_are_named(tmp_path):
    path = tmp_path / 'predictions.csv'
    path.write_bytes(b'id,split,male,age,prediction\n1,holdout,1,10,11\n')
    assert predictions.read(path)['prediction'].tolist() == [11]
    path.write_bytes(b'id,split,male,age,prediction\n1,hold\xb7ut,1,10,11\n')
    with pytest.raises(UserError, match=f'{path}: damaged, or no CSV in UTF-8'):
        predictions.read(path)


# weights


def npz(tmp_path, members):
    path = tmp_path / 'w.npz'
    path.write_bytes(repacked.zipped(members, zipfile.ZIP_DEFLATED))
    return path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_arrays_of_an_npz_are_those_that_were_saved(tmp_path):
    arrays = {
        'rows': np.arange(6.0).reshape(2, 3),
        'columns': np.asfortranarray(np.arange(6, dtype='>i4').reshape(2, 3)),
        'one': np.float16(2.5),
        'none': np.zeros((0, 3), bool),
    }
    path = npz(tmp_path, {f'{name}.npy': npy(array) for name, array in arrays.items()})
    found, _ = weight_files.read(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and found[name].flags.writeable


def test_an_npz_whose_header_lies_is_refused(tmp_path):
    whole = npy(np.arange(6.0))
    for other in (b'(5,)', b'(9,)', b'(-6'):
        data = whole.replace(b'(6,)', other.ljust(4, b')'))
        with pytest.raises(UserError, match='w.npz: cut short or damaged'):
            weight_files.read(npz(tmp_path, {'a.npy': data}))
    huge = whole.replace(b'(6,), }        ', b'(99999999999,)}')
    assert len(huge) == len(whole) != huge.count(b'(6,)')
    with pytest.raises(UserError, match='has 48 bytes, expected float64 .99999999999,.'):
        weight_files.read(npz(tmp_path, {'a.npy': huge}))
    path = npz(tmp_path, {'a.npy': whole})
    data = bytearray(path.read_bytes())
    data[data.index(b'PK\1\2') + 10] = 9  # a method that nobody has
    path.write_bytes(data)
    with pytest.raises(UserError, match='w.npz: cut short or damaged'):
        weight_files.read(path)


def test_a_nest_of_tuples_is_not_written_out(tmp_path):
    nest = torch_files.number(1) + b'q\0'
    for _ in range(60):  # each twice the one before: 2 ** 60 numbers as text
        nest += b'h\0\x86q\0'
    body = b''.join(
        [
            torch_files.pickled(torch_files.MAGIC),
            torch_files.pickled(nest),
            torch_files.pickled(torch_files.dictionary({})),
        ]
    )
    path = tmp_path / 'w.pth'
    path.write_bytes(body)
    with damaged_files.limits(), pytest.raises(UserError, match='another format than 1001'):
        weight_files.read(path)


def test_a_keras_file_of_which_a_part_is_damaged_is_named(reading, tmp_path):
    if 'keras h5' not in reading.kinds:
        pytest.skip('h5py is not installed')
    (specimen,) = reading.kinds['keras h5']
    (data,) = specimen.files.values()
    path = tmp_path / 'a.weights.h5'
    place = len(data) * 2 // 3
    path.write_bytes(data[:place] + b'\xff' * 4000 + data[place + 4000 :])
    with pytest.raises(UserError, match=f'{path}: '):
        weight_files.read(path)


def test_a_keras_file_that_keeps_its_reader_busy_or_wants_memory_is_named(
    reading, tmp_path, monkeypatch
):
    if 'keras h5' not in reading.kinds:
        pytest.skip('h5py is not installed')
    (specimen,) = reading.kinds['keras h5']
    (data,) = specimen.files.values()
    path = tmp_path / 'a.weights.h5'
    # A byte more within a list of the library, which then never ends.
    path.write_bytes(data[:3285] + b'8' + data[3285:])
    monkeypatch.setattr(keras_files, '_SECONDS', 1)
    with pytest.raises(UserError, match=f'{path}: .*keeps the HDF5 library busy for more than 1 s'):
        weight_files.read(path)
    path.write_bytes(data)
    assert len(weight_files.read(path)[0]) == 26
    monkeypatch.setattr(keras_files, '_MEMORY', -4 * len(data))
    with pytest.raises(UserError, match=f'{path}: .*(takes more than 0 MiB|its reader ended)'):
        weight_files.read(path)


# what runs leave


def test_a_damaged_checkpoint_is_named(reading, tmp_path):
    (specimen,) = reading.kinds['checkpoint']
    below = tmp_path / 'run'
    for name, data in specimen.files.items():
        path = below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    kernel = specimens._arrays()['conv.weight']
    with checkpoint.Checkpoints(below) as checkpoints:
        np.testing.assert_array_equal(checkpoints.read(7)['params.head.conv.weight'], kernel)
    metadata = below / 'checkpoints' / '7' / 'state' / '_METADATA'
    metadata.write_bytes(metadata.read_bytes()[:50])
    with checkpoint.Checkpoints(below) as checkpoints:
        words = 'checkpoints/7: a checkpoint that is damaged or incomplete'
        with pytest.raises(CheckpointError, match=words):
            checkpoints.read(7)
    metrics = below / 'checkpoints' / '7' / 'metrics' / 'metrics'
    metrics.write_bytes(metrics.read_bytes().replace(b'value', b'valve'))
    words = f'{below}.*damaged or incomplete'
    with checkpoint.Checkpoints(below) as opened, pytest.raises(CheckpointError, match=words):
        opened.best_or_latest  # noqa: B018


def test_a_damaged_record_is_named_by_its_number(reading, tmp_path):
    (specimen,) = reading.kinds['records']
    for name, data in specimen.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shard = next(tmp_path.rglob('*train.array_record*'))
    image = prepared.open(tmp_path).splits['train'][4]['image']
    data = bytearray(shard.read_bytes())
    data[data.index(image.tobytes()) + 100] ^= 1
    shard.write_bytes(data)
    records = prepared.open(tmp_path).splits['train']
    np.testing.assert_array_equal(records[5]['months'], 50)
    with pytest.raises(prepared.PreparedError, match='split train, record 4: damaged records'):
        records[4]
    with pytest.raises(IndexError):
        records[6]


@pytest.mark.parametrize('name', ['prepared.json', 'records.csv', 'features.json'])
def test_damaged_tables_of_records_are_named(name, reading, tmp_path):
    (specimen,) = reading.kinds['records']
    for file, data in specimen.files.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    path = next(tmp_path.rglob(name))
    path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3] + b'\xb7')
    with pytest.raises(prepared.PreparedError, match=f'{tmp_path}.*: damaged records'):
        prepared.open(tmp_path)


def test_json_without_end_is_no_configuration(tmp_path):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps({'seed': 0})[:-1] + ', "data": ' + '[' * 100_000)
    with pytest.raises(ConfigError, match=f'{path}: not the configuration of a run'):
        c.from_json(path)
