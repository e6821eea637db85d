"""Convolutions, norms and pools with the initial values and constants of torchvision.

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
# PyTorch's own, of a convolution without a norm
torch_default = jax.nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
SEX_FEATURES = 2  # of `one_hot_sex`


def conv(
    inputs: int,
    outputs: int,
    size: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | str | None = None,
    groups: int = 1,
    bias: bool = False,
    init: nnx.Initializer = kaiming_fan_out,
    dtype=None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution `[B, H, W, inputs]` -> `[B, h, w, outputs]`.

    Args:
        inputs: channels read.
        outputs: channels made.
        size: side of the kernel, one odd number or (rows, columns).
        stride: rows and columns alike.
        padding: zeros on each side; unless given the half of `size`, which makes h = ceil(H /
            stride). 'SAME' makes that too, with as few zeros as it takes, the odd one at the end,
            as TensorFlow pads.
        groups: of channels that are convolved apart.
        bias: whether it adds one.
        init: draws the kernel.
        dtype: of computing; parameters are float32.
        rngs: where the parameters are drawn from.
    """
    if isinstance(size, int):
        size = (size, size)
    pads = padding
    if padding is None:
        pads = tuple((side // 2, side // 2) for side in size)
    elif not isinstance(padding, str):
        pads = tuple((padding, padding) for _ in size)
    return nnx.Conv(
        inputs,
        outputs,
        size,
        strides=stride,
        padding=pads,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=init,
        conv_general_dilated=_with_pads(cpu.convolver(inputs, outputs, groups)),
        dtype=dtype,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def _with_pads(convolve):
    """`convolve` for padding by name too, which depends on the size of the images."""

    def call(x, kernel, strides, padding, **options):
        if isinstance(padding, str):
            padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        return convolve(x, kernel, strides, padding, **options)

    return call


def norm(features: int, *, epsilon: float = 1e-5, dtype=None, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch normalisation over the *global* batch.

    Flax's momentum .9 is PyTorch's .1. The running variance is the biased one.
    """
    return nnx.BatchNorm(
        features, momentum=0.9, epsilon=epsilon, dtype=dtype, param_dtype=jnp.float32, rngs=rngs
    )


def linear(
    inputs: int,
    outputs: int,
    *,
    init: nnx.Initializer = nnx.nn.linear.default_kernel_init,
    dtype=None,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A dense layer `[..., inputs]` -> `[..., outputs]`.

    Without `dtype` it computes in full float32 on every device: the age's last digit is a month.
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


def one_hot_sex(male: jax.Array) -> jax.Array:
    """`[B]` bool -> `[B, SEX_FEATURES]` float32: what a network reads of the sex."""
    return jax.nn.one_hot(male.astype(jnp.int32), SEX_FEATURES)


def join_sex(features: jax.Array, branch: nnx.Linear | None, male: jax.Array) -> jax.Array:
    """Features `[B, F]` and, behind them, what a dense layer (ReLU) makes of the sex `[B]`.

    Without a `branch` they stay as they are.
    """
    if branch is None:
        return features
    return jnp.concatenate([features, jax.nn.relu(branch(one_hot_sex(male)))], axis=1)


def cast(x: jax.Array, dtype) -> jax.Array:
    """`x` in the compute type `dtype`; None leaves it as it is."""
    return x if dtype is None else x.astype(dtype)


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3x3 max-pool, stride 2, padded by one: the stem of the ImageNet ResNets."""
    return cpu.max_pool(x, 3, 2, padding=1)


def global_average_pool(x: jax.Array) -> jax.Array:
    """`[B, H, W, C]` -> `[B, C]` float32: the mean is taken in full precision."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def average_pool_to(x: jax.Array, side: int) -> jax.Array:
    """`[B, H, W, C]` -> `[B, side, side, C]` float32 for any H, W: PyTorch's AdaptiveAvgPool2d.

    Place i averages the rows floor(i H / side) up to ceil((i + 1) H / side): neighbours share rows
    where `side` does not divide H, and repeat them where H is smaller.
    """
    weights = []
    for n in x.shape[1:3]:
        low = np.arange(side) * n // side
        high = -(-np.arange(1, side + 1) * n // side)
        inside = (np.arange(n) >= low[:, None]) & (np.arange(n) < high[:, None])
        weights.append((inside / inside.sum(1, keepdims=True)).astype(np.float32))
    return jnp.einsum(
        'ih,jw,bhwc->bijc', *weights, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )


def require_input(x: jax.Array, channels: int, smallest_side: int, network: str) -> None:
    """Raises UserError for images `[B, H, W, C]` that a network does not take.

    Args:
        x: the images.
        channels: that the network takes.
        smallest_side: fewest pixels a side.
        network: its name, for the message.
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


def require_size(image: jax.Array, size: tuple[int, int], network: str) -> None:
    """Raises UserError for images `[B, H, W, C]` that are not of `size`, which `network` needs."""
    if image.shape[1:3] != size:
        raise UserError(
            f'this {network} takes images of {size[0]}x{size[1]}, found '
            f'{image.shape[1]}x{image.shape[2]}; give it images of data.size'
        )


def require_stem(stem: str) -> None:
    """Raises UserError for a stem that no backbone knows."""
    if stem not in ('imagenet', 'small'):
        raise UserError(f"stem={stem!r}: expected 'imagenet' or 'small'")


def standardise(image: jax.Array, how: str) -> jax.Array:
    """Images `[B, H, W, 1]` in [0, 1] -> network input.

    - `image`: each image to mean 0 and deviation 1. That takes exposure out (RSNA has radiographs
      ten times darker than others).
    - `fixed`: (x - 0.5) / 0.25.
    - `range`: 2 x - 1, which is (g - 127.5) / 127.5 of grey values g.
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
