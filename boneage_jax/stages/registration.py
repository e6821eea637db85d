"""Registration and regions as stages: how an image was registered becomes a flag, the one text that
records keep.
"""

from boneage_jax.preprocess import regions
from boneage_jax.preprocess import register as register_lib
from boneage_jax.stages import plan


def register(example, *, size):
    return _flagged(example, register_lib.register_stage(example, size=tuple(size)))


def region(example, *, region):
    """`region` 'image' leaves the image as it lies: what the paper compares registration with (its
    section 3).
    """
    if region == 'image':
        return example
    return _flagged(example, regions.region_stage(example, region=region))


def _flagged(before, example):
    """How the image was registered as a flag, where it was not by its key points; records keep no
    other text.
    """
    how = example.pop('registered')
    example.pop('doubts', None)
    example.pop('transform', None)
    return example | {
        'flags': plan.join_flags(before, '' if how == 'keypoints' else f'registered_by_{how}')
    }
