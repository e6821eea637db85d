"""A film at the size that a network sees, its masks, points and boxes carried along."""

import numpy as np
from PIL import Image


def inner(shape, size, fit):
    """(rows, columns) that a film of `shape` takes of `size`, and (row, column) where it begins there."""
    rows, columns = size
    if fit == 'pad':
        factor = min(rows / shape[0], columns / shape[1])
        taken = (min(rows, max(1, round(shape[0] * factor))), min(columns, max(1, round(shape[1] * factor))))
    else:
        taken = (rows, columns)
    return taken, ((rows - taken[0]) // 2, (columns - taken[1]) // 2)


def resize(film, size, fit):
    """The film at `size` (rows, columns): images `[rows, columns, 1]`, points and boxes carried along.

    `pad` keeps the aspect ratio, centres the film and fills with zeros; `squash` stretches it. Images are averaged
    down (antialiased bilinear), masks take the nearest pixel; a film that has the size already is left untouched.
    Pixel (r, c) has its centre at (r, c), so a point moves as (p + 1/2) scale - 1/2 + offset. A film that was stretched
    before it came here says so in `native_shape` (rows, columns): `pad` gives it that aspect ratio back.
    """
    rows, columns = size
    height, width = film['image'].shape[:2]
    film = dict(film)
    taken, offset = inner(film.pop('native_shape', (height, width)), size, fit)
    scale = np.array([taken[0] / height, taken[1] / width], np.float32)
    for name, method in (('image', Image.Resampling.BILINEAR), ('hand_mask', Image.Resampling.NEAREST)):
        if name in film:
            pixels = film[name]
            if pixels.shape[:2] != taken:
                gap = 3.0 if name == 'image' else None
                pixels = np.asarray(Image.fromarray(pixels).resize(taken[::-1], method, reducing_gap=gap))
            canvas = np.zeros((rows, columns, 1), np.uint8)
            canvas[offset[0]:offset[0] + taken[0], offset[1]:offset[1] + taken[1], 0] = pixels
            film[name] = canvas
    for name in ('keypoints', 'coco_keypoints', 'bone_boxes'):
        if name in film:
            points = np.asarray(film[name], np.float32)
            moved = (points.reshape(-1, 2) + 0.5) * scale - 0.5 + np.array(offset, np.float32)
            film[name] = moved.reshape(points.shape).astype(np.float32)
    return film


def resize_stage(film, size, fit):
    """`resize` in the middle of other stages, where images are `[rows, columns]`."""
    film = resize(film, size, fit)
    return film | {name: film[name][..., 0] for name in ('image', 'hand_mask') if name in film}


def aspect_stage(film, *, ratio):
    """The film stretched to rows = `ratio` x columns, its columns as they are: for films whose aspect was lost."""
    size = (max(1, round(ratio * film['image'].shape[1])), film['image'].shape[1])
    return resize_stage(film, size, 'squash')


def restore_points(points, shape, size, fit):
    """The inverse for points (row, column) `[..., 2]`: from the resized film to pixels of the film of `shape`."""
    taken, offset = inner(shape, size, fit)
    scale = np.array([taken[0] / shape[0], taken[1] / shape[1]], np.float32)
    return ((np.asarray(points, np.float32) - np.array(offset, np.float32) + 0.5) / scale - 0.5).astype(np.float32)


def uncovered(pixels, shape, fit):
    """`[rows, columns]` of a resized film without the padding: what the film of `shape` covered."""
    taken, offset = inner(shape, pixels.shape[:2], fit)
    return pixels[offset[0]:offset[0] + taken[0], offset[1]:offset[1] + taken[1]]
