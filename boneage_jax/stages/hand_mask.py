"""Hand masks by watershed as stages: from the image alone, or from another stage's mask."""

import numpy as np
from PIL import Image

from boneage_jax.preprocess import hand_mask, mask_checks
from tfds_rsna.errors import UserError

STORED_SIDE = 512  # pixels of a stored mask's longer side


def watershed_mask(example, **options):
    """`hand_mask` of `preprocess.hand_mask`, reduced to `STORED_SIDE`; a flag where the mask is
    doubtful.
    """
    found = hand_mask.mask_stage(example, **options)
    return {
        'hand_mask': _stored(found['hand_mask']),
        'inverted': np.bool_((found['image'] != example['image']).any()),
        'flags': 'mask_doubtful' if found['mask_doubts'] else '',
    }


def snapped_mask(example, **options):
    """`hand_mask` brought from the one that a stage before found to the skin; a flag where it is
    doubtful.
    """
    if 'hand_mask' not in example:
        raise UserError(
            f'snap: image {example.get("id", "")} has no hand_mask; put the stage unet or mask before this one'
        )
    mask = hand_mask.snapped(example['image'], example['hand_mask'], **options)
    return {
        'hand_mask': _stored(mask.astype(np.uint8)),
        'flags': 'mask_doubtful' if mask_checks.violations(mask) else '',
    }


def _stored(mask):
    """A mask [H, W] of 0 and 1 with at most `STORED_SIDE` pixels along its longer side."""
    factor = STORED_SIDE / max(mask.shape)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in mask.shape]
        mask = (
            np.asarray(
                Image.fromarray(mask * np.uint8(255)).resize(size[::-1], Image.Resampling.BOX)
            )
            >= 128
        )
    return mask.astype(np.uint8)
