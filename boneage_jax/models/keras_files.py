"""Keras's `.weights.h5` files: the 13 convolutions of VGG16, read by h5py, without Keras.

Keras's VGG16 reads what Caffe's did: blue, green, red, each in 0 to 255 with its mean taken off
(CAFFE in `grey.py`). Here the first kernel is turned to red, green, blue and multiplied by what
torchvision divides by, so that it reads images in torchvision's scale, (x - mean) / std of x in
[0, 1]. Only the means differ then, by less than one grey level of 255: CAFFE's make it exact.
"""

import pathlib
import re

import numpy as np

from boneage_jax.models import grey
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG16, in each of its blocks
_LAYER = re.compile(r'block([1-5])_conv([1-3])')


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """`{torchvision's name: float32 array}` of VGG16's convolutions, kernels OIHW.

    Layers are known by the names that Keras gave them ('block1_conv1'); what else the file holds,
    as the heads of an edge detector, is left out.

    Raises:
        UserError: h5py is not installed, the file is damaged, or a convolution of the 13 is
            missing or no plain float32 array in the file.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{path}: Keras's files need h5py (pip install '.[hdf5]', or pip install h5py)"
        ) from error
    found = {}

    def visit(name, item):
        layer = item.attrs.get('name', '')
        known = _LAYER.fullmatch(layer if isinstance(layer, str) else '')
        if known and isinstance(item, h5py.Group):
            place = _place(int(known[1]), int(known[2]))
            for leaf, part in (('0', 'weight'), ('1', 'bias')):
                found[f'features.{place}.{part}'] = _array(path, item, f'{name}/{leaf}', leaf)

    try:
        with h5py.File(path, 'r') as file:
            file.visititems(visit)  # follows no link to elsewhere
    except UserError:
        raise
    except Exception as error:  # h5py raises whatever HDF5 meets in a damaged file
        raise UserError(tensors.damaged(path, error)) from error
    wanted = [f'features.{place}.{part}' for place in _places() for part in ('weight', 'bias')]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{path}: not the weights of Keras's VGG16: {len(missing)} of {len(wanted)} arrays of "
            f'its convolutions are missing, the first: {missing[0]}'
        )
    found['features.0.weight'] = _first_kernel(path, found['features.0.weight'])
    return {name: found[name] for name in wanted}


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


def _array(path, group, name, leaf):
    """An array of the file, kernels as OIHW; without filters, so that it is as large there."""
    link = group.get(leaf, getlink=True)
    data = None
    if type(link).__name__ == 'HardLink':
        data = group[leaf]
    plain = data is not None and data.dtype == np.float32 and data.chunks is None
    if not plain or data.external or data.is_virtual:
        raise UserError(f'{path}: {name} is no plain float32 array of this file')
    if data.size * 4 > path.stat().st_size:
        raise UserError(
            f'{path}: {name} {data.shape} is larger than the file: cut short or damaged'
        )
    value = np.asarray(data[()], np.float32)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value


def _first_kernel(path, kernel):
    """The kernel that reads blue, green, red in 0 to 255, as one of torchvision's scale."""
    if kernel.ndim != 4 or kernel.shape[1] != 3:
        raise UserError(f'{path}: its first kernel is {kernel.shape}, expected three colours')
    scale = 255 * np.asarray(grey.STD, np.float64).reshape(1, 3, 1, 1)
    return (kernel[:, ::-1] * scale).astype(np.float32)
