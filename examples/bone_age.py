"""The bone age of image files by an exported ONNX file, without boneage_jax.

    boneage export --workdir=bone_age --format=onnx --output=bone_age.onnx
    python examples/bone_age.py bone_age.onnx hand.png --sex=female

It takes numpy, onnxruntime and Pillow. The file takes a grey image as it is and does the rest; here
an image file becomes grey, as `boneage predict` reads PNG, JPEG, BMP and TIFF of 8 bits, and those
of 16 bits whose values need no stretching. DICOM is not read.

Nothing judges whether the image shows a hand. Bones must be bright and fingers up: `--inverted`
takes the negative, `--turns=1` turns the image by a quarter against the clock first. Research code,
no medical device.
"""

import argparse
import io
import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

DEPTHS = (8, 10, 12, 14, 16)


def decode(data: bytes) -> np.ndarray:
    """The bytes of an image file as grey, uint8 [H, W].

    Colour becomes ITU-R 601 luma and transparency is laid over black. Of 16 bits the least depth
    that holds the largest value counts, so that 12 bits in a 16-bit file are not black.
    """
    with Image.open(io.BytesIO(data), formats=('PNG', 'JPEG', 'TIFF', 'BMP')) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):
            return _scaled(np.asarray(image))
        if image.mode == 'L':
            return np.ascontiguousarray(image)
        has_alpha = 'A' in image.mode or 'transparency' in image.info
        grey = np.array(image.convert('RGBA' if has_alpha else 'RGB').convert('L'))
        if has_alpha:
            alpha = np.asarray(image.convert('RGBA').getchannel('A'))
            if alpha.min() != alpha.max():
                grey = np.rint(grey * (alpha / np.float32(255))).astype(np.uint8)
        return grey


def _scaled(values):
    largest = int(values.max())
    if values.min() < 0 or largest >= 1 << DEPTHS[-1]:
        raise ValueError('negative values, or more than 16 bits: save the image as 8 or 16 bits')
    depth = next(bits for bits in DEPTHS if largest < 1 << bits)
    factor = np.float32(255 / (2**depth - 1))
    return np.rint(values.astype(np.float32) * factor).astype(np.uint8)


def righted(image: np.ndarray, *, inverted: bool = False, turns: int = 0) -> np.ndarray:
    """An image [H, W] as its negative, and turned by quarters against the clock."""
    if inverted:
        image = 255 - image
    return np.ascontiguousarray(np.rot90(image, turns))


class BoneAge:
    """An exported file.

    Args:
        path: of the ONNX file.
        threads: of onnxruntime; 0 = all cores.

    Attributes:
        about: what the file says of itself: its configuration, preprocessing, intervals, figures,
            data and terms.
    """

    def __init__(self, path: pathlib.Path | str, *, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
        self._names = [output.name for output in self._session.get_outputs()]
        self.about = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, image: np.ndarray, male: bool) -> dict[str, np.ndarray]:
        """`months`, `lower` and `upper` (where the file has intervals) and `seen` of an image.

        Args:
            image: grey, uint8 [H, W].
            male: whether it is a boy's.
        """
        found = self._session.run(None, {'image': image, 'male': np.array(male)})
        return dict(zip(self._names, found))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('model', help='the ONNX file')
    parser.add_argument('images', nargs='+', type=pathlib.Path)
    parser.add_argument('--sex', choices=['male', 'female'], required=True)
    parser.add_argument('--inverted', action='store_true', help='bones are dark')
    parser.add_argument('--turns', type=int, default=0, help='quarters against the clock')
    given = parser.parse_args(arguments)
    bone_age = BoneAge(given.model)
    terms = json.loads(bone_age.about.get('about', '{}')).get('terms')
    if terms:
        print(terms, file=sys.stderr)
    for path in given.images:
        image = righted(decode(path.read_bytes()), inverted=given.inverted, turns=given.turns)
        found = bone_age(image, given.sex == 'male')
        line = f'{path}: {found["months"]:.2f} months'
        if 'lower' in found:
            line += f' ({found["lower"]:.1f} to {found["upper"]:.1f})'
        print(line)


if __name__ == '__main__':
    main()
