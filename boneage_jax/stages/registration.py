"""Registration and regions as stages.

How an image was registered becomes a flag with the reasons, where it was not by its key points:
'registered_by_mask: thumb tip not found'.
"""

import numpy as np

from boneage_jax.preprocess import regions, transform
from boneage_jax.preprocess import register as register_lib
from boneage_jax.stages import plan


def register(example: dict, *, size: tuple[int, int]) -> dict:
    """The registered image of `size`, one resampling."""
    return _flagged(example, registered(example, size=tuple(size)))


def region(example: dict, *, region: str) -> dict:
    """One region of the registered hand, one resampling.

    `region` 'image' leaves the image as it is, not registered: what the paper compares registration
    with (its section 3).
    """
    if region == 'image':
        return example
    return _flagged(example, cut_region(example, region=region))


def _flagged(before, example):
    how = example.pop('registered')
    doubts = example.pop('doubts', '')
    example.pop('transform', None)
    flag = '' if how == 'keypoints' else f'registered_by_{how}: {doubts}'
    return example | {'flags': plan.join_flags(before, flag)}


def registered(example: dict, *, size: tuple[int, int] = register_lib.SIZE) -> dict:
    """An image dict -> the registered image of `size`, with all that moves with it.

    Adds `registered` (see `register.register`), `doubts` (why not by the key points, '' otherwise)
    and `transform` [3, 3].
    """
    onto, found = find_transform(example, size)
    return transform.transform_example(example, onto, size) | found


def cut_region(example: dict, *, region: str | regions.Region) -> dict:
    """An image dict -> one region of the hand, with all that moves with it.

    A native image is registered on the way, with the entries that `registered` adds. An image that
    was registered before (it has `registered`; any size with its aspect) is only cut.
    """
    window = regions.named(region)
    if 'registered' in example:
        found = {}
        onto = np.linalg.inv(transform.fit(register_lib.SIZE, example['image'].shape[:2]))
    else:
        onto, found = find_transform(example)
    return transform.transform_example(example, regions.cut(window) @ onto, window.output) | found


def find_transform(
    example: dict, size: tuple[int, int] = register_lib.SIZE
) -> tuple[np.ndarray, dict]:
    """The registration [3, 3] of an image dict, and its entries `registered` and `doubts`."""
    onto, how, reasons = register_lib.register(
        example['image'].shape[:2], example.get('keypoints'), example.get('hand_mask'), size
    )
    return onto, {'registered': how, 'doubts': ', '.join(reasons)}
