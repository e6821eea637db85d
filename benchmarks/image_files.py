"""The images that benchmarks of preparing take: --images."""

import os
import pathlib
import sys

from tfds_rsna.image_folder import matching


def argument(parser):
    """Adds --images: a folder of images, by default $BONEAGE_DATA/rsna_native."""
    default = os.environ.get('BONEAGE_DATA')
    parser.add_argument(
        '--images',
        type=pathlib.Path,
        default=pathlib.Path(default, 'rsna_native') if default else None,
        help='a folder of images (default: $BONEAGE_DATA/rsna_native)',
    )


def find(folder):
    """The paths of the images in `folder`, sorted; ends the program where there is none."""
    found = []
    if folder and folder.is_dir():
        found = sorted(path for path in folder.iterdir() if matching.IMAGE.search(path.name))
    if not found:
        sys.exit(
            f'--images={folder}: no images there; give a folder with full-size PNG, JPEG, TIFF or '
            'DICOM'
        )
    return found
