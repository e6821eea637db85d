"""The backbones in PyTorch as torchvision has them, also narrower and shallower, so that both
values and speed compare.

torchvision is installed without its dependencies beside a CPU build of PyTorch (`.ci/run`): then
its own operators, which only detectors need, are missing, and it imports once two of them are
declared. NCHW, as PyTorch has it.
"""

import sys

import torch
from torch import nn


def import_torchvision():
    """The module torchvision; ImportError where it is missing."""
    try:
        import torchvision
    except RuntimeError as error:  # operator torchvision::nms does not exist
        if 'torchvision::' not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
        for name in ('nms', 'qnms'):
            torch.library.define(
                f'torchvision::{name}',
                '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
            )
        import torchvision
    return torchvision


torchvision = import_torchvision()

# The modules whose outputs are the maps of our `stages(x)`.
STAGES = {
    'resnet': [f'layer{level}' for level in (1, 2, 3, 4)],
    'vgg16': [f'features.{place}' for place in (4, 9, 16, 23, 30)],
    'vgg16_bn': [f'features.{place}' for place in (6, 13, 23, 33, 43)],
    'inception_v3': ['Conv2d_2b_3x3', 'Conv2d_4a_3x3', 'Mixed_5d', 'Mixed_6e', 'Mixed_7c'],
    'efficientnet_b0': [f'features.{place}' for place in (1, 2, 3, 5, 8)],
    'convnext_tiny': [f'features.{place}' for place in (1, 3, 5, 7)],
}
FULL_WIDTH = {
    'resnet': 64,
    'vgg16': 64,
    'vgg16_bn': 64,
    'inception_v3': 32,
    'efficientnet_b0': 32,
    'convnext_tiny': 96,
}


def build(name, *, num_outputs=1000, width=0, depth=0):
    """torchvision's network `name` with fresh parameters; `width` and `depth` as `models.build`
    takes them, 0 the original.

    ResNets come at their full width only, Inception at depth 2 or more.
    """
    models = torchvision.models
    width = width or FULL_WIDTH[family(name)]
    if name.startswith('resnet'):
        block = models.resnet.Bottleneck if name == 'resnet50' else models.resnet.BasicBlock
        counts = {'resnet18': (2, 2, 2, 2)}.get(name, (3, 4, 6, 3))
        return models.ResNet(block, [depth or count for count in counts], num_classes=num_outputs)
    if name.startswith('vgg'):
        plan = []
        for level, count in enumerate((2, 2, 3, 3, 3)):
            plan += [width << min(level, 3)] * (depth or count) + ['M']
        network = models.VGG(
            models.vgg.make_layers(plan, name.endswith('_bn')), num_classes=num_outputs
        )
        if width != 64:
            sizes = (49 * 8 * width, 64 * width, 64 * width, num_outputs)
            for place, inputs, outputs in zip((0, 3, 6), sizes, sizes[1:]):
                network.classifier[place] = nn.Linear(inputs, outputs)
        return network
    if name == 'efficientnet_b0':
        rows, _ = models.efficientnet._efficientnet_conf(
            name, width_mult=width / 32, depth_mult=1.0
        )
        for row in rows:
            row.num_layers = depth or row.num_layers
        return models.EfficientNet(rows, dropout=0.2, num_classes=num_outputs)
    if name == 'convnext_tiny':
        widths = [width << level for level in range(4)]
        rows = []
        for inputs, outputs, count in zip(widths, [*widths[1:], None], (3, 3, 9, 3)):
            row = models.convnext.CNBlockConfig(inputs, outputs, depth or count)
            rows.append(row)
        return models.ConvNeXt(rows, 0.1, num_classes=num_outputs)
    return _inception(num_outputs, width, depth)


def _inception(num_outputs, width, depth):
    parts = torchvision.models.inception

    def scaled(channels):
        return channels * width // 32

    def conv(inputs, outputs, **options):
        return parts.BasicConv2d(
            inputs if inputs == 3 else scaled(inputs), scaled(outputs), **options
        )

    def narrow(block):
        return lambda *arguments, **options: block(*arguments, **options, conv_block=conv)

    blocks = [
        conv,
        *map(
            narrow,
            (
                parts.InceptionA,
                parts.InceptionB,
                parts.InceptionC,
                parts.InceptionD,
                parts.InceptionE,
                parts.InceptionAux,
            ),
        ),
    ]
    network = parts.Inception3(num_outputs, inception_blocks=blocks, init_weights=False)
    for grid in ('5b 5c 5d', '6b 6c 6d 6e', '7b 7c'):
        for place in grid.split()[depth or 4 :]:
            setattr(network, f'Mixed_{place}', nn.Identity())
    network.fc = nn.Linear(scaled(2048), num_outputs)
    network.AuxLogits.fc = nn.Linear(scaled(768), num_outputs)
    return network


def family(name):
    return 'resnet' if name.startswith('resnet') else name


def stages(name, network, x):
    """(the maps of our `stages(x)`, the network's output) for `x [B, 3, H, W]`."""
    maps, hooks = [], []
    for place in STAGES[family(name)]:
        hooks.append(
            network.get_submodule(place).register_forward_hook(lambda *call: maps.append(call[-1]))
        )
    try:
        logits = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return maps, logits
