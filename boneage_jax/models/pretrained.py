"""ImageNet weights under torchvision's and timm's names -> our networks.

Our modules carry torchvision's names (a ResNet's are translated), so the mapping is one of leaf names and of axes:
convolutions OIHW -> HWIO, dense layers transposed, VGG's first dense layer reordered from channels-first to
channels-last. timm's names are translated to torchvision's first.
"""

import re

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tfds_rsna.errors import UserError

# Our names, where they are not torchvision's.
PARTS = {'stem': 'conv1', 'stem_norm': 'bn1', 'shortcut': 'downsample.0', 'shortcut_norm': 'downsample.1', 'head': 'fc',
         'norm1': 'bn1', 'norm2': 'bn2', 'norm3': 'bn3'}
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var', 'bias': 'bias'}
HEADS = ('fc', 'classifier', 'AuxLogits')  # a feature extractor has none of them: it leaves the file's alone

# timm's EfficientNet and VGG -> torchvision's names.
_SEPARABLE = {'conv_dw': '0.0', 'bn1': '0.1', 'se.conv_reduce': '1.fc1', 'se.conv_expand': '1.fc2', 'conv_pw': '2.0',
              'bn2': '2.1'}
_INVERTED = {'conv_pw': '0.0', 'bn1': '0.1', 'conv_dw': '1.0', 'bn2': '1.1', 'se.conv_reduce': '2.fc1',
             'se.conv_expand': '2.fc2', 'conv_pwl': '3.0', 'bn3': '3.1'}
_TIMM = {'efficientnet': {'conv_stem': 'features.0.0', 'bn1': 'features.0.1', 'conv_head': 'features.8.0',
                          'bn2': 'features.8.1', 'classifier': 'classifier.1'},
         'vgg': {'pre_logits.fc1': 'classifier.0', 'pre_logits.fc2': 'classifier.3', 'head.fc': 'classifier.6'}}


def load_arrays(model, arrays, *, names='auto', source='the weights'):
    """Puts `arrays`, `{torchvision or timm name: numpy array}`, into `model` (NNX), every one or none.

    `names`: 'torchvision', 'timm', or 'auto', which tells them apart. `num_batches_tracked` is left out; so is the
    file's head where the model has none. Where the model's stem takes one channel and the file's three, the stem folds to
    the sum over the channels: what the three would make of the same grey image in each, to the border.

    Raises UserError, naming `source`, for missing, extra, mis-shaped arrays (all of them counted, the first listed) and for
    values that are not finite.
    """
    if names not in ('auto', 'torchvision', 'timm'):
        raise UserError(f"names={names!r}: expected 'auto', 'torchvision' or 'timm'")
    given = {name.removeprefix('module.'): value for name, value in arrays.items()
             if not name.endswith('num_batches_tracked')}
    if names != 'torchvision':
        given = from_timm(given)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    wanted = {foreign_name(path): leaf for path, leaf in nnx.to_flat_state(state)}
    tops = {name.partition('.')[0] for name in wanted}
    given = {name: value for name, value in given.items()
             if (top := name.partition('.')[0]) not in HEADS or top in tops}

    fitted = {name: _fit(name, np.asarray(given[name]), leaf.shape) for name, leaf in wanted.items() if name in given}
    wrong = {
        'missing': [f'{name} {_foreign_shape(leaf)}' for name, leaf in wanted.items() if name not in given],
        'unknown to this network': [f'{name} {np.shape(given[name])}' for name in given if name not in wanted],
        'of another shape or type': [f'{name} {np.shape(given[name])} {given[name].dtype}, expected '
                                     f'{_foreign_shape(wanted[name])}' for name, value in fitted.items() if value is None],
        'not finite': [name for name, value in fitted.items() if value is not None and not np.isfinite(value).all()],
    }
    if any(wrong.values()):
        raise UserError(f'{source}: {describe(given)} does not fit {describe(wanted)}\n  ' + '\n  '.join(
            f'{len(names)} {kind}: {"; ".join(names[:8])}' + ('; ...' if len(names) > 8 else '')
            for kind, names in wrong.items() if names))
    for name, leaf in wanted.items():
        leaf[...] = jnp.asarray(fitted[name])
    nnx.update(model, state)


def foreign_name(path):
    """torchvision's name of one of our arrays: ('res', 0, 1, 'norm1', 'scale') -> 'layer1.1.bn1.weight'."""
    keys = [str(key) for key in path]
    if keys[0] == 'res':
        keys[:2] = [f'layer{int(keys[1]) + 1}']
    return '.'.join([PARTS.get(key, key) for key in keys[:-1]] + [LEAVES[keys[-1]]])


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
    blocks = len({name.split('.conv1')[0] for name in names if re.match(r'layer\d+\.\d+\.conv1\.', name)})
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


def _foreign_shape(leaf):
    shape = leaf.shape
    return {4: (shape[-1], *shape[2:3], *shape[:2]), 2: shape[::-1]}.get(len(shape), shape)
