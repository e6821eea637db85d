"""Hand masks by watershed as stages: from the image alone, or from another stage's mask."""

import numpy as np
from PIL import Image

from boneage_jax.preprocess import hand_mask, mask_checks
from tfds_rsna.errors import UserError

STORED_SIDE = 512  # pixels of a stored mask's longer side


def watershed_mask(example: dict, *, on_doubt: str, positive: bool) -> dict:
    """`hand_mask` of `preprocess.hand_mask`, reduced to `STORED_SIDE`, `inverted` and `flags`.

    Args:
        example: with `image` uint8 [H, W].
        on_doubt: 'flag' keeps a doubtful mask and adds the flag 'mask_doubtful'; 'whole' takes the
            whole image instead; 'error' refuses the image. An empty mask is refused unless 'whole'.
        positive: whether an image found to be inverted (hand darker than its ground) is turned.

    Raises:
        UserError: as said, or as `classical_steps`; names the image.
    """
    if on_doubt not in ('flag', 'whole', 'error'):
        raise UserError(f"mask stage: on_doubt={on_doubt!r}; known: 'flag', 'whole', 'error'")
    name = example.get('id', '')
    try:
        steps = hand_mask.classical_steps(example['image'])
    except UserError as error:
        raise UserError(f'image {name}: {error}') from error
    mask = steps.mask
    doubts = hand_mask.doubts(steps)
    if doubts and on_doubt == 'whole':
        mask = np.ones_like(mask)
    elif doubts and (on_doubt == 'error' or not mask.any()):
        raise UserError(
            f'image {name}: no hand that could be trusted ({"; ".join(doubts)}). Look at the '
            "image; stage option on_doubt='whole' takes such images as they are"
        )
    return {
        'hand_mask': _stored(mask),
        'inverted': np.bool_(positive and steps.inverted),
        'flags': 'mask_doubtful' if doubts else '',
    }


def snapped_mask(example: dict, *, inner: float, outer: float) -> dict:
    """`hand_mask` brought from the one that a stage before found to the skin, and `flags`.

    A doubtful one gets the flag 'mask_doubtful'; options as `preprocess.hand_mask.snapped`.
    """
    if 'hand_mask' not in example:
        raise UserError(
            f'snap: image {example.get("id", "")} has no hand_mask; put the stage unet or mask '
            'before this one'
        )
    mask = hand_mask.snapped(example['image'], example['hand_mask'], inner=inner, outer=outer)
    return {
        'hand_mask': _stored(mask),
        'flags': 'mask_doubtful' if mask_checks.violations(mask) else '',
    }


def _stored(mask):
    """A mask bool [H, W] as uint8 with at most `STORED_SIDE` pixels along its longer side."""
    factor = STORED_SIDE / max(mask.shape)
    if factor < 1:
        rows, columns = (max(1, round(side * factor)) for side in mask.shape)
        grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
        mask = np.asarray(grey.resize((columns, rows), Image.Resampling.BOX)) >= 128
    return mask.astype(np.uint8)
