"""ImageNet weights under torchvision's and timm's names -> our networks.

Our modules carry torchvision's names (a ResNet's are translated), so the mapping is one of leaf
names and of axes: convolutions OIHW -> HWIO, dense layers transposed, VGG's first dense layer
reordered from channels-first to channels-last. timm's names are translated to torchvision's first.
"""

import pathlib
import re
from collections.abc import Collection, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from boneage_jax import renamed
from boneage_jax.models import foreign_names, grey, weight_files
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError

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
    'last_norm': 'classifier.0',  # ConvNeXt's
    'output': 'classifier.2',
}
LEAVES = {
    'kernel': 'weight',
    'scale': 'weight',
    'mean': 'running_mean',
    'var': 'running_var',
    'bias': 'bias',
}
# A feature extractor has none of them: it leaves the file's alone.
HEADS = ('fc', 'classifier', 'AuxLogits')


def load(
    model: nnx.Module,
    path: str | pathlib.Path,
    *,
    names: str = 'auto',
    fold_normalisation: bool = True,
) -> None:
    """Puts the weights of a file into `model`, as `load_arrays` does.

    The file may be an export of our own too.

    Args:
        model: the network.
        path: of the file, see `weight_files.read`.
        names: see `load_arrays`.
        fold_normalisation: see `load_arrays`.
    """
    arrays, metadata = weight_files.read(path)
    if metadata.get('format') == tensors.FORMAT:
        state = nnx.state(model, (nnx.Param, nnx.BatchStat))
        _put(model, state, compare(renamed.arrays(arrays), _shapes(state), source=str(path)))
    else:
        load_arrays(
            model,
            arrays,
            names=names,
            fold_normalisation=fold_normalisation,
            normalisation=metadata.get('normalisation', ''),
            source=str(path),
        )


def load_arrays(
    model: nnx.Module,
    arrays: Mapping[str, np.ndarray],
    *,
    names: str = 'auto',
    fold_normalisation: bool = True,
    normalisation: str = '',
    source: str = 'the weights',
) -> None:
    """Puts arrays into `model`, every one or none.

    `num_batches_tracked` is left out; so is the file's head where the model has none. A model of
    one channel takes a file of three: its stem folds to one, exactly, to the border.

    Args:
        model: the network.
        arrays: `{name: array}`, the names torchvision's, timm's or those of efficientnet_pytorch.
        names: 'torchvision', or 'timm' and 'auto', which tell them all apart.
        fold_normalisation: a model of one channel reads images in [0, 1] and does ImageNet's
            normalisation itself (its stem becomes a `grey.GreyStem`). Without, it reads images that
            are standardised already, the same for each channel.
        normalisation: that the arrays were trained with, a key of `grey.NORMALISATIONS`; '' = that
            of the network that they are of.
        source: of the arrays, for messages.

    Raises:
        UserError: missing, extra, mis-shaped arrays (all of them counted, the first listed), and
            values that are not finite.
    """
    given = to_torchvision(arrays, names)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    _put(model, state, translate(given, _shapes(state), source=source))
    stem = _grey_stem(model)
    colours = None
    if stem:
        colours = given.get(foreign_name(f'{stem}.kernel'))
    if fold_normalisation and colours is not None and colours.shape[1] == 3:
        mean, std = grey.NORMALISATIONS[normalisation or _normalisation(given)]
        kernel = np.asarray(colours).transpose(2, 3, 1, 0)
        _replace(model, stem, lambda conv: grey.GreyStem(conv, kernel, mean, std))


def to_torchvision(arrays: Mapping[str, np.ndarray], names: str = 'auto') -> dict[str, np.ndarray]:
    """`arrays` under torchvision's names, without wrappers' prefixes and counters of batches."""
    if names not in ('auto', 'torchvision', 'timm'):
        raise UserError(f"names={names!r}: expected 'auto', 'torchvision' or 'timm'")
    given = {}
    for name, value in arrays.items():
        if name.endswith('num_batches_tracked'):
            continue
        value = np.asarray(value)
        if name.endswith('.layer_scale'):  # [C, 1, 1]
            value = value.reshape(-1)
        given[name.removeprefix('module.')] = value
    if names == 'torchvision':
        return given
    return foreign_names.from_timm(foreign_names.from_efficientnet_pytorch(given))


def _normalisation(names):
    """The normalisation of the network that torchvision's `names` belong to."""
    kind = {'Inception-V3': 'inception', 'EfficientNet-Lite': 'lite'}
    return kind.get(describe(names), 'imagenet')


def translate(
    given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, source: str
) -> dict[str, np.ndarray]:
    """A network's arrays from torchvision's.

    Args:
        given: `{torchvision's name: array}`.
        shapes: `{our name: shape}`.
        source: of `given`, for messages.

    Returns:
        `{our name: float32 array}` for all of `shapes`.

    Raises:
        UserError: as `load_arrays`.
    """
    wanted = {foreign_name(name): name for name in shapes}
    given = _without_other_heads(given, wanted, shapes)
    fitted = {}
    wrong = _Wrong(f'{source}: {describe(given)} does not fit {describe(wanted)}')
    for name, ours in wanted.items():
        expected = _foreign_shape(shapes[ours])
        if name not in given:
            wrong.add('missing', f'{name} {expected}')
            continue
        array = given[name]
        value = _fit(name, array, shapes[ours])
        if value is None:
            found = f'{name} {array.shape} {array.dtype}'
            wrong.add('of another shape or type', f'{found}, expected {expected}')
        elif not np.isfinite(value).all():
            wrong.add('not finite', name)
        fitted[ours] = value
    for name, value in given.items():
        if name not in wanted:
            wrong.add('unknown to this network', f'{name} {value.shape}')
    wrong.refuse()
    return fitted


def compare(
    given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, source: str
) -> Mapping[str, np.ndarray]:
    """`given`, an export under our own names, if it fits `shapes` (`{our name: shape}`).

    Raises UserError, naming `source`, where names or shapes differ.
    """
    wrong = _Wrong(f'{source}: does not fit this model')
    for name, shape in shapes.items():
        if name not in given:
            wrong.add('missing', f'{name} {shape}')
        elif given[name].shape != shape:
            wrong.add('of another shape', f'{name} {given[name].shape}, expected {shape}')
    for name, value in given.items():
        if name not in shapes:
            wrong.add('unknown to this model', f'{name} {value.shape}')
        if not np.isfinite(value).all():
            wrong.add('not finite', name)
    wrong.refuse()
    return given


class _Wrong:
    """What is wrong with arrays, by kind, in the order in which a message has the kinds."""

    KINDS = (
        'missing',
        'unknown to this network',
        'unknown to this model',
        'of another shape or type',
        'of another shape',
        'not finite',
    )
    LISTED = 8  # names of each kind

    def __init__(self, what):
        self.what = what
        self.names = {kind: [] for kind in self.KINDS}

    def add(self, kind, name):
        self.names[kind].append(name)

    def refuse(self):
        """Raises UserError where anything was added."""
        lines = [self.what]
        for kind, names in self.names.items():
            if names:
                listed = names[: self.LISTED]
                if len(names) > self.LISTED:
                    listed.append('...')
                lines.append(f'{len(names)} {kind}: {"; ".join(listed)}')
        if len(lines) > 1:
            raise UserError('\n  '.join(lines))


def _without_other_heads(given, wanted, shapes):
    """`given` without the heads of a file whose like `wanted` has not.

    A head has a matrix: ConvNeXt's last normalisation is called like one and is none.
    """
    tops = set()
    for name, ours in wanted.items():
        if len(shapes[ours]) == 2:
            tops.add(name.partition('.')[0])
    kept = {}
    for name, value in given.items():
        top = name.partition('.')[0]
        if top not in HEADS or top in tops or name in wanted:
            kept[name] = value
    return kept


def _shapes(state):
    return {'.'.join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}


def _put(model, state, values):
    for path, leaf in nnx.to_flat_state(state):
        name = '.'.join(map(str, path))
        leaf.set_value(jnp.asarray(values[name]))  # leaf[...] = would compile for each shape
    nnx.update(model, state)


def _grey_stem(model):
    """The dotted path of the convolution that reads the image.

    None where it reads more than one channel.
    """
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv) and module.in_features == module.feature_group_count == 1:
            return '.'.join(map(str, path))
    return None


def _replace(model, path, function):
    """Puts `function(module)` in the place of the module at the dotted `path`."""
    *parents, last = path.split('.')
    parent = model
    for key in parents:
        parent = _child(parent, key)
    replacement = function(_child(parent, last))
    if last.isdecimal():
        parent[int(last)] = replacement
    else:
        setattr(parent, last, replacement)


def _child(module, key):
    if key.isdecimal():
        return module[int(key)]
    return getattr(module, key)


def foreign_name(name: str) -> str:
    """torchvision's name of one of our arrays: 'res.0.1.norm1.scale' -> 'layer1.1.bn1.weight'."""
    keys = name.split('.')
    if keys[0] == 'res':
        keys[:2] = [f'layer{int(keys[1]) + 1}']
    *parts, leaf = keys
    translated = [PARTS.get(part, part) for part in parts]
    return '.'.join([*translated, LEAVES.get(leaf, leaf)])


def describe(names: Collection[str]) -> str:
    """The kind of network that torchvision's `names` belong to, in words."""
    names = set(names)
    if any(name.startswith('Mixed_') for name in names):
        return 'Inception-V3'
    if any(name.endswith('.layer_scale') for name in names):
        return 'ConvNeXt'
    if any('.block.' in name for name in names):
        excites = any('.fc1.' in name for name in names)
        return 'EfficientNet' if excites else 'EfficientNet-Lite'
    if 'features.0.weight' in names:
        if 'features.1.running_mean' in names:
            return 'VGG with batch normalisation'
        return 'VGG'
    blocks = {
        name.split('.conv1')[0] for name in names if re.match(r'layer\d+\.\d+\.conv1\.', name)
    }
    if not blocks:
        return 'an unknown network'
    per_block = 3 if 'layer1.0.conv3.weight' in names else 2
    return f'ResNet-{per_block * len(blocks) + 2}'


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
        ones = (1,) * (4 - value.ndim)
        value = value.reshape(*value.shape, *ones).transpose(2, 3, 1, 0)
        if shape[2] == 1 and value.shape[2] == 3 and shape[3] == value.shape[3]:
            value = value.sum(2, keepdims=True)  # a grey stem
    else:
        outputs = len(value)
        if name == 'classifier.0.weight' and value[0].size % 49 == 0:  # VGG: 7x7 maps, flattened
            value = value.reshape(outputs, -1, 7, 7).transpose(0, 2, 3, 1)
        value = value.reshape(outputs, -1).T
    return value if value.shape == shape else None


def _foreign_shape(shape):
    if len(shape) == 4:
        rows, columns, inputs, outputs = shape
        return outputs, inputs, rows, columns
    if len(shape) == 2:
        return shape[::-1]
    return shape
