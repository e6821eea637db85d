"""The reference in PyTorch: torchvision's ResNet-18/34 (its parameter names) and the baseline age
model on top.

The same network as `models.build('resnet34')` and `models.build('prsnet', backbone='resnet34',
width=...)`, so that values can be compared (tests/test_parity.py) and so can speed
(benchmarks/train_step.py). NCHW, as PyTorch has it. PyTorch is optional (`[parity]`); whoever
imports this has looked whether it is there.
"""

import jax
import numpy as np
import torch
from torch import nn

from boneage_jax.models.resnet import BLOCKS

_PARTS = {
    'stem': 'conv1',
    'stem_norm': 'bn1',
    'norm1': 'bn1',
    'norm2': 'bn2',
    'shortcut': 'downsample.0',
    'shortcut_norm': 'downsample.1',
    'head': 'fc',
    'kernel': 'weight',
    'scale': 'weight',
    'mean': 'running_mean',
    'var': 'running_var',
}


class BasicBlock(nn.Module):
    """`[B, inputs, H, W]` -> `[B, outputs, H/stride, W/stride]`."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """`[B, channels, H, W]` -> logits `[B, num_outputs]`; `stages(x)` gives the maps res2..res5, as
    ours does.
    """

    def __init__(self, name, *, num_outputs=1000, channels=3, width=64, depth=0):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for level, count in enumerate(BLOCKS[name]):
            count, outputs = depth or count, width << level
            blocks = [
                BasicBlock(
                    inputs if block == 0 else outputs, outputs, 2 if level and block == 0 else 1
                )
                for block in range(count)
            ]
            self.add_module(f'layer{level + 1}', nn.Sequential(*blocks))
            inputs = outputs
        self.features = inputs
        self.fc = nn.Linear(inputs, num_outputs) if num_outputs else None

    def stages(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def forward(self, x):
        return self.fc(self.stages(x)[-1].mean((2, 3)))


class AgeModel(nn.Module):
    """`(image [B, 1, H, W] in [0, 1], male [B] bool)` -> `[B]`: PRSNet's baseline, images
    standardised one by one.
    """

    def __init__(self, backbone, *, width=64, depth=0):
        super().__init__()
        self.backbone = ResNet(backbone, num_outputs=0, channels=1, width=width, depth=depth)
        self.fc = nn.Linear(self.backbone.features + 2, 1)

    def forward(self, image, male):
        deviation, mean = torch.std_mean(image, dim=(1, 2, 3), keepdim=True, unbiased=False)
        maps = self.backbone.stages((image - mean) / deviation.clamp(min=1e-3))
        sex = nn.functional.one_hot(male.long(), 2)
        return self.fc(torch.cat([maps[-1].mean((2, 3)).float(), sex.float()], 1))[:, 0]


def convert(tree):
    """A nested dict of our arrays (parameters, gradients or batch statistics) -> `{PyTorch name:
    numpy array}`.
    """
    named = {}
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        value, keys = np.asarray(value), [str(entry.key) for entry in path]
        if 'res' in keys:
            level = keys.index('res')
            keys[level : level + 2] = [f'layer{int(keys[level + 1]) + 1}']
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]  # HWIO -> OIHW
        named['.'.join(_PARTS.get(key, key) for key in keys)] = np.ascontiguousarray(
            value.transpose(axes)
        )
    return named


def load(network, *trees):
    """Copies our parameters and batch statistics into the PyTorch network; every one of its arrays
    must be given.
    """
    named = {name: torch.tensor(value) for tree in trees for name, value in convert(tree).items()}
    missing, unexpected = network.load_state_dict(named, strict=False)
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing or unexpected:
        raise ValueError(f'the networks differ: PyTorch lacks {unexpected}, ours lacks {missing}')
    return network
