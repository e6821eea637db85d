"""Images that show no whole hand, by kind, for `benchmarks.hand_check`: drawn, cut, or at hand.

Every kind is made by a function of (generator, count) -> uint8 images [H, W]. Nothing is fetched:
photographs are those that scikit-image, scikit-learn, matplotlib and pydicom bring along.
"""

import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from tfds_rsna.errors import UserError
from tfds_rsna.io import decoding

Images = list[np.ndarray]


def _shape(generator):
    return tuple(int(side) for side in generator.integers(140, 420, 2))


def noise(generator: np.random.Generator, count: int) -> Images:
    """White noise, and noise smoothed at several scales."""
    images = []
    for i in range(count):
        grain = generator.normal(size=_shape(generator))
        images.append(_stretched(ndimage.gaussian_filter(grain, (0, 1, 3, 8, 20)[i % 5])))
    return images


def gradients(generator: np.random.Generator, count: int) -> Images:
    """Ramps, plain or with a vignette."""
    images = []
    for i in range(count):
        rows, columns = _shape(generator)
        y, x = np.mgrid[:rows, :columns]
        slope = generator.normal(size=2)
        ramp = slope[0] * y / rows + slope[1] * x / columns
        if i % 2:
            ramp = -np.hypot(y / rows - 0.5, x / columns - 0.5)
        images.append(_stretched(ramp))
    return images


def blank(generator: np.random.Generator, count: int) -> Images:
    """One grey, with a little noise."""
    images = []
    for _ in range(count):
        grey = generator.integers(5, 250)
        images.append(_bytes(grey + generator.normal(0, 2.5, _shape(generator))))
    return images


def checkerboards(generator: np.random.Generator, count: int) -> Images:
    """Boards and stripes."""
    images = []
    for i in range(count):
        rows, columns = _shape(generator)
        y, x = np.mgrid[:rows, :columns]
        side = generator.integers(6, 60)
        board = (y // side + (x // side) * (i % 3 > 0)) % 2
        images.append(_bytes(20 + 200 * board + generator.normal(0, 4, board.shape)))
    return images


def text(generator: np.random.Generator, count: int) -> Images:
    """Pages of letters, dark on bright or bright on dark."""
    words = ['left', 'hand', 'name', 'date', 'born', 'height', 'of', 'the', 'to', '12', '6']
    images = []
    for i in range(count):
        rows, columns = _shape(generator)
        page = Image.new('L', (columns, rows), 0)
        pen = ImageDraw.Draw(page)
        size = int(generator.integers(10, 60))
        font = ImageFont.load_default(size)
        for row in range(4, rows, size + 4):
            line = ' '.join(generator.choice(words, 12))
            pen.text((6, row), line, fill=230, font=font)
        images.append(255 - np.asarray(page) if i % 2 else np.asarray(page))
    return images


def drawings(generator: np.random.Generator, count: int) -> Images:
    """Lines, boxes and ellipses at random."""
    images = []
    for _ in range(count):
        rows, columns = _shape(generator)
        page = Image.new('L', (columns, rows), int(generator.integers(0, 60)))
        pen = ImageDraw.Draw(page)
        for _ in range(generator.integers(1, 12)):
            x0, x1 = sorted(generator.integers(0, columns, 2).tolist())
            y0, y1 = sorted(generator.integers(0, rows, 2).tolist())
            grey = int(generator.integers(60, 256))
            kind = generator.integers(3)
            if kind == 0:
                pen.line((x0, y1, x1, y0), fill=grey, width=int(generator.integers(2, 30)))
            elif kind == 1:
                pen.rectangle((x0, y0, x1, y1), fill=grey)
            else:
                pen.ellipse((x0, y0, x1, y1), fill=grey)
        images.append(_noisy(page, generator))
    return images


def chests(generator: np.random.Generator, count: int) -> Images:
    """Chest-like: two dark lungs with ribs across, a bright heart and spine."""
    images = []
    for _ in range(count):
        page = Image.new('L', (320, 320), int(generator.integers(110, 190)))
        pen = ImageDraw.Draw(page)
        lean = int(generator.integers(-12, 12))
        for left in (50 + lean, 180 + lean):
            pen.ellipse((left, 50, left + 95, 270), fill=int(generator.integers(20, 70)))
        pen.rectangle((148 + lean, 10, 176 + lean, 310), fill=205)
        pen.ellipse((130 + lean, 160, 220 + lean, 260), fill=200)
        for row in range(60, 260, int(generator.integers(22, 32))):
            pen.arc((40 + lean, row, 160, row + 60), 180, 340, fill=150, width=7)
            pen.arc((165 + lean, row, 290, row + 60), 200, 360, fill=150, width=7)
        images.append(_noisy(page, generator))
    return images


def feet(generator: np.random.Generator, count: int) -> Images:
    """Foot-like: five parallel rays with short toes on a long sole, seen from above."""
    images = []
    for _ in range(count):
        page = Image.new('L', (260, 420), int(generator.integers(4, 30)))
        pen = ImageDraw.Draw(page)
        flesh = int(generator.integers(70, 120))
        wide = float(generator.uniform(0.85, 1.15))
        pen.ellipse((60, 60, 60 + 150 * wide, 250), fill=flesh)
        pen.ellipse((75, 160, 75 + 105 * wide, 405), fill=flesh)
        for ray in range(5):
            x = 78 + 28 * wide * ray
            top = 34 + 6 * ray * ray / 2
            width = 26 if ray == 0 else 14
            pen.line((x, 80, x, top), fill=flesh, width=width + 10)
            pen.line((x, 205, x, 110), fill=205, width=width // 2 + 4)
            pen.line((x, 102, x, top + 26), fill=200, width=width // 2 + 2)
            pen.line((x, top + 20, x, top + 6), fill=200, width=width // 2)
        for _ in range(6):
            x, y = generator.integers(90, 160), generator.integers(215, 290)
            pen.ellipse((x - 16, y - 14, x + 16, y + 14), fill=190)
        pen.ellipse((95, 300, 165, 390), fill=215)
        images.append(_noisy(page, generator))
    return images


def limbs(generator: np.random.Generator, count: int) -> Images:
    """Knee- or forearm-like: two long bones in a column of flesh."""
    images = []
    for i in range(count):
        page = Image.new('L', (220, 400), int(generator.integers(4, 30)))
        pen = ImageDraw.Draw(page)
        half = int(generator.integers(45, 85))
        pen.rectangle((110 - half, 0, 110 + half, 400), fill=int(generator.integers(60, 120)))
        if i % 2:
            pen.line((90, 0, 84, 400), fill=205, width=22)
            pen.line((130, 0, 138, 400), fill=205, width=17)
        else:
            pen.line((110, 0, 110, 190), fill=205, width=40)
            pen.ellipse((72, 150, 148, 205), fill=205)
            pen.ellipse((75, 212, 145, 255), fill=205)
            pen.line((108, 230, 108, 400), fill=205, width=34)
        images.append(_noisy(page, generator))
    return images


def heads(generator: np.random.Generator, count: int) -> Images:
    """Slices of a head: a bright or dark ring, folds of grey inside, two dark ventricles."""
    images = []
    for i in range(count):
        rows, columns = 300, int(generator.integers(220, 300))
        y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
        away = np.hypot(x / generator.uniform(0.7, 0.9), y / generator.uniform(0.75, 0.92))
        folds = ndimage.gaussian_filter(generator.normal(size=away.shape), 5)
        brain = generator.uniform(80, 140) + generator.uniform(200, 500) * folds
        skull = (240, 40)[i % 2]
        image = np.where(away < 0.86, brain, np.where(away < 1, skull, 8))
        for side in (-1, 1):
            width, height = generator.uniform(0.08, 0.16), generator.uniform(0.2, 0.4)
            ventricle = ((x - side * 0.15) / width) ** 2 + ((y + 0.05) / height) ** 2 < 1
            image = np.where(ventricle, (40, 220)[i % 4 // 2], image)
        images.append(_noisy(image, generator))
    return images


def abdomens(generator: np.random.Generator, count: int) -> Images:
    """Slices of a trunk: an oval of flesh with a bright spine, ribs at its edge and organs."""
    images = []
    for _ in range(count):
        page = Image.new('L', (380, 280), int(generator.integers(0, 20)))
        pen = ImageDraw.Draw(page)
        pen.ellipse((20, 20, 360, 260), fill=int(generator.integers(60, 100)))
        pen.ellipse((40, 38, 340, 244), fill=int(generator.integers(100, 140)))
        for _ in range(generator.integers(3, 9)):
            x, y = generator.integers(70, 260), generator.integers(60, 190)
            wide, high = generator.integers(20, 90, 2)
            pen.ellipse((x, y, x + wide, y + high), fill=int(generator.integers(30, 190)))
        pen.ellipse((165, 185, 215, 230), fill=230)
        for angle in generator.uniform(0, 2 * np.pi, 8):
            x, y = 190 + 150 * np.cos(angle), 141 + 105 * np.sin(angle)
            pen.ellipse((x - 11, y - 5, x + 11, y + 5), fill=220)
        images.append(_noisy(page, generator))
    return images


def trees(generator: np.random.Generator, count: int) -> Images:
    """A trunk that branches several times, bright on dark or dark on bright, at any angle."""
    images = []
    for i in range(count):
        page = Image.new('L', (300, 340), int(generator.integers(0, 50)))
        spread = generator.uniform(0.3, 0.8)
        place = (150, 335, generator.normal(0, 0.1), generator.uniform(70, 110))
        _branch(ImageDraw.Draw(page), generator, spread, *place)
        turned = np.rot90(np.asarray(page), generator.integers(4))
        images.append(_noisy(255 - turned if i % 3 == 2 else turned, generator))
    return images


def bones(generator: np.random.Generator, count: int) -> Images:
    """Bright rods with knobs in flesh, a few in a row or each its own way: parts of a skeleton."""
    images = []
    for i in range(count):
        side = 340
        flesh = Image.new('L', (side, side), 0)
        bone = Image.new('L', (side, side), 0)
        lean = generator.uniform(0, np.pi)
        for _ in range(generator.integers(1, 7)):
            angle = lean + generator.normal(0, (0.1, 1.0)[i % 2])
            x, y = generator.uniform(60, side - 60, 2)
            length, thick = generator.uniform(60, 260), generator.uniform(8, 30)
            dx, dy = np.cos(angle) * length / 2, np.sin(angle) * length / 2
            ends = (x - dx, y - dy, x + dx, y + dy)
            ImageDraw.Draw(flesh).line(ends, fill=90, width=int(thick * generator.uniform(2, 4)))
            pen = ImageDraw.Draw(bone)
            pen.line(ends, fill=200, width=int(thick))
            for at in (ends[:2], ends[2:]):
                pen.circle(at, thick * generator.uniform(0.5, 0.9), fill=210)
        grey = np.maximum(np.asarray(flesh), np.asarray(bone)).astype(np.float32)
        images.append(_noisy(grey + generator.uniform(0, 40), generator))
    return images


def faces(generator: np.random.Generator, count: int) -> Images:
    """A face from the front: an oval with hair, eyes, nose and mouth."""
    images = []
    for _ in range(count):
        page = Image.new('L', (260, 320), int(generator.integers(0, 256)))
        pen = ImageDraw.Draw(page)
        skin = int(generator.integers(90, 230))
        pen.rectangle((80, 240, 180, 320), fill=skin - 20)
        pen.ellipse((40, 20, 220, 200), fill=int(generator.integers(10, 90)))
        pen.ellipse((55, 50, 205, 285), fill=skin)
        for x in (92, 168):
            pen.ellipse((x - 20, 130, x + 20, 152), fill=240)
            pen.ellipse((x - 8, 132, x + 8, 150), fill=25)
            pen.arc((x - 24, 108, x + 24, 140), 200, 340, fill=40, width=5)
        pen.line((130, 150, 122, 200, 138, 204), fill=skin - 50, width=4)
        pen.ellipse((100, 228, 160, 246), fill=int(generator.integers(60, 130)))
        images.append(_noisy(page, generator))
    return images


def flowers(generator: np.random.Generator, count: int) -> Images:
    """Petals about a middle, on a stem."""
    images = []
    for i in range(count):
        page = Image.new('L', (280, 340), int(generator.integers(0, 80)))
        pen = ImageDraw.Draw(page)
        pen.line((140, 130, 140 + int(generator.integers(-40, 40)), 340), fill=120, width=9)
        petals = int(generator.integers(4, 14))
        reach = generator.uniform(50, 85)
        for angle in 2 * np.pi * np.arange(petals) / petals + generator.uniform(0, 1):
            for step in np.linspace(0.3, 1, 8):
                x = 140 + step * reach * np.cos(angle)
                y = 130 + step * reach * np.sin(angle)
                pen.circle((x, y), 22 * np.sqrt(step * (1.2 - step)) + 4, fill=200)
        pen.circle((140, 130), reach / 3, fill=int(generator.integers(60, 255)))
        grey = np.asarray(page)
        images.append(_noisy(255 - grey if i % 2 else grey, generator))
    return images


def rakes(generator: np.random.Generator, count: int) -> Images:
    """A stem that ends in parallel tines, straight or fanned: rakes, forks and combs."""
    images = []
    for i in range(count):
        page = Image.new('L', (260, 360), int(generator.integers(0, 60)))
        pen = ImageDraw.Draw(page)
        grey = int(generator.integers(120, 250))
        tines = int(generator.integers(3, 10))
        width = int(generator.integers(4, 22))
        fan = generator.uniform(0, 1.0)
        pen.line((130, 360, 130, 220), fill=grey, width=int(generator.integers(10, 60)))
        pen.line((60, 215, 200, 215), fill=grey, width=int(generator.integers(8, 40)))
        for x in np.linspace(64, 196, tines):
            pen.line((x, 215, x + fan * (x - 130), generator.integers(30, 90)), grey, width)
        turned = np.rot90(np.asarray(page), generator.integers(4))
        images.append(_noisy(255 - turned if i % 3 == 2 else turned, generator))
    return images


def photographs(generator: np.random.Generator, count: int) -> Images:
    """Scikit-image's pictures, each whole and as crops, every third as its negative."""
    import skimage

    folder = pathlib.Path(skimage.__file__).parent / 'data'
    return _crops(_read(folder, ('*.png', '*.jpg', '*.gif')), generator, count)


def other_photographs(generator: np.random.Generator, count: int) -> Images:
    """Scikit-learn's and matplotlib's pictures likewise."""
    import matplotlib
    import sklearn

    found = _read(pathlib.Path(sklearn.__file__).parent / 'datasets/images', ('*.jpg',))
    samples = pathlib.Path(matplotlib.get_data_path()) / 'sample_data'
    return _crops([*found, *_read(samples, ('*.jpg', '*.png'))], generator, count)


def other_dicoms(generator: np.random.Generator, count: int) -> Images:
    """Pydicom's test files: slices of other parts, patterns, colours."""
    import pydicom

    logging.getLogger('pydicom').setLevel(logging.CRITICAL)  # some are broken on purpose
    # Not pydicom's own function, which downloads more of them.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = _read(pathlib.Path(pydicom.__file__).parent / 'data/test_files', ('*.dcm',))
    alone = {image.tobytes(): image for image in found}
    return list(alone.values())[:count]


def half_hands(images: Images, points: list[np.ndarray], *, keep: str) -> Iterator[np.ndarray]:
    """Hands without fingers (`keep='carpus'`) or without a carpus (`keep='fingers'`).

    `points` [3, 2] (row, column) are on their images; hands that are not upright are passed over.
    """
    for image, (tip, _, capitate) in zip(images, points):
        length = capitate[0] - tip[0]
        if length < 0.3 * image.shape[0] or abs(tip[1] - capitate[1]) > 0.5 * length:
            continue
        if keep == 'carpus':
            part = image[int(tip[0] + 0.62 * length) :]
        else:
            part = image[: int(tip[0] + 0.5 * length)]
        if min(part.shape) > 20:
            yield part


def patches(images: Images, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """A piece of each image, a third a side."""
    for image in images:
        rows, columns = (max(20, side // 3) for side in image.shape)
        row = int(generator.integers(0, max(1, image.shape[0] - rows)))
        column = int(generator.integers(0, max(1, image.shape[1] - columns)))
        yield image[row : row + rows, column : column + columns]


PHOTOGRAPHED = ('photographs', 'other photographs', 'other DICOMs')  # of others' packages
KINDS: dict[str, Callable] = {
    'noise': noise,
    'gradients': gradients,
    'blank': blank,
    'checkerboards': checkerboards,
    'text': text,
    'drawings': drawings,
    'chests': chests,
    'feet': feet,
    'limbs': limbs,
    'bones': bones,
    'heads': heads,
    'abdomens': abdomens,
    'faces': faces,
    'flowers': flowers,
    'trees': trees,
    'rakes': rakes,
    'photographs': photographs,
    'other photographs': other_photographs,
    'other DICOMs': other_dicoms,
}


def _branch(pen, generator, spread, x, y, angle, length, depth=0):
    """A branch from (x, y), with those that grow out of its end."""
    end = (x + length * np.sin(angle), y - length * np.cos(angle))
    pen.line((x, y, *end), fill=220 - 15 * depth, width=max(1, int(length / 5)))
    if depth == 4:
        return
    for _ in range(generator.integers(2, 4)):
        turned = angle + generator.uniform(-spread, spread)
        shorter = length * generator.uniform(0.6, 0.8)
        _branch(pen, generator, spread, *end, turned, shorter, depth + 1)


def _read(folder, patterns):
    found = []
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        try:
            found.append(decoding.decode(path.read_bytes(), path.name))
        except (UserError, OSError):
            continue
    return found


def _crops(pictures, generator, count):
    images = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        if i >= len(pictures):
            share = generator.uniform(0.4, 0.9)
            rows, columns = (max(24, int(share * side)) for side in picture.shape)
            row = int(generator.integers(0, max(1, picture.shape[0] - rows)))
            column = int(generator.integers(0, max(1, picture.shape[1] - columns)))
            picture = picture[row : row + rows, column : column + columns]
        images.append(255 - picture if i % 3 == 2 else picture)
    return images


def _noisy(page, generator):
    smooth = ndimage.gaussian_filter(np.asarray(page, np.float32), generator.uniform(0.5, 2.5))
    return _bytes(smooth + generator.normal(0, 3, smooth.shape))


def _stretched(values):
    low, high = values.min(), values.max()
    return _bytes(255 * (values - low) / max(1e-9, high - low))


def _bytes(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
