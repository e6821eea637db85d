"""What every network here is made of: convolutions and norms with the initial values and constants of torchvision.

Compute runs in `dtype` (bfloat16 on accelerators), parameters and batch statistics stay float32. Padding is explicit and
symmetric as in PyTorch (XLA's 'SAME' pads strided convolutions on one side only), so that weights carry over.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from tfds_rsna.errors import UserError

kaiming_fan_out = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')
torch_default = jax.nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # of a convolution without a norm


def conv(inputs, outputs, size, *, stride=1, bias=False, init=kaiming_fan_out, dtype=None, rngs):
    """A convolution `[B, H, W, inputs]` -> `[B, ceil(H/stride), ceil(W/stride), outputs]`, odd `size`, zero padding."""
    return nnx.Conv(inputs, outputs, (size, size), strides=stride, padding=size // 2, use_bias=bias,
                    kernel_init=init, dtype=dtype, param_dtype=jnp.float32, rngs=rngs)


def norm(features, *, dtype=None, rngs):
    """Batch normalisation over the *global* batch. Flax's momentum .9 is PyTorch's .1; the running variance is the biased one."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, dtype=dtype, param_dtype=jnp.float32, rngs=rngs)


def linear(inputs, outputs, *, dtype=None, rngs):
    """A dense layer. Without `dtype` it computes in full float32 on every device: the age's last digit is a month."""
    precision = jax.lax.Precision.HIGHEST if dtype is None else None
    return nnx.Linear(inputs, outputs, dtype=dtype, param_dtype=jnp.float32, precision=precision, rngs=rngs)


def max_pool_3x3(x):
    """3x3 max-pool, stride 2, padded by one: the stem of the ImageNet ResNets."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def global_average_pool(x):
    """`[B, H, W, C]` -> `[B, C]` float32: the mean is taken in full precision."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def standardise(image, how):
    """Films `[B, H, W, 1]` in [0, 1] -> network input.

    `film`: each film to mean 0 and deviation 1, which takes exposure out (RSNA has films ten times darker than others);
    `fixed`: (x - 0.5) / 0.25.
    """
    if how == 'fixed':
        return (image - 0.5) / 0.25
    if how != 'film':
        raise UserError(f"standardise={how!r}: expected 'film' or 'fixed'")
    mean = jnp.mean(image, axis=(1, 2, 3), keepdims=True)
    deviation = jnp.std(image, axis=(1, 2, 3), keepdims=True)
    return (image - mean) / jnp.maximum(deviation, 1e-3)
