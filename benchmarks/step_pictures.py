"""Draws what each step of the preprocessing makes of phantoms: docs/pictures/steps_phantoms.png.

    python -m benchmarks.step_pictures
    python -m benchmarks.step_pictures --images=DIR --output=steps.png    # of your own images

A row is an image: as it came; its mask by `hand_mask`; its three points by `hand_points`,
with contrast normalised inside the mask; Iglovikov's regions A (registered), B and C of it.
"""

import argparse
import pathlib
import sys

from benchmarks import machine
from boneage_jax import config as config_lib
from boneage_jax.figures.hands import contact_sheet, hand
from boneage_jax.stages import plan, records
from tfds_rsna.hand_phantom import render
from tfds_rsna.io import decoding

PICTURE = machine.ROOT / 'docs/pictures/steps_phantoms.png'
AGES = (36.0, 96.0, 156.0)  # months
_SERIES = 3  # of the phantoms
_SIDE = 210


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.step_pictures',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--images', type=pathlib.Path, help='a folder; default: phantoms')
    parser.add_argument('--output', type=pathlib.Path, default=PICTURE)
    arguments = parser.parse_args(argv)
    images = _read(arguments.images) if arguments.images else _phantoms()
    pictures = []
    captions = []
    for name, image in images:
        for picture, caption in _row(image):
            pictures.append(picture)
            captions.append([f'{name}: {caption}'])
    columns = len(pictures) // len(images)
    contact_sheet(pictures, captions, arguments.output, side=_SIDE, columns=columns)
    print(arguments.output)
    return 0


def _phantoms():
    images = []
    for months in AGES:
        drawn = (render.phantom(_SERIES, i, (640, 512)) for i in range(60))
        nearest = min(drawn, key=lambda each: abs(float(each['months']) - months))
        images.append((f'{nearest["months"]:.0f} months', nearest['image']))
    return images


def _read(folder):
    images = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if decoding.is_image(data):
            images.append((path.stem, decoding.decode(data, path.name)))
    return images


def _row(image):
    """(picture, caption) of each step of an image [H, W]."""
    example = {'image': image, 'id': 'shown', 'months': 0.0, 'male': False}
    (found,) = records.apply_stages([example], _plan('A')[:-1])
    yield hand(image, side=_SIDE), 'as it came'
    yield hand(image, found['hand_mask'], side=_SIDE), 'mask'
    yield hand(found['image'], found=found['keypoints'], side=_SIDE), 'points'
    for region in ('A', 'B', 'C'):
        (cut,) = records.apply_stages([found], _plan(region)[-1:])
        yield hand(cut['image'], side=_SIDE), f'region {region}'


def _plan(region):
    spec = f'configs/regions.py:hands,row=regression-both-{region}'
    return plan.make_plan(config_lib.load(str(machine.ROOT / spec))[1].data)


if __name__ == '__main__':
    sys.exit(main())
