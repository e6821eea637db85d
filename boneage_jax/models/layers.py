"""What every network here is made of: convolutions, norms and pools with the initial values and
constants of torchvision.

Compute runs in `dtype` (bfloat16 on accelerators), parameters and batch statistics stay float32.
Padding is explicit and symmetric as in PyTorch (XLA's 'SAME' pads strided convolutions on one side
only), so that weights carry over.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from boneage_jax.models import cpu
from tfds_rsna.errors import UserError

kaiming_fan_out = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')
torch_default = jax.nn.initializers.variance_scaling(
    1 / 3, 'fan_in', 'uniform'
)  # of a convolution without a norm


def conv(
    inputs,
    outputs,
    size,
    *,
    stride=1,
    padding=None,
    groups=1,
    bias=False,
    init=kaiming_fan_out,
    dtype=None,
    rngs,
):
    """A convolution `[B, H, W, inputs]` -> `[B, h, w, outputs]`; `size` is one odd number or (rows,
    columns).

    `padding`: zeros on each side, the half of `size` unless given, which makes h = ceil(H /
    stride).
    """
    size = (size, size) if isinstance(size, int) else size
    pads = tuple((n // 2 if padding is None else padding,) * 2 for n in size)
    return nnx.Conv(
        inputs,
        outputs,
        size,
        strides=stride,
        padding=pads,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=init,
        conv_general_dilated=cpu.convolver(inputs, outputs, groups),
        dtype=dtype,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def norm(features, *, epsilon=1e-5, dtype=None, rngs):
    """Batch normalisation over the *global* batch. Flax's momentum .9 is PyTorch's .1; the running
    variance is the biased one.
    """
    return nnx.BatchNorm(
        features, momentum=0.9, epsilon=epsilon, dtype=dtype, param_dtype=jnp.float32, rngs=rngs
    )


def linear(inputs, outputs, *, init=nnx.nn.linear.default_kernel_init, dtype=None, rngs):
    """A dense layer. Without `dtype` it computes in full float32 on every device: the age's last
    digit is a month.
    """
    precision = jax.lax.Precision.HIGHEST if dtype is None else None
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=init,
        dtype=dtype,
        param_dtype=jnp.float32,
        precision=precision,
        rngs=rngs,
    )


def max_pool_3x3(x):
    """3x3 max-pool, stride 2, padded by one: the stem of the ImageNet ResNets."""
    return cpu.max_pool(x, 3, 2, padding=1)


def global_average_pool(x):
    """`[B, H, W, C]` -> `[B, C]` float32: the mean is taken in full precision."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def average_pool_to(x, side):
    """`[B, H, W, C]` -> `[B, side, side, C]` float32 for any H, W: PyTorch's AdaptiveAvgPool2d.

    Place i averages the rows floor(i H / side) up to ceil((i + 1) H / side): neighbours share rows
    where `side` does not divide H, and repeat them where H is smaller.
    """
    weights = []
    for n in x.shape[1:3]:
        low, high = np.arange(side) * n // side, -(-np.arange(1, side + 1) * n // side)
        inside = (np.arange(n) >= low[:, None]) & (np.arange(n) < high[:, None])
        weights.append((inside / inside.sum(1, keepdims=True)).astype(np.float32))
    return jnp.einsum(
        'ih,jw,bhwc->bijc', *weights, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )


def require_input(x, channels, smallest_side, network):
    """Raises UserError for images `[B, H, W, C]` that have other channels or a smaller side than
    `network` takes.
    """
    if x.ndim != 4 or x.shape[3] != channels:
        raise UserError(
            f'this {network} takes images [B, H, W, {channels}], found {list(x.shape)}; '
            'build it with channels= their number'
        )
    if min(x.shape[1:3]) < smallest_side:
        raise UserError(
            f'{network} takes images of at least {smallest_side} pixels a side, '
            f'found {x.shape[1]}x{x.shape[2]}; set data.size'
        )


def require_stem(stem):
    """Raises UserError for a stem that no backbone knows."""
    if stem not in ('imagenet', 'small'):
        raise UserError(f"stem={stem!r}: expected 'imagenet' or 'small'")


def standardise(image, how):
    """Images `[B, H, W, 1]` in [0, 1] -> network input.

    `image`: each image to mean 0 and deviation 1, which takes exposure out (RSNA has images ten
    times darker than others);
    `fixed`: (x - 0.5) / 0.25; `range`: 2 x - 1, which is (g - 127.5) / 127.5 of grey values g.
    """
    if how == 'range':
        return 2.0 * image - 1.0
    if how == 'fixed':
        return (image - 0.5) / 0.25
    if how != 'image':
        raise UserError(f"standardise={how!r}: expected 'image', 'fixed' or 'range'")
    mean = jnp.mean(image, axis=(1, 2, 3), keepdims=True)
    deviation = jnp.std(image, axis=(1, 2, 3), keepdims=True)
    return (image - mean) / jnp.maximum(deviation, 1e-3)
