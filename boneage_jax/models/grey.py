"""A first convolution that was trained on three colours, for images, which have one.

ImageNet's networks read colours as (x - mean) / std, each with its own constants, and pad *that*
with zeros. For a grey image x, repeated, the stem's output is

    sum_k K[k] x[p + k] + sum_k O[k] 1[p + k],   K = sum_c W_c / std_c,   O = -sum_c W_c mean_c /
    std_c

with zeros beyond the border in both sums. The second is constant inside and not at the border,
where part of the kernel sees nothing: a bias cannot stand for it, nor can any padding value, as O
is no multiple of K. So it stays a convolution, of ones, and costs one image a batch. Where every
channel gets the same (an image standardised by its own mean and deviation, as the age models do),
it vanishes: K = sum_c W_c.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # torchvision's and timm's, red, green, blue


def as_colours(image, backbone):
    """An image `[B, H, W, 1]` in [0, 1], repeated to three channels and normalised as `backbone`'s
    ImageNet weights expect.
    """
    mean, std = ((0.5,) * 3, (0.5,) * 3) if backbone == 'inception_v3' else (MEAN, STD)
    return (image - jnp.asarray(mean).reshape(1, 1, 1, 3)) / jnp.asarray(std).reshape(1, 1, 1, 3)


class GreyStem(nnx.Module):
    """`[B, H, W, 1]` in [0, 1] -> what a three-channel convolution makes of the same image,
    repeated and normalised.

    `conv`: the convolution of one channel whose place this takes; `kernel` `[h, w, 3, features]`:
    the three channels'.
    """

    def __init__(self, conv, kernel, mean=MEAN, std=STD):
        kernel, mean, std = (np.asarray(x, np.float64) for x in (kernel, mean, std))
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
        for part, weight in ((self.conv, 1 / std), (self.offset, -mean / std)):
            part.kernel.set_value(
                jnp.asarray((kernel * weight[:, None]).sum(2, keepdims=True), jnp.float32)
            )

    def __call__(self, x):
        return self.conv(x) + self.offset(jnp.ones_like(x[:1]))
