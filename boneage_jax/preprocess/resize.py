"""An image at the size that a network sees, its masks, points and boxes carried along."""

import numpy as np
from PIL import Image


def inner(shape, size, fit):
    """(rows, columns) that an image of `shape` takes of `size`, and (row, column) where it begins
    there.
    """
    rows, columns = size
    if fit == 'pad':
        factor = min(rows / shape[0], columns / shape[1])
        taken = (
            min(rows, max(1, round(shape[0] * factor))),
            min(columns, max(1, round(shape[1] * factor))),
        )
    else:
        taken = (rows, columns)
    return taken, ((rows - taken[0]) // 2, (columns - taken[1]) // 2)


def resize(example, size, fit):
    """The image at `size` (rows, columns): images `[rows, columns, 1]`, points and boxes carried
    along.

    `pad` keeps the aspect ratio, centres the image and fills with zeros; `stretch` stretches it.
    Images are averaged down (antialiased bilinear), masks take the nearest pixel; an image that has
    the size already is left untouched. Pixel (r, c) has its centre at (r, c), so a point moves as
    (p + 1/2) scale - 1/2 + offset. An image that was stretched before it came here says so in
    `native_shape` (rows, columns): `pad` gives it that aspect ratio back.
    """
    rows, columns = size
    height, width = example['image'].shape[:2]
    example = dict(example)
    taken, offset = inner(example.pop('native_shape', (height, width)), size, fit)
    scale = np.array([taken[0] / height, taken[1] / width], np.float32)
    for name, method in (
        ('image', Image.Resampling.BILINEAR),
        ('hand_mask', Image.Resampling.NEAREST),
    ):
        if name in example:
            pixels = example[name]
            if pixels.shape[:2] != taken:
                gap = 3.0 if name == 'image' else None
                pixels = np.asarray(
                    Image.fromarray(pixels).resize(taken[::-1], method, reducing_gap=gap)
                )
            canvas = np.zeros((rows, columns, 1), np.uint8)
            canvas[offset[0] : offset[0] + taken[0], offset[1] : offset[1] + taken[1], 0] = pixels
            example[name] = canvas
    for name in ('keypoints', 'coco_keypoints', 'bone_boxes'):
        if name in example:
            points = np.asarray(example[name], np.float32)
            moved = (points.reshape(-1, 2) + 0.5) * scale - 0.5 + np.array(offset, np.float32)
            example[name] = moved.reshape(points.shape).astype(np.float32)
    return example


def resize_stage(example, size, fit):
    """`resize` in the middle of other stages, where images are `[rows, columns]`."""
    example = resize(example, size, fit)
    return example | {
        name: example[name][..., 0] for name in ('image', 'hand_mask') if name in example
    }


def aspect_stage(example, *, ratio):
    """The image stretched to rows = `ratio` x columns, its columns as they are: for images whose
    aspect was lost.
    """
    size = (max(1, round(ratio * example['image'].shape[1])), example['image'].shape[1])
    return resize_stage(example, size, 'stretch')


def restore_points(points, shape, size, fit):
    """The inverse for points (row, column) `[..., 2]`: from the resized image to pixels of the
    image of `shape`.
    """
    taken, offset = inner(shape, size, fit)
    scale = np.array([taken[0] / shape[0], taken[1] / shape[1]], np.float32)
    return (
        (np.asarray(points, np.float32) - np.array(offset, np.float32) + 0.5) / scale - 0.5
    ).astype(np.float32)


def uncovered(pixels, shape, fit):
    """`[rows, columns]` of a resized image without the padding: what the image of `shape` covered."""
    taken, offset = inner(shape, pixels.shape[:2], fit)
    return pixels[offset[0] : offset[0] + taken[0], offset[1] : offset[1] + taken[1]]
