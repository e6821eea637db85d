"""What XLA computes slowly on a CPU, computed otherwise there: the same values and gradients.

Other devices have XLA's own. `python -m benchmarks.convolutions` prints both beside PyTorch;
docs/results.md has the table.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import pooling
from boneage_jax.runtime import target

# Places of a map (20x20) from which kernel gradients are taken image by image: half the time; at
# 16x16 a tenth less.
LARGE = 400
# Channels below which a kernel's places, not its channels, stand side by side: an image's one
# channel.
FEW = 8
_ANY = 'any accelerator'


def counting():
    """What is traced within is what other devices compute.

    XLA's count of operations sees one turn of a loop, and nothing of a choice.
    """
    return target.compiling_for(_ANY)


def _elsewhere():
    return target.platform() != 'cpu'


def convolver(inputs: int, outputs: int, groups: int) -> Callable[..., jax.Array]:
    """What computes a convolution of `inputs` to `outputs` channels in `groups`.

    The function takes the arguments of lax.conv_general_dilated.
    """
    if groups == 1:
        return convolution
    if groups == inputs == outputs:
        return depthwise
    return jax.lax.conv_general_dilated


def convolution(x: jax.Array, kernel: jax.Array, strides, padding, **options) -> jax.Array:
    """lax.conv_general_dilated, ungrouped and undilated.

    1x1 is a matrix product, whose gradients take a third of the time. Kernel gradients of large
    maps, and with a stride those of images of one channel, are sums over images, whose shifted
    maps stay in the cache. That is for one device only: images of several would be gathered.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[m, n, C, D]`.
        strides: of rows and columns.
        padding: ((top, bottom), (left, right)).
        **options: of lax.conv_general_dilated.

    Returns:
        `[B, h, w, D]`.
    """

    def native(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    if _elsewhere():
        return native(x, kernel)
    size = kernel.shape[:2]
    if size == (1, 1) and not any(sum(pads) for pads in padding):
        return _product(x, kernel, strides)
    few = kernel.shape[2] < FEW
    places = x.shape[1] * x.shape[2]
    if places < LARGE or (not few and set(strides) != {1}) or jax.device_count() > 1:
        return native(x, kernel)

    def forward(x, kernel):
        return native(x, kernel), (x, kernel)

    def backward(saved, gradient):
        x, kernel = saved
        to_input = jax.linear_transpose(lambda x: native(x, kernel), x)
        if few:
            to_kernel = tap_by_tap(x, gradient, size, strides, padding)
        else:
            to_kernel = image_by_image(x, gradient, size, padding)
        return to_input(gradient)[0], to_kernel.astype(kernel.dtype)

    ours = jax.custom_vjp(native)
    ours.defvjp(forward, backward)
    return ours(x, kernel)


def _product(x, kernel, strides):
    x = x[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[3]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def image_by_image(x: jax.Array, gradient: jax.Array, size, padding) -> jax.Array:
    """The kernel's gradient `[m, n, C, D]` float32 of a convolution without stride.

    Args:
        x: the convolution's input `[B, H, W, C]`.
        gradient: its output's `[B, h, w, D]`.
        size: (rows, columns) of the kernel.
        padding: ((top, bottom), (left, right)).
    """
    rows, columns = size
    height, width, outputs = gradient.shape[1:]
    channels = x.shape[3]
    wide = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def add(total, pair):
        image, gradient = pair
        # An image's channels beside those of its neighbours in the row: [H, w, columns * C].
        shifted = jnp.concatenate([image[:, j : j + width] for j in range(columns)], -1)
        gradient = gradient.reshape(-1, outputs)
        products = []
        for i in range(rows):
            row = shifted[i : i + height].reshape(len(gradient), -1)
            # The gradient on the left: the other way round takes up to twice the time.
            products.append(
                jax.lax.dot_general(
                    gradient, row, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
                )
            )
        return total + jnp.stack(products), None

    start = jnp.zeros((rows, outputs, columns * channels), jnp.float32)
    total, _ = jax.lax.scan(add, start, (wide, gradient))
    return total.reshape(rows, -1, columns, channels).transpose(0, 2, 3, 1)


def tap_by_tap(x: jax.Array, gradient: jax.Array, size, strides, padding) -> jax.Array:
    """As `image_by_image`, for few channels and any stride.

    Each place of the kernel is a row of one matrix (7x7/2 of 96 px: 20 ms -> 9).
    """
    rows, columns = size
    channels = x.shape[3]
    outputs = gradient.shape[3]
    wide = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def add(total, pair):
        image, gradient = pair
        taps = []
        for _, _, part in _shifts(image[None], size, strides):
            for channel in range(channels):
                taps.append(part[0, :, :, channel])
        product = jnp.einsum(
            'thw,hwd->td', jnp.stack(taps), gradient, preferred_element_type=jnp.float32
        )
        return total + product, None

    start = jnp.zeros((rows * columns * channels, outputs), jnp.float32)
    total, _ = jax.lax.scan(add, start, (wide, gradient))
    return total.reshape(rows, columns, channels, -1)


def depthwise(x: jax.Array, kernel: jax.Array, strides, padding, **options) -> jax.Array:
    """lax.conv_general_dilated with one kernel for each channel, undilated.

    `x` is `[B, H, W, C]` and `kernel` `[m, n, 1, C]`. A sum of shifted products (a 3x3 of 144
    channels at 56x56: 4 ms on one core, its gradients 55 ms; XLA's 40 and 240).
    """
    if _elsewhere():
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    wide = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(jnp.float32)
    total = 0.0
    for i, j, part in _shifts(wide, kernel.shape[:2], strides):
        total += part * kernel[i, j].astype(jnp.float32)[None, None]
    return total.astype(x.dtype)


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Max-pool `[B, H, W, C]` -> `[B, h, w, C]` of `size` x `size`.

    Of equal pixels the first has the gradient. Maxima of shifted maps: forward and gradient take a
    sixth of the time of XLA's, whose gradient has one thread. Other devices: `pooling.max_pool`.
    """
    pads = ((padding, padding), (padding, padding))
    if target.platform() == _ANY:  # one operation, as whoever counts or exports wants it
        return nnx.max_pool(x, (size, size), strides=(stride, stride), padding=pads)
    if _elsewhere():
        return pooling.max_pool(x, size, stride, padding)
    wide = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    largest = None
    for _, _, part in _shifts(wide, (size, size), (stride, stride)):
        if largest is None:
            largest = part
        else:
            largest = jnp.where((largest >= part) | jnp.isnan(largest), largest, part)
    return largest


def _shifts(wide, size, strides):
    """`(i, j, [B, h, w, C])` for each place (i, j) of a window: the pixels that it meets."""
    batch, height, width, channels = wide.shape
    rows, columns = size
    down, right = strides
    last_row = down * ((height - rows) // down) + 1
    last_column = right * ((width - columns) // right) + 1
    for i in range(rows):
        for j in range(columns):
            stop = (batch, i + last_row, j + last_column, channels)
            yield i, j, jax.lax.slice(wide, (0, i, j, 0), stop, (1, down, right, 1))
