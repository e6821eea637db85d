"""Names of networks' arrays elsewhere -> torchvision's, which `pretrained` translates to ours."""

import re

# timm's EfficientNet: parts of a block without expansion, and with one.
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
# The last place moves up where nothing is squeezed and excited (EfficientNet-Lite).
_SEPARABLE_LITE = _SEPARABLE | {'conv_pw': '1.0', 'bn2': '1.1'}
_INVERTED_LITE = _INVERTED | {'conv_pwl': '2.0', 'bn3': '2.1'}
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
    'convnext': {
        'stem.0': 'features.0.0',
        'stem.1': 'features.0.1',
        'head.norm': 'classifier.0',
        'head.fc': 'classifier.2',
    },
}
_CONVNEXT = {
    'conv_dw': 'block.0',
    'norm': 'block.2',
    'mlp.fc1': 'block.3',
    'mlp.fc2': 'block.5',
}
# efficientnet_pytorch's names -> timm's, beside those of the blocks.
_LUKEMELAS = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
_BLOCK = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_se_reduce': 'se.conv_reduce',
    '_se_expand': 'se.conv_expand',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
_FIRST_BLOCK = _BLOCK | {'_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}


def from_timm(arrays: dict) -> dict:
    """`arrays` under torchvision's names; those that timm names alike stay as they are."""
    if 'conv_stem.weight' in arrays:
        return _from_timm_efficientnet(arrays)
    if 'stem.0.weight' in arrays:
        return _from_timm_convnext(arrays)
    if any(name.startswith('pre_logits.') for name in arrays):
        return _with_tops(arrays, _TIMM['vgg'])
    return arrays


def _from_timm_efficientnet(arrays):
    excites = any('.se.' in name for name in arrays)
    separable_names = _SEPARABLE if excites else _SEPARABLE_LITE
    inverted_names = _INVERTED if excites else _INVERTED_LITE
    named = {}
    for name, value in arrays.items():
        part, _, leaf = name.rpartition('.')
        block = re.fullmatch(r'blocks\.(\d+)\.(\d+)\.(.+)', part)
        if block:
            separable = f'blocks.{block[1]}.{block[2]}.conv_pwl.weight' not in arrays
            names = separable_names if separable else inverted_names
            inner = names.get(block[3], block[3])
            name = f'features.{int(block[1]) + 1}.{block[2]}.block.{inner}.{leaf}'
        named[name] = value
    return _with_tops(named, _TIMM['efficientnet'])


def _from_timm_convnext(arrays):
    named = {}
    for name, value in arrays.items():
        down = re.fullmatch(r'stages\.(\d+)\.downsample\.(\d)\.(.+)', name)
        block = re.fullmatch(r'stages\.(\d+)\.blocks\.(\d+)\.(.+)', name)
        if down:
            name = f'features.{2 * int(down[1])}.{down[2]}.{down[3]}'
        elif block:
            place = f'features.{2 * int(block[1]) + 1}.{block[2]}'
            part, _, leaf = block[3].rpartition('.')
            if leaf == 'gamma':
                name = f'{place}.layer_scale'
            else:
                name = f'{place}.{_CONVNEXT.get(part, part)}.{leaf}'
        named[name] = value
    return _with_tops(named, _TIMM['convnext'])


def _with_tops(arrays, tops):
    """`arrays` with the names of parts outside of blocks translated."""
    named = {}
    for name, value in arrays.items():
        part, _, leaf = name.rpartition('.')
        named[f'{tops[part]}.{leaf}' if part in tops else name] = value
    return named


def from_efficientnet_pytorch(arrays: dict) -> dict:
    """timm's names from those of efficientnet_pytorch (Melas-Kyriazi), which counts blocks through.

    A stage begins with the block that changes the number of channels; at full width all first ones
    do, and no other. Arrays of other networks stay as they are.
    """
    if '_conv_stem.weight' not in arrays:
        return arrays
    places = {}  # number of a block -> (stage, number in it)
    stage = -1
    inner = 0
    number = 0
    while f'_blocks.{number}._project_conv.weight' in arrays:
        prefix = f'_blocks.{number}.'
        outputs = len(arrays[f'{prefix}_project_conv.weight'])
        if f'{prefix}_expand_conv.weight' in arrays:
            inputs = arrays[f'{prefix}_expand_conv.weight'].shape[1]
        else:
            inputs = arrays[f'{prefix}_project_conv.weight'].shape[1]
        inner += 1
        if inputs != outputs:
            stage += 1
            inner = 0
        places[number] = (stage, inner)
        number += 1
    named = {}
    for name, value in arrays.items():
        part, _, leaf = name.rpartition('.')
        block = re.fullmatch(r'_blocks\.(\d+)\.(.+)', part)
        if block and int(block[1]) in places:
            stage, inner = places[int(block[1])]
            expands = f'_blocks.{block[1]}._expand_conv.weight' in arrays
            names = _BLOCK if expands else _FIRST_BLOCK
            part = f'blocks.{stage}.{inner}.{names.get(block[2], block[2])}'
        named[f'{_LUKEMELAS.get(part, part)}.{leaf}'] = value
    return named
