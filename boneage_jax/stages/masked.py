"""Preprocessing functions as stages: what they add to a film, in the few words that records keep (`flags`)."""

import numpy as np
from PIL import Image

from boneage_jax.preprocess import hand_mask, regions
from boneage_jax.preprocess import register as register_lib

STORED_SIDE = 512  # pixels of a stored mask's longer side


def classical(film, **options):
    """`hand_mask` of `preprocess.hand_mask`, reduced to `STORED_SIDE`; a flag where the mask is doubtful."""
    found = hand_mask.mask_stage(film, **options)
    mask = found['hand_mask']
    factor = STORED_SIDE / max(mask.shape)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in mask.shape]
        mask = np.asarray(Image.fromarray(mask * np.uint8(255)).resize(size[::-1], Image.Resampling.BOX)) >= 128
    return {'hand_mask': mask.astype(np.uint8), 'inverted': np.bool_((found['image'] != film['image']).any()),
            'flags': 'mask_doubtful' if found['mask_doubts'] else ''}


def register(film, *, size):
    return _flagged(film, register_lib.register_stage(film, size=tuple(size)))


def region(film, *, region):
    return _flagged(film, regions.region_stage(film, region=region))


def _flagged(before, film):
    """How the film was registered as a flag, where it was not by its key points; records keep no other text."""
    how = film.pop('registered')
    film.pop('doubts', None)
    film.pop('transform', None)
    flags = [flag for flag in (before.get('flags', ''), '' if how == 'keypoints' else f'registered_by_{how}') if flag]
    return film | {'flags': ';'.join(flags)}
