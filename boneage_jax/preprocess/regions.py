"""The regions of a registered hand that Iglovikov et al. (2018, Fig. 2) regress the age from.

Each is cut straight from the image that it is given: registration, crop and zoom are one transform
and the pixels are read once. Given a native image with key points that is the only resampling
between the X-ray machine and the network.
"""

from typing import NamedTuple

import numpy as np

from boneage_jax.preprocess import transform as transforms
from tfds_rsna.errors import UserError


class Region(NamedTuple):
    """A window of the registered image of 2080x1600, in its pixels, and the zoom to cut it with."""

    centre: tuple[int, int]
    size: tuple[int, int]
    zoom: float

    @property
    def output(self) -> tuple[int, int]:
        """(rows, columns) of the cut region."""
        return tuple(round(side * self.zoom) for side in self.size)


# A is the authors' released code's. Sizes of B and C are theirs, unconfirmed. Centres and zooms are
# ours, set by where the bones are in registered images (534 annotated RSNA images, 45 of the DHA
# with 37 landmarks).
# B: the carpals take rows 1470 to 1800, the growth plates of radius and ulna end at 1940. Around
# row 1600 the window ended at 1975, so that an error of 40 pixels in the capitate cut them off; 60
# rows down it has 90 to spare.
# C: no window of 600 rows holds the metacarpals and proximal phalanges (rows 510 to 1500). This one
# holds what tells the age, the joints between them, with 40 pixels to spare: those of fingers 2 to
# 5 in all 534 images, the thumb's in 75% of them (57% around row 1000).
# bones: a window that holds the bones whole.
REGIONS = {
    'A': Region((1040, 800), (2000, 1500), 0.25),
    'B': Region((1660, 800), (750, 750), 0.5),
    'C': Region((1030, 800), (600, 1400), 0.5),
    'bones': Region((1040, 800), (1200, 1500), 0.25),
}


def cut(region: str | Region) -> np.ndarray:
    """[3, 3] from the registered image of 2080x1600 to the region, a name or a `Region`."""
    region = named(region)
    top, left = (centre - side // 2 for centre, side in zip(region.centre, region.size))
    rows, columns = (out / side for out, side in zip(region.output, region.size))
    return transforms.zoom(rows, columns) @ transforms.shift(-top, -left)


def named(region: str | Region) -> Region:
    """The `Region` of a name; a `Region` passes through."""
    if isinstance(region, Region):
        return region
    if region not in REGIONS:
        raise UserError(f'region {region!r}: known are {", ".join(REGIONS)}')
    return REGIONS[region]
