"""Small whole files of every kind that is read here, and the reader of each kind.

`every(folder)` gives {kind: [Specimen, ...]}. A specimen is one or more files; a reader takes the
folder that they are in and gives what was read, as `fingerprint` takes it, and the flags that say
that something was amiss.
"""

import dataclasses
import gzip
import importlib.util
import io
import json
import pathlib
import re
import struct
import zipfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from PIL import Image, PngImagePlugin

from benchmarks import repacked
from boneage_jax import config as config_lib
from boneage_jax.models import weight_files
from boneage_jax.runs import exported, predictions
from boneage_jax.runtime import checkpoint, tensors
from tfds_rsna import labels, prepared
from tfds_rsna.io import archive, decoding
from tfds_rsna.problems import DataError, Problems

ROWS, COLUMNS = np.mgrid[:48, :40]
# A bright oval with a grain on a dark ground: all levels of grey.
SMOOTH = np.clip(250 - 0.6 * ((ROWS - 24) ** 2 + (COLUMNS - 20) ** 2), 5, 250)
FILM = np.rint(SMOOTH + 3 * np.sin(ROWS * 7 + COLUMNS * 5)).astype(np.uint8)
TWELVE = np.rint(FILM * (4095 / 255)).astype(np.uint16)
_COLUMNS = labels.Columns(id='id', months='boneage', male='male')


@dataclasses.dataclass(frozen=True)
class Specimen:
    """A whole file of a kind, or several files that belong together.

    Attributes:
        files: {path below a folder: content}.
        read: `read(folder)` gives (value, flags) of the files in the folder.
        sealed: paths of the files with checksums: damage to their bytes must never give another
            value without a flag.
        repack: `repack(content, change)` makes the file anew with one part changed by
            `change(bytes)`, its checksums right; None where the kind has none.
    """

    files: dict[str, bytes]
    read: Callable
    sealed: frozenset[str] = frozenset()
    repack: Callable | None = None


def every(folder: pathlib.Path) -> dict[str, list[Specimen]]:
    """{kind: specimens}; `folder` is a temporary one, for what only writes to disk.

    Kinds whose optional library is not installed are left out.
    """
    kinds = {
        'png': _pngs(),
        'jpeg': _jpegs(),
        'bmp': [_image('a.bmp', _saved(FILM, 'BMP'))],
        'tiff': _tiffs(),
        'gzip': [_image('a.png.gz', gzip.compress(_png(FILM), mtime=0), repacked.changed_gzip)],
        'csv': [_table('a.csv', _csv().encode()), _table('a.csv', _csv(';').encode('utf-16'))],
        'xlsx': [_table('a.xlsx', _xlsx(), repacked.changed_zip)],
        'zip': [_zip(zipfile.ZIP_DEFLATED), _zip(zipfile.ZIP_STORED), _zip_in_zip()],
        'safetensors': [_safetensors()],
        'exported': [_exported()],
        'npz': [_npz(np.savez), _npz(np.savez_compressed)],
        'pth': [_pth()],
        'old pth': [_old_pth()],
        'config.json': [_config()],
        'predictions.csv': [_predictions()],
        'records': [_records(folder)],
        'checkpoint': [_checkpoint(folder)],
    }
    if importlib.util.find_spec('pydicom'):
        kinds['dicom'] = _dicoms()
    if importlib.util.find_spec('h5py'):
        kinds['keras h5'] = [_keras(folder)]
    return kinds


def fingerprint(value) -> object:
    """What can be compared by `==`: arrays as their type, shape and bytes, in whatever nesting."""
    if isinstance(value, dict):
        return {key: fingerprint(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return str(value.dtype), value.shape, value.tobytes()
    return value


# images


def _image(name, data, repack=None):
    sealed = frozenset([name] if name.endswith(('.png', '.gz')) else [])

    def read(folder):
        found = decoding.read((folder / name).read_bytes(), name)
        return [found.grey, found.male], found.flags

    return Specimen({name: data}, read, sealed, repack)


def _saved(array, kind, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def _png(array):
    about = PngImagePlugin.PngInfo()
    about.add_text('Comment', 'left hand')
    return _saved(array, 'PNG', pnginfo=about, dpi=(100, 100))


def _pngs():
    colour = np.stack([FILM, FILM, FILM], axis=-1)
    palette = io.BytesIO()
    Image.fromarray(FILM).convert('P').save(palette, 'PNG')
    files = [_png(FILM), _png(TWELVE), _png(colour), palette.getvalue()]
    return [_image('a.png', data, repacked.changed_png) for data in files]


def _jpegs():
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        _image('a.jpg', _saved(FILM, 'JPEG')),
        _image('a.jpg', _saved(FILM, 'JPEG', progressive=True, exif=turned)),
    ]


def _tiffs():
    import tifffile

    several = io.BytesIO()
    with tifffile.TiffWriter(several) as file:
        file.write(FILM[::4, ::4], subfiletype=1)
        file.write(TWELVE, compression='zlib')
    tiled = io.BytesIO()
    tifffile.imwrite(tiled, np.stack([TWELVE] * 3, axis=-1), photometric='rgb', tile=(16, 16))
    files = [
        _saved(FILM, 'TIFF'),
        _saved(FILM, 'TIFF', compression='tiff_lzw'),
        several.getvalue(),
        tiled.getvalue(),
    ]
    return [_image('a.tif', data) for data in files]


def _dicoms():
    from pydicom.uid import JPEGBaseline8Bit

    window = {'WindowCenter': 2048, 'WindowWidth': 4096}
    jpeg = _saved(FILM, 'JPEG')
    files = [
        _dicom(TWELVE, 12, PatientSex='F', BodyPartExamined='HAND', **window),
        _dicom(TWELVE, 12, kind='MONOCHROME1', PixelPaddingValue=0, compress='rle'),
        _dicom(FILM, 8, syntax=JPEGBaseline8Bit, frames=[jpeg]),
        _dicom(np.stack([FILM] * 3, axis=-1), 8, kind='RGB'),
    ]
    return [_image('a.dcm', data) for data in files]


def _dicom(
    values, bits, *, kind='MONOCHROME2', syntax=None, frames=None, compress=None, **elements
):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, RLELossless

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = '1.2.3'
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = 'CR'
    dataset.Rows = values.shape[0]
    dataset.Columns = values.shape[1]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = 8 * values.itemsize
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    for key, value in elements.items():
        setattr(dataset, key, value)
    dataset.PixelData = encapsulate(frames) if frames else values.tobytes()
    dataset['PixelData'].VR = 'OB' if frames or values.itemsize == 1 else 'OW'
    if compress:
        dataset.compress(RLELossless)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


# tables


def _csv(delimiter=','):
    rows = [('id', 'boneage', 'male')]
    for i in range(30):
        rows.append((f'{1000 + i}', f'{(i * 37) % 228 + 1}', 'True' if i % 2 else 'False'))
    return ''.join(delimiter.join(row) + '\n' for row in rows)


def _xlsx():
    import openpyxl

    book = openpyxl.Workbook()
    for line in _csv().splitlines():
        book.active.append([int(cell) if cell.isdigit() else cell for cell in line.split(',')])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _table(name, data, repack=None):
    def read(folder):
        rows = labels.read_table((folder / name).read_bytes(), name)
        problems = Problems('skip')
        found = labels.parse(rows, _COLUMNS, name, problems)
        return [dataclasses.astuple(label) for label in found], tuple(problems.lines())

    sealed = frozenset([name] if name.endswith('.xlsx') else [])
    return Specimen({name: data}, read, sealed, repack)


def _predictions():
    rows = ['id,split,male,age,prediction']
    for i in range(20):
        rows.append(f'{i},holdout,{i % 2},{10 * i},{10 * i + 1.25}')

    def read(folder):
        return predictions.read(folder / 'predictions.csv'), ()

    return Specimen({'predictions.csv': '\n'.join(rows).encode()}, read)


# archives


def _read_zip(folder):
    with archive.Archive(tolerant=True) as opened:
        found = {}
        failures = []
        for entry in opened.entries(folder, re.compile('')):
            try:
                entry.head()
                found[entry.path] = entry.read()
            except DataError as error:
                failures.append(str(error))
        return found, (*failures, *opened.failures.values(), *opened.left_out)


def _zip(method):
    members = {'a/1.png': _png(FILM), 'a/2.jpg': _saved(FILM, 'JPEG'), 'labels.csv': _csv()}
    data = repacked.zipped(members, method)
    return Specimen({'a.zip': data}, _read_zip, frozenset(['a.zip']), repacked.changed_zip)


def _zip_in_zip():
    inner = repacked.zipped({'1.png': _png(FILM)}, zipfile.ZIP_DEFLATED)
    data = repacked.zipped({'stored.zip': inner, '2.png': _png(FILM)}, zipfile.ZIP_STORED)
    return Specimen({'a.zip': data}, _read_zip, frozenset(['a.zip']), repacked.changed_zip)


# weights


def _arrays():
    draw = np.random.default_rng(0)
    return {
        'conv.weight': draw.normal(size=(4, 3, 3, 3)).astype(np.float32),
        'conv.bias': draw.normal(size=4).astype(np.float32),
        'half': draw.normal(size=(2, 8)).astype(np.float16),
        'count': np.arange(3),
    }


def _weights(name, data, *, sealed=False, repack=None):
    def read(folder):
        return weight_files.read(folder / name), ()

    return Specimen({name: data}, read, frozenset([name] if sealed else []), repack)


def _safetensors():
    return _weights('a.safetensors', safetensors.numpy.save(_arrays(), {'by': 'somebody'}))


def _exported():
    config = json.loads(config_lib.load('prsnet:tiny,row=baseline')[1].to_json())
    about = {
        'format': tensors.FORMAT,
        'format_version': str(exported.VERSION),
        'config': json.dumps(config),
        'task': json.dumps({'mean': 127.0, 'std': 41.0}),
        'step': '120',
        'kind': 'age',
        'trained_on': json.dumps(['0123456789ab', '23456789abcd']),
    }
    arrays = _arrays()
    about[tensors.DIGEST] = tensors.digest(arrays)
    data = safetensors.numpy.save(arrays, about)

    def read(folder):
        path = folder / 'a.safetensors'
        told = dataclasses.asdict(exported.read(path))
        del told['path']
        told['trained_on'] = sorted(told['trained_on'])
        told['selected_by'] = sorted(told['selected_by'])
        return [told, tensors.read(path)], ()

    return Specimen({'a.safetensors': data}, read)


def _npz(save):
    file = io.BytesIO()
    save(file, **_arrays())
    return _weights('a.npz', file.getvalue(), sealed=True, repack=repacked.changed_zip)


def _text(value):
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def _number(value):
    return b'J' + struct.pack('<i', value)


def _pickled_tensor(key, array):
    """A float32 tensor as `torch.save` pickles it."""
    place = b'(' + _text('storage') + b'ctorch\nFloatStorage\n' + _text(key) + _text('cpu')
    storage = place + _number(array.size) + b'tQ'
    shape = b'(' + b''.join(map(_number, array.shape)) + b't'
    strides = b'(' + b''.join(_number(step // 4) for step in array.strides) + b't'
    arguments = storage + _number(0) + shape + strides + b'\x89ccollections\nOrderedDict\n)R'
    return b'ctorch._utils\n_rebuild_tensor_v2\n(' + arguments + b'tR'


def _state_dict():
    """(pickle of a state_dict, {key: bytes} of its storages)."""
    body = b'\x80\x02ccollections\nOrderedDict\n)R('
    storages = {}
    arrays = [(n, a) for n, a in _arrays().items() if a.dtype == np.float32]
    for key, (name, array) in enumerate(arrays):
        body += _text(name) + _pickled_tensor(str(key), array)
        storages[str(key)] = array.tobytes()
    return body + b'u.', storages


def _pth():
    body, storages = _state_dict()
    members = {'archive/data.pkl': body, 'archive/byteorder': 'little', 'archive/version': '3\n'}
    members |= {f'archive/data/{key}': data for key, data in storages.items()}
    data = repacked.zipped(members, zipfile.ZIP_STORED)
    return _weights('a.pth', data, sealed=True, repack=repacked.changed_zip)


def _old_pth():
    body, storages = _state_dict()
    magic = b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'
    about = b'\x80\x02}(' + _text('little_endian') + b'\x88u.'
    keys = b'\x80\x02](' + b''.join(map(_text, storages)) + b'e.'
    parts = [magic, b'\x80\x02' + _number(1001) + b'.', about, body, keys]
    for data in storages.values():
        parts += [struct.pack('<Q', len(data) // 4), data]
    return _weights('a.pth', b''.join(parts))


def _keras(folder):
    import h5py

    draw = np.random.default_rng(1)
    path = folder / 'a.weights.h5'
    with h5py.File(path, 'w') as file:
        fed = 3
        for block, count in enumerate((2, 2, 3, 3, 3), start=1):
            for layer in range(1, count + 1):
                group = file.create_group(f'b{block}/c{layer}')
                group.attrs['name'] = f'block{block}_conv{layer}'
                kernel = draw.normal(size=(3, 3, fed, 2)).astype(np.float32)
                group.create_dataset('0', data=kernel)
                group.create_dataset('1', data=np.zeros(2, np.float32))
                fed = 2
    return _weights('a.weights.h5', path.read_bytes())


# what runs leave


def _config():
    config = config_lib.load('prsnet:tiny,row=baseline')[1]

    def read(folder):
        return json.loads(config_lib.from_json(folder / 'config.json').to_json()), ()

    return Specimen({'config.json': config.to_json(indent=1).encode()}, read)


def _under(folder):
    found = {}
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def _records(folder):
    draw = np.random.default_rng(2)
    examples = []
    for i in range(8):
        examples.append(
            {
                'image': draw.integers(0, 256, (24, 20, 1), np.uint8),
                'id': f'image {i}',
                'months': np.float32(10 * i),
                'male': bool(i % 2),
                'width': 100 + i,
                'height': 200 + i,
                'flags': '',
            }
        )
    splits = {'train': examples[:6], 'test': examples[6:]}
    place = prepared.write(folder / 'records', splits, metadata={'size': [24, 20]})

    def read(below):
        opened = prepared.open(below)
        found = {name: list(records) for name, records in opened.splits.items()}
        return [found, opened.labels, opened.metadata], ()

    files = _under(place)
    sealed = frozenset(name for name in files if 'array_record' in name)
    return Specimen(files, read, sealed)


def _checkpoint(folder):
    arrays = {name: value for name, value in _arrays().items() if value.dtype == np.float32}
    place = folder / 'run'
    with checkpoint.Checkpoints(place) as checkpoints:
        state = {'params': {'head': arrays}, 'step': np.int32(7)}
        checkpoints.save(7, jax.tree.map(jnp.asarray, state), 3.5)

    def read(below):
        with checkpoint.Checkpoints(below) as checkpoints:
            return checkpoints.read(checkpoints.best_or_latest), ()

    return Specimen(_under(place), read)
