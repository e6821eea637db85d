"""What XLA computes slowly on a CPU, computed otherwise there: the same values, the same gradients.
Other devices have XLA's own.

`python -m benchmarks.convolutions` prints both beside PyTorch; docs/results.md has the table.
"""

import contextlib
import contextvars

import jax
import jax.numpy as jnp
from flax import nnx

# places of a map (20x20) from which kernel gradients are taken image by image: half the time; at
# 16x16 a tenth less
LARGE = 400
# channels below which a kernel's places, not its channels, stand side by side: an image's one
# channel
FEW = 8

_counting = contextvars.ContextVar('counting', default=False)


@contextlib.contextmanager
def counting():
    """What is traced within is what other devices compute: XLA counts one turn of a loop, and
    nothing of a choice.
    """
    token = _counting.set(True)
    try:
        yield
    finally:
        _counting.reset(token)


def _elsewhere():
    return _counting.get() or jax.default_backend() != 'cpu'


def convolver(inputs, outputs, groups):
    """What computes a convolution of `inputs` to `outputs` channels in `groups`: a function with
    lax.conv_general_dilated's arguments.
    """
    if groups == 1:
        return convolution
    return depthwise if groups == inputs == outputs else jax.lax.conv_general_dilated


def convolution(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated, ungrouped and undilated: `[B, H, W, C]` and `[m, n, C, D]` -> `[B,
    h, w, D]`.

    1x1 is a matrix product (its gradients take a third of the time). Kernel gradients of large
    maps, of images of one channel also with a stride, are sums over images, whose shifted maps stay
    in the cache: on one device only, since images of several would be gathered.
    """

    def native(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    size, places = kernel.shape[:2], x.shape[1] * x.shape[2]
    if _elsewhere():
        return native(x, kernel)
    if size == (1, 1) and not any(sum(pads) for pads in padding):
        return _product(x, kernel, strides)
    few = kernel.shape[2] < FEW
    if places < LARGE or (not few and set(strides) != {1}) or jax.device_count() > 1:
        return native(x, kernel)

    def backward(saved, gradient):
        x, kernel = saved
        to_input = jax.linear_transpose(lambda x: native(x, kernel), x)
        to_kernel = (
            tap_by_tap(x, gradient, size, strides, padding)
            if few
            else image_by_image(x, gradient, size, padding)
        )
        return to_input(gradient)[0], to_kernel.astype(kernel.dtype)

    ours = jax.custom_vjp(native)
    ours.defvjp(lambda x, kernel: (native(x, kernel), (x, kernel)), backward)
    return ours(x, kernel)


def _product(x, kernel, strides):
    x = x[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[3]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def image_by_image(x, gradient, size, padding):
    """The kernel's gradient `[m, n, C, D]` float32 of a convolution without stride; `gradient` `[B,
    h, w, D]` is its output's.
    """
    (rows, columns), places = size, gradient.shape[1:3]
    wide = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def add(total, image):
        image, gradient = image
        shifted = jnp.concatenate([image[:, j : j + places[1]] for j in range(columns)], -1)
        gradient = gradient.reshape(-1, gradient.shape[2])
        return (
            total
            + jnp.stack(
                [  # the gradient on the left: the other way round takes up to twice the time
                    jax.lax.dot_general(
                        gradient,
                        shifted[i : i + places[0]].reshape(len(gradient), -1),
                        (((0,), (0,)), ((), ())),
                        preferred_element_type=jnp.float32,
                    )
                    for i in range(rows)
                ]
            ),
            None,
        )

    start = jnp.zeros((rows, gradient.shape[3], columns * x.shape[3]), jnp.float32)
    total = jax.lax.scan(add, start, (wide, gradient))[0]
    return total.reshape(rows, -1, columns, x.shape[3]).transpose(0, 2, 3, 1)


def tap_by_tap(x, gradient, size, strides, padding):
    """As `image_by_image`, for few channels and any stride: a row for each place of the kernel
    (7x7/2 of 96 px: 20 ms -> 9).
    """
    wide, channels = jnp.pad(x, ((0, 0), *padding, (0, 0))), x.shape[3]

    def add(total, image):
        image, gradient = image
        parts = [part[0] for _, _, part in _shifts(image[None], size, strides)]
        taps = jnp.stack([part[:, :, channel] for part in parts for channel in range(channels)])
        return total + jnp.einsum(
            'thw,hwd->td', taps, gradient, preferred_element_type=jnp.float32
        ), None

    start = jnp.zeros((size[0] * size[1] * channels, gradient.shape[3]), jnp.float32)
    return jax.lax.scan(add, start, (wide, gradient))[0].reshape(*size, channels, -1)


def depthwise(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated with one kernel for each channel, `[B, H, W, C]` and `[m, n, 1, C]`,
    undilated.

    A sum of shifted products (a 3x3 of 144 channels at 56x56: 4 ms on one core, its gradients 55
    ms; XLA's 40 and 240).
    """
    if _elsewhere():
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    wide = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(jnp.float32)
    total = 0.0
    for i, j, part in _shifts(wide, kernel.shape[:2], strides):
        total += part * kernel[i, j].astype(jnp.float32)[None, None]
    return total.astype(x.dtype)


def max_pool(x, size, stride, padding=0):
    """Max-pool `[B, H, W, C]` -> `[B, h, w, C]` of `size` x `size`; of equal pixels the first has
    the gradient.

    Maxima of shifted maps: forward and gradient take a sixth of the time of XLA's, whose gradient
    has one thread.
    """
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    if _elsewhere():
        return nnx.max_pool(x, (size, size), strides=(stride, stride), padding=pads[1:3])
    wide, largest = jnp.pad(x, pads, constant_values=-jnp.inf), None
    for _, _, part in _shifts(wide, (size, size), (stride, stride)):
        largest = (
            part
            if largest is None
            else jnp.where((largest >= part) | jnp.isnan(largest), largest, part)
        )
    return largest


def _shifts(wide, size, strides):
    """`(i, j, [B, h, w, C])`: the pixels of `wide` that place (i, j) of a window meets, window by
    window.
    """
    counts = [
        (side - window) // stride for side, window, stride in zip(wide.shape[1:3], size, strides)
    ]
    for i in range(size[0]):
        for j in range(size[1]):
            last = [
                start + stride * count + 1 for start, stride, count in zip((i, j), strides, counts)
            ]
            yield (
                i,
                j,
                jax.lax.slice(
                    wide, (0, i, j, 0), (wide.shape[0], *last, wide.shape[3]), (1, *strides, 1)
                ),
            )
