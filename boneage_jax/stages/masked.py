"""The classical hand mask as a stage: what it adds to a film."""

import numpy as np
from PIL import Image

from boneage_jax.preprocess import hand_mask

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
