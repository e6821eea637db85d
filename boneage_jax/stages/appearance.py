"""Stages that change what an image looks like or how much of it there is: no hand is looked for."""

import numpy as np

from boneage_jax.preprocess import contrast as contrast_lib
from boneage_jax.preprocess import enhance as enhance_lib
from boneage_jax.preprocess import hand_mask
from boneage_jax.preprocess import resize as resize_lib
from boneage_jax.preprocess import transform as transforms
from tfds_rsna.errors import UserError


def contrast(example: dict, **options) -> dict:
    """The image with the contrast of its hand normalised; options as `contrast.stretch`.

    Raises:
        UserError: it has no mask (the mask stage comes first), or as `stretch`; names the image.
    """
    mask = _mask(example, 'contrast')
    try:
        image = contrast_lib.stretch(example['image'], mask, **options)
    except UserError as error:
        raise UserError(f'image {example.get("id", "")}: {error}') from error
    return example | {'image': image}


def enhance(example: dict, **options) -> dict:
    """The image enhanced; options as `enhance.enhance`."""
    return example | {'image': enhance_lib.enhance(example['image'], **options)}


def crop(example: dict, *, margin: float, mask: bool) -> dict:
    """The image cut to the box of its hand.

    Args:
        example: with `image` and `hand_mask` uint8 [H, W].
        margin: around the box, a share of its longer side.
        mask: whether the background becomes 0 first.

    Raises:
        UserError: there is no mask or an empty one; names the image.
    """
    hand = _mask(example, 'crop')
    try:
        top, left, bottom, right = hand_mask.bounds(hand, margin)
    except UserError as error:
        raise UserError(f'image {example.get("id", "")}: {error}') from error
    if mask:
        image = np.where(hand > 0, example['image'], 0).astype(np.uint8)
        example = example | {'image': image}

    def cut(pixels):
        return np.ascontiguousarray(pixels[top:bottom, left:right])

    def move(points):
        points = np.asarray(points, np.float32)
        moved = points.reshape(-1, 2) - np.array([top, left], np.float32)
        return moved.reshape(points.shape)

    return transforms.move_example(example, image=cut, mask=cut, points=move, boxes=move)


def resize(example: dict, size: tuple[int, int], fit: str) -> dict:
    """The image at `size` in the middle of other stages, where images are `[rows, columns]`."""
    example = resize_lib.resize(example, size, fit)
    for name in ('image', 'hand_mask'):
        if name in example:
            example[name] = example[name][..., 0]
    return example


def aspect(example: dict, *, ratio: float) -> dict:
    """The image stretched to rows = `ratio` x columns, for images whose aspect ratio was lost.

    Its columns stay as they are.
    """
    columns = example['image'].shape[1]
    return resize(example, (max(1, round(ratio * columns)), columns), 'stretch')


def _mask(example, stage):
    """The image's mask; all of an image on which a network found no hand, as its flag says."""
    if 'hand_mask' not in example:
        raise UserError(
            f'{stage}: image {example.get("id", "")} has no hand_mask; put the mask stage before '
            'this one'
        )
    mask = example['hand_mask']
    if not mask.any() and 'no_hand' in example.get('flags', '').split(';'):
        return np.ones_like(mask)
    return mask
