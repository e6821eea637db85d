"""A network's masks, and how far they hold when the image is turned: the review by views."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from boneage_jax.preprocess import hand_mask, mask_checks

# of the largest component's area, from which on a second piece makes a prediction doubtful: the
# letters of markers are smaller, and are gone once the largest component is kept
PIECE = 0.1


def masks(predictor: Callable, images: np.ndarray) -> list[dict]:
    """The mask of each image by the mean over its views, and the view that is most unlike it.

    The views are the image and the image turned by 180 degrees, which shifts no pixel: a network
    that is sure of a hand finds the same hand in both.

    Args:
        predictor: images -> (logits [N, H, W], ...).
        images: uint8 [N, H, W, 1].

    Returns:
        Dicts with `hand_mask` uint8 [H, W], `pieces` (see `component`), and `other_view`, the
        largest component of the least alike view, uint8 [H, W].
    """
    upright, _ = predictor(images)
    turned, _ = predictor(np.ascontiguousarray(_turned(images)))
    found = []
    for logits in zip(upright, _turned(turned)):
        kept = component(np.mean(logits, axis=0) > 0)
        others = [hand_mask.largest_component(logit > 0) for logit in logits]
        alike = [mask_checks.iou(kept['hand_mask'], other) for other in others]
        kept['other_view'] = others[int(np.argmin(alike))].astype(np.uint8)
        found.append(kept)
    return found


def component(predicted: np.ndarray) -> dict:
    """What is kept of a predicted mask [H, W]: its largest component, and its number of pieces.

    Pieces are those that are large beside it.
    """
    mask = hand_mask.largest_component(predicted)
    labels, _ = ndimage.label(predicted, structure=np.ones((3, 3)))
    pieces = int((np.bincount(labels.ravel())[1:] > PIECE * mask.sum()).sum())
    return {'hand_mask': mask.astype(np.uint8), 'pieces': np.int32(pieces)}


def _turned(images):
    """[N, H, W, ...] turned by 180 degrees; its own inverse."""
    return images[:, ::-1, ::-1]
