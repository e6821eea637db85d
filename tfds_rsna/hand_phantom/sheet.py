"""A picture of phantoms to look at: `python -m tfds_rsna.hand_phantom.sheet OUT.png`."""

import sys

import numpy as np
from PIL import Image, ImageDraw

from tfds_rsna.hand_phantom.render import draw, phantom

AGES = (12, 36, 72, 108, 144, 180, 216)


def sheet(pixels: int = 180, seed: int = 0) -> Image.Image:
    """A boy and a girl at `AGES` months, a row each, then two rows of random images of `seed`."""
    picture = Image.new('L', (pixels * len(AGES), pixels * 4))
    for row, (male, child) in enumerate(((True, 2), (False, 9))):  # two that are well exposed
        for column, months in enumerate(AGES):
            # the same child, image and grain at every age
            streams = np.random.SeedSequence([0, child]).spawn(3)
            rngs = (np.random.Generator(np.random.Philox(stream)) for stream in streams)
            image = Image.fromarray(draw(months, male, *rngs, (pixels, pixels))['image'])
            name = 'boy' if male else 'girl'
            ImageDraw.Draw(image).text((4, pixels - 14), f'{name} {months}', fill=255)
            picture.paste(image, (column * pixels, row * pixels))
    for index in range(2 * len(AGES)):
        place = (index % len(AGES) * pixels, (2 + index // len(AGES)) * pixels)
        picture.paste(Image.fromarray(phantom(seed, index, (pixels, pixels))['image']), place)
    return picture


if __name__ == '__main__':
    sheet().save(sys.argv[1], optimize=True)
