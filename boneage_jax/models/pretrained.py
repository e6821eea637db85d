"""ImageNet weights under torchvision's and timm's names -> our networks.

Our modules carry torchvision's names (a ResNet's are translated), so the mapping is one of leaf
names and of axes: convolutions OIHW -> HWIO, dense layers transposed, VGG's first dense layer
reordered from channels-first to channels-last. timm's names are translated to torchvision's first.
"""

import re

import jax.numpy as jnp
import numpy as np
from flax import nnx

from boneage_jax import renamed
from boneage_jax.models import grey, weight_files
from tfds_rsna.errors import UserError

FORMAT = 'boneage_jax'  # in the metadata of our own exports
# Our names, where they are not torchvision's.
PARTS = {
    'stem': 'conv1',
    'stem_norm': 'bn1',
    'shortcut': 'downsample.0',
    'shortcut_norm': 'downsample.1',
    'head': 'fc',
    'body': 'features',
    'norm1': 'bn1',
    'norm2': 'bn2',
    'norm3': 'bn3',
}
LEAVES = {
    'kernel': 'weight',
    'scale': 'weight',
    'mean': 'running_mean',
    'var': 'running_var',
    'bias': 'bias',
}
HEADS = (
    'fc',
    'classifier',
    'AuxLogits',
)  # a feature extractor has none of them: it leaves the file's alone

# timm's EfficientNet and VGG -> torchvision's names.
_SEPARABLE = {
    'conv_dw': '0.0',
    'bn1': '0.1',
    'se.conv_reduce': '1.fc1',
    'se.conv_expand': '1.fc2',
    'conv_pw': '2.0',
    'bn2': '2.1',
}
_INVERTED = {
    'conv_pw': '0.0',
    'bn1': '0.1',
    'conv_dw': '1.0',
    'bn2': '1.1',
    'se.conv_reduce': '2.fc1',
    'se.conv_expand': '2.fc2',
    'conv_pwl': '3.0',
    'bn3': '3.1',
}
_TIMM = {
    'efficientnet': {
        'conv_stem': 'features.0.0',
        'bn1': 'features.0.1',
        'conv_head': 'features.8.0',
        'bn2': 'features.8.1',
        'classifier': 'classifier.1',
    },
    'vgg': {
        'pre_logits.fc1': 'classifier.0',
        'pre_logits.fc2': 'classifier.3',
        'head.fc': 'classifier.6',
    },
}


def load(model, path, *, names='auto', fold_normalisation=True):
    """Puts the weights of a file into `model` (NNX), as `load_arrays` does; the file may be an
    export of our own too.
    """
    arrays, metadata = weight_files.read(path)
    if metadata.get('format') == FORMAT:
        state = nnx.state(model, (nnx.Param, nnx.BatchStat))
        _put(model, state, compare(renamed.arrays(arrays), _shapes(state), source=str(path)))
    else:
        load_arrays(
            model, arrays, names=names, fold_normalisation=fold_normalisation, source=str(path)
        )


def load_arrays(model, arrays, *, names='auto', fold_normalisation=True, source='the weights'):
    """Puts `arrays`, `{torchvision or timm name: numpy array}`, into `model` (NNX), every one or
    none.

    `names`: 'torchvision', 'timm', or 'auto', which tells them apart. `num_batches_tracked` is left
    out; so is the file's head where the model has none.

    A model of one channel takes a file of three: its stem folds to one. With `fold_normalisation`
    the model then reads images in [0, 1] and does ImageNet's normalisation itself (its stem becomes
    a `grey.GreyStem`); without, images that are standardised already, the same for each channel.
    Either is exact, to the border.

    Raises UserError, naming `source`, for missing, extra, mis-shaped arrays (all of them counted,
    the first listed) and for values that are not finite.
    """
    given = to_torchvision(arrays, names)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    _put(model, state, translate(given, _shapes(state), source=source))
    stem = _grey_stem(model)
    colours = given.get(foreign_name(f'{stem}.kernel')) if stem else None
    if fold_normalisation and colours is not None and colours.shape[1] == 3:
        constants = (
            ((0.5,) * 3, (0.5,) * 3) if describe(given) == 'Inception-V3' else (grey.MEAN, grey.STD)
        )
        *parents, last = stem.split('.')
        parent = model
        for key in parents:
            parent = _child(parent, key)
        folded = grey.GreyStem(
            _child(parent, last), np.asarray(colours).transpose(2, 3, 1, 0), *constants
        )
        if last.isdecimal():
            parent[int(last)] = folded
        else:
            setattr(parent, last, folded)


def to_torchvision(arrays, names='auto'):
    """`arrays` under torchvision's names, without what is not theirs: wrappers' prefixes, counters
    of batches.
    """
    if names not in ('auto', 'torchvision', 'timm'):
        raise UserError(f"names={names!r}: expected 'auto', 'torchvision' or 'timm'")
    given = {
        name.removeprefix('module.'): np.asarray(value)
        for name, value in arrays.items()
        if not name.endswith('num_batches_tracked')
    }
    return given if names == 'torchvision' else from_timm(given)


def translate(given, shapes, *, source):
    """`{our name: float32 array}` for all of `shapes`, `{our name: shape}`, from torchvision's
    `given`; see `load_arrays`.
    """
    wanted = {foreign_name(name): name for name in shapes}
    tops = {name.partition('.')[0] for name in wanted}
    given = {
        name: value
        for name, value in given.items()
        if (top := name.partition('.')[0]) not in HEADS or top in tops
    }
    fitted = {
        name: _fit(name, given[name], shapes[ours])
        for name, ours in wanted.items()
        if name in given
    }
    _refuse(
        f'{source}: {describe(given)} does not fit {describe(wanted)}',
        {
            'missing': [
                f'{name} {_foreign_shape(shapes[ours])}'
                for name, ours in wanted.items()
                if name not in given
            ],
            'unknown to this network': [
                f'{name} {value.shape}' for name, value in given.items() if name not in wanted
            ],
            'of another shape or type': [
                f'{name} {given[name].shape} {given[name].dtype}, expected {_foreign_shape(shapes[wanted[name]])}'
                for name, value in fitted.items()
                if value is None
            ],
            'not finite': [
                name
                for name, value in fitted.items()
                if value is not None and not np.isfinite(value).all()
            ],
        },
    )
    return {ours: fitted[name] for name, ours in wanted.items()}


def compare(given, shapes, *, source):
    """`given`, an export under our own names, if it has just the names and shapes of `shapes`; else
    a UserError.
    """
    _refuse(
        f'{source}: does not fit this model',
        {
            'missing': [f'{name} {shape}' for name, shape in shapes.items() if name not in given],
            'unknown to this model': [
                f'{name} {value.shape}' for name, value in given.items() if name not in shapes
            ],
            'of another shape': [
                f'{name} {given[name].shape}, expected {shape}'
                for name, shape in shapes.items()
                if name in given and given[name].shape != shape
            ],
            'not finite': [name for name, value in given.items() if not np.isfinite(value).all()],
        },
    )
    return given


def _refuse(what, wrong):
    if any(wrong.values()):
        raise UserError(
            f'{what}\n  '
            + '\n  '.join(
                f'{len(names)} {kind}: {"; ".join(names[:8])}' + ('; ...' if len(names) > 8 else '')
                for kind, names in wrong.items()
                if names
            )
        )


def _shapes(state):
    return {'.'.join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}


def _put(model, state, values):
    for path, leaf in nnx.to_flat_state(state):
        leaf.set_value(
            jnp.asarray(values['.'.join(map(str, path))])
        )  # leaf[...] = would compile for each shape
    nnx.update(model, state)


def _grey_stem(model):
    """The dotted path of the convolution that reads the image, where it reads one channel; else
    None.
    """
    paths = [
        '.'.join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.Conv) and module.in_features == module.feature_group_count == 1
    ]
    return paths[0] if paths else None


def _child(module, key):
    return module[int(key)] if key.isdecimal() else getattr(module, key)


def foreign_name(name):
    """torchvision's name of one of our arrays: 'res.0.1.norm1.scale' -> 'layer1.1.bn1.weight'."""
    keys = name.split('.')
    if keys[0] == 'res':
        keys[:2] = [f'layer{int(keys[1]) + 1}']
    return '.'.join([PARTS.get(key, key) for key in keys[:-1]] + [LEAVES.get(keys[-1], keys[-1])])


def from_timm(arrays):
    """`arrays` under torchvision's names; those that timm names alike stay as they are."""
    if not any(name.startswith(('conv_stem.', 'pre_logits.')) for name in arrays):
        return arrays
    tops = _TIMM['efficientnet' if 'conv_stem.weight' in arrays else 'vgg']
    named = {}
    for name, value in arrays.items():
        part, _, leaf = name.rpartition('.')
        block = re.fullmatch(r'blocks\.(\d+)\.(\d+)\.(.+)', part)
        if block:
            separable = f'blocks.{block[1]}.{block[2]}.conv_pwl.weight' not in arrays
            inner = (_SEPARABLE if separable else _INVERTED).get(block[3], block[3])
            part = f'features.{int(block[1]) + 1}.{block[2]}.block.{inner}'
        named[f'{tops.get(part, part)}.{leaf}'] = value
    return named


def describe(names):
    """The kind of network that torchvision's `names` belong to, in words."""
    names = set(names)
    if any(name.startswith('Mixed_') for name in names):
        return 'Inception-V3'
    if any('.block.' in name for name in names):
        return 'EfficientNet'
    if 'features.0.weight' in names:
        return 'VGG with batch normalisation' if 'features.1.running_mean' in names else 'VGG'
    blocks = len(
        {name.split('.conv1')[0] for name in names if re.match(r'layer\d+\.\d+\.conv1\.', name)}
    )
    per_block = 3 if 'layer1.0.conv3.weight' in names else 2
    return f'ResNet-{per_block * blocks + 2}' if blocks else 'an unknown network'


def _fit(name, value, shape):
    """The foreign array as ours of `shape`, float32; None where it does not fit."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return None
    value = value.astype(np.float32)
    if len(shape) == 1:
        return value if value.shape == shape else None
    if value.ndim not in (2, 4):
        return None
    if len(shape) == 4:
        value = value.reshape(*value.shape, *(1,) * (4 - value.ndim)).transpose(2, 3, 1, 0)
        if shape[2] == 1 and value.shape[2] == 3 and shape[3] == value.shape[3]:
            value = value.sum(2, keepdims=True)  # a grey stem
    else:
        outputs = len(value)
        if name == 'classifier.0.weight' and value[0].size % 49 == 0:  # VGG: 7x7 maps, flattened
            value = value.reshape(outputs, -1, 7, 7).transpose(0, 2, 3, 1)
        value = value.reshape(outputs, -1).T
    return value if value.shape == shape else None


def _foreign_shape(shape):
    return {4: (shape[-1], *shape[2:3], *shape[:2]), 2: shape[::-1]}.get(len(shape), shape)
