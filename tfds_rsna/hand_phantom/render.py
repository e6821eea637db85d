"""One phantom image: from (seed, index) to image, mask, key points, boxes, age and sex."""

import numpy as np

from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom import exposure, raster, schedule
from tfds_rsna.hand_phantom.anatomy import boxes, hand
from tfds_rsna.hand_phantom.marker import mark

# Attenuation per hand unit (an adult's 190 mm); of bone what is in excess of flesh.
_FLESH = 4.8
_BONE = 15.0
# Shares of the images.
_RIGHT_HANDS = 0.03
_INVERTED = 0.02
_REACH = np.array([(0, -0.15), (0, -0.35), (0, -0.55)])  # the forearm, which the marker avoids too


def phantom(seed: int, index: int, size: tuple = (512, 512)) -> dict:
    """Renders image `index` of the series `seed`.

    Args:
        seed: whole number >= 0.
        index: whole number >= 0. Nothing but this and the seed decides the image.
        size: (rows, columns). The same image at any size of the same shape; only the grain is drawn
            per pixel, weaker as pixels grow, as if averaged.

    Returns:
        `image`: uint8 [H, W].
        `hand_mask`: uint8 [H, W], 1 = hand and forearm.
        `keypoints`: float32 [3, 2], (row, column) in pixels, whole numbers at pixel centres: middle
            fingertip, thumb tip, capitate centre.
        `coco_keypoints`: float32 [21, 2], likewise, in COCO-hand order.
        `bone_boxes`: float32 [N, 4], (row0, column0, row1, column1) in the order of
            `anatomy.BONE_NAMES`, NaN where nothing has ossified.
        `months`: a whole float of 1 to 228.
        `male`: a bool.
        Points and boxes may be outside of the image where the forearm is.

    Raises:
        UserError: a size under 16 pixels.
    """
    streams = np.random.SeedSequence([int(seed), int(index)]).spawn(4)
    label, *others = (np.random.Generator(np.random.Philox(stream)) for stream in streams)
    return draw(*schedule.draw(label), *others, size)


def draw(
    months: float,
    male: bool,
    body_rng: np.random.Generator,
    image_rng: np.random.Generator,
    grain_rng: np.random.Generator,
    size: tuple[int, int],
) -> dict:
    """`phantom` of a given age, sex and generators: one hand at many ages, for pictures."""
    size = (int(size[0]), int(size[1]))
    if min(size) < 16:
        raise UserError(f'hand_phantom: size {size} is too small to draw; give at least (16, 16)')
    drawn = hand(months, male, body_rng)
    mirror = -1 if image_rng.random() < _RIGHT_HANDS else 1
    view = exposure.place(drawn.joints, mirror, size, image_rng)
    thickness, inside = raster.flesh(drawn, view, size)
    attenuation = _FLESH * thickness + _BONE * raster.bone(drawn, view, size) * inside
    grain = grain_rng.standard_normal(size, np.float32) * np.float32(min(size) / 512)
    grey = exposure.tone(attenuation, inside, grain, image_rng)
    inverted = image_rng.random() < _INVERTED
    mark(grey, view.points(np.concatenate([drawn.joints, _REACH])), mirror, image_rng)
    image = np.clip(exposure.collimate(grey, image_rng) + 0.5, 0, 255).astype(np.uint8)
    coco = view.points(drawn.joints)[:, ::-1].astype(np.float32)
    capitate = view.points(drawn.capitate)[::-1].astype(np.float32)
    if inverted:
        image = 255 - image
    return {
        'image': image,
        'hand_mask': inside.astype(np.uint8),
        'keypoints': np.stack([coco[12], coco[4], capitate]),
        'coco_keypoints': coco,
        'bone_boxes': boxes(drawn, view),
        'months': float(months),
        'male': bool(male),
    }
