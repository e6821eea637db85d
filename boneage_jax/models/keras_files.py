"""Keras's `.weights.h5` files: the 13 convolutions of VGG16, read by h5py, without Keras.

Keras's VGG16 reads what Caffe's did: blue, green, red, each in 0 to 255 with its mean taken off
(CAFFE in `grey.py`). Here the first kernel is turned to red, green, blue and multiplied by what
torchvision divides by, so that it reads images in torchvision's scale, (x - mean) / std of x in
[0, 1]. Only the means differ then, by less than one grey level of 255: CAFFE's make it exact.
"""

import importlib.util
import io
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np

from boneage_jax.models import grey, hdf5_reader
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG16, in each of its blocks
_LAYER = re.compile(r'block([1-5])_conv([1-3])')
_READER = pathlib.Path(__file__).with_name('hdf5_reader.py')
_SECONDS = 5  # of a processor, that the reader may take; a whole VGG16 takes less than one
_WAIT = 300  # seconds that it may take at all: a disk may be slow
_MEMORY = 1 << 30  # bytes that it may take beyond four times the file's own


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """`{torchvision's name: float32 array}` of VGG16's convolutions, kernels OIHW.

    Layers are known by the names that Keras gave them ('block1_conv1'); what else the file holds,
    as the heads of an edge detector, is left out. The file is read in a process of its own, see
    `hdf5_reader`.

    Raises:
        UserError: h5py is not installed, the file is damaged or takes too much time or memory, or a
            convolution of the 13 is missing or no plain float32 array in the file.
    """
    if importlib.util.find_spec('h5py') is None:
        raise UserError(
            f"{path}: Keras's files need h5py (pip install '.[hdf5]', or pip install h5py)"
        )
    found = {}
    for name, value in _arrays(path).items():
        layer, leaf = name.split('/')
        block, convolution = map(int, _LAYER.fullmatch(layer).groups())
        part = 'weight' if leaf == '0' else 'bias'
        kernel = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        found[f'features.{_place(block, convolution)}.{part}'] = kernel
    wanted = [f'features.{place}.{part}' for place in _places() for part in ('weight', 'bias')]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{path}: not the weights of Keras's VGG16: {len(missing)} of {len(wanted)} arrays of "
            f'its convolutions are missing, the first: {missing[0]}'
        )
    found['features.0.weight'] = _first_kernel(path, found['features.0.weight'])
    return {name: found[name] for name in wanted}


def _arrays(path):
    """What `hdf5_reader` finds in a file; UserError for what it refuses, and where it is ended."""
    size = _MEMORY + 4 * path.stat().st_size
    arguments = (path.absolute(), _LAYER.pattern, _SECONDS, size)
    command = [sys.executable, '-P', str(_READER), *map(str, arguments)]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_WAIT, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        why = f'it took more than {_WAIT} s to read'
        raise UserError(tensors.damaged(path, ValueError(why))) from error
    answer = done.stdout
    if done.returncode == 0:
        with np.load(io.BytesIO(answer)) as arrays:
            return dict(arrays)
    if done.returncode == hdf5_reader.REFUSED:
        raise UserError(f'{path}: {answer.decode()}')
    if done.returncode == hdf5_reader.DAMAGED:
        why = answer.decode()
    elif done.returncode == -getattr(signal, 'SIGXCPU', 0):
        why = f'it keeps the HDF5 library busy for more than {_SECONDS} s'
    else:
        lines = done.stderr.decode(errors='replace').strip().splitlines() or ['no message']
        why = f'its reader ended with status {done.returncode}: {lines[-1]}'
    raise UserError(tensors.damaged(path, ValueError(why)))


def _places():
    """torchvision's numbers of the convolutions: rectifiers and pools are counted too."""
    places = []
    place = 0
    for count in CONVOLUTIONS:
        for _ in range(count):
            places.append(place)
            place += 2
        place += 1
    return places


def _place(block, convolution):
    return _places()[sum(CONVOLUTIONS[: block - 1]) + convolution - 1]


def _first_kernel(path, kernel):
    """The kernel that reads blue, green, red in 0 to 255, as one of torchvision's scale."""
    if kernel.ndim != 4 or kernel.shape[1] != 3:
        raise UserError(f'{path}: its first kernel is {kernel.shape}, expected three colours')
    scale = 255 * np.asarray(grey.STD, np.float64).reshape(1, 3, 1, 1)
    return (kernel[:, ::-1] * scale).astype(np.float32)
