"""Reads hand masks that people drew: a folder of images, COCO, labelme or Supervisely files."""

import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from tfds_rsna.annotations import mask_documents, mask_shapes
from tfds_rsna.annotations.mask_shapes import Shape
from tfds_rsna.errors import UserError
from tfds_rsna.io import decoding

_IMAGES = ('.png', '.tif', '.tiff', '.jpg', '.jpeg', '.bmp')

# Draws a mask as bool [H, W].
Drawer = Callable[[], np.ndarray]


def read(path: str | pathlib.Path) -> dict[str, Drawer]:
    """The masks at `path`, {image id: function that draws it as bool [H, W]}.

    Nothing is decoded before it is asked for. `path` is one of:
    - A folder of images `<id>.png`: hand where the grey is above half of the image's largest (0/1,
      0/255, palettes).
    - A COCO instances JSON: polygons, RLE and compressed RLE; all annotations of an image are
      united.
    - A folder of JSON files, one an image: `*.json` or `ann/*.json`, here or one level down. Each
      is labelme's or Supervisely's by what is in it; both may lie in one folder. Polygons,
      rectangles, circles and bitmaps are united. Images beside them are not read: they may be the
      radiographs.

    The id is the image's file name without its endings. Where the labels of COCO, of labelme or of
    Supervisely have several names, only those with 'hand' in them count.

    Raises:
        UserError: nothing of that kind there, or a file that cannot be read. A function raises it
            for a damaged mask.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        return _coco(path)
    if not path.is_dir():
        raise UserError(
            f'{path}: no such file or folder; give a folder of mask images, or COCO, labelme or '
            'Supervisely files'
        )
    nested = sorted([*path.glob('ann/*.json'), *path.glob('*/ann/*.json')])
    documents = nested or sorted(path.glob('*.json'))
    if documents:
        return _of_documents(documents)
    images = sorted(file for file in path.iterdir() if file.suffix.lower() in _IMAGES)
    if not images:
        raise UserError(
            f'{path}: no mask images ({", ".join(_IMAGES)}) and no JSON files in this folder'
        )
    return _once((file.stem, file, functools.partial(_image, file)) for file in images)


def _once(found: Iterable[tuple[str, pathlib.Path, Drawer]]) -> dict[str, Drawer]:
    """{id: drawer} of (id, file, drawer); UserError where two files have masks of one image."""
    masks = {}
    files = {}
    for key, file, draw in found:
        if key in masks:
            raise UserError(f'{file}: image {key} has a mask in {files[key]} too; leave one out')
        masks[key] = draw
        files[key] = file
    return masks


def _image(file: pathlib.Path) -> np.ndarray:
    if file.suffix.lower() == '.bmp':
        grey = np.asarray(Image.open(file).convert('L'))
    else:
        grey = decoding.decode(file.read_bytes(), name=str(file))
    return grey > grey.max() / 2


def _json(file: pathlib.Path) -> dict:
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except (ValueError, OSError) as error:
        raise UserError(f'{file}: not a JSON file ({error})') from error


def _of_documents(files: list[pathlib.Path]) -> dict[str, Drawer]:
    """The masks of one JSON document an image."""
    documents = [mask_documents.parse(_json(file), file) for file in files]
    # Each tool has labels of its own: a hand may be a hand to one and an only label to the other.
    labels = {}
    for document in documents:
        of_kind = labels.setdefault(document.kind, set())
        of_kind.update(label for label, _ in document.shapes)
    hands = {kind: _hands(names, files[0].parent) for kind, names in labels.items()}
    found = []
    for document in documents:
        chosen = [shape for label, shape in document.shapes if label in hands[document.kind]]
        if chosen:
            draw = functools.partial(_union, chosen, document.size, document.file)
            found.append((_stem(document.image), document.file, draw))
    return _once(found)


def _hands(labels: set[str], where: pathlib.Path) -> set[str]:
    """The labels that mean the hand: the only one, or those with 'hand' in their names."""
    if len(labels) <= 1:
        return labels
    named = {label for label in labels if 'hand' in label.lower()}
    if not named:
        raise UserError(
            f'{where}: labels {", ".join(sorted(labels))}: none has "hand" in its name; rename the '
            "hand's"
        )
    return named


def _union(shapes: list[Shape], size: tuple[int, int], where: pathlib.Path | str) -> np.ndarray:
    """The union of `shapes`, bool [H, W]."""
    mask = np.zeros(size, bool)
    try:
        for shape in shapes:
            mask |= shape(size)
    except (ValueError, TypeError, KeyError, IndexError, OSError, zlib.error) as error:
        raise UserError(f'{where}: a damaged mask ({type(error).__name__}: {error})') from error
    return mask


def _stem(name: str) -> str:
    """'images/4360.png' -> '4360'; Windows paths too."""
    return pathlib.PurePosixPath(str(name).replace('\\', '/')).name.split('.')[0]


def _coco(path: pathlib.Path) -> dict[str, Drawer]:
    document = _json(path)
    try:
        found = list(_coco_masks(document, path))
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f'{path}: not a COCO instances JSON ({type(error).__name__}: {error}); needed are '
            'images (id, file_name, height, width) and annotations (image_id, segmentation)'
        ) from error
    return _once(found)


def _coco_masks(document: dict, path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, Drawer]]:
    """(id, file, drawer) of every image that has a hand."""
    images = {image['id']: image for image in document['images']}
    names = {}
    for category in document.get('categories', ()):
        names[category['id']] = str(category['name'])
    by_image = {}
    labels = set()
    for annotation in document['annotations']:
        category = annotation.get('category_id')
        label = names.get(category, str(category))
        labels.add(label)
        labelled = by_image.setdefault(annotation['image_id'], [])
        labelled.append((label, annotation['segmentation']))
    hands = _hands(labels, path)
    for image_id, labelled in by_image.items():
        image = images[image_id]
        shapes = []
        for label, segmentation in labelled:
            if label in hands:
                shapes += _segmentation(segmentation)
        if shapes:
            size = (int(image['height']), int(image['width']))
            where = f'{path}, image {image["file_name"]}'
            yield _stem(image['file_name']), path, functools.partial(_union, shapes, size, where)


def _segmentation(one: list | dict) -> list[Shape]:
    if isinstance(one, list):  # polygons
        return [
            mask_shapes.polygon(np.asarray(ring, float).reshape(-1, 2).tolist()) for ring in one
        ]
    return [functools.partial(_run_lengths, one)]


def _run_lengths(rle: dict, size: tuple[int, int]) -> np.ndarray:
    """COCO's RLE, bool [H, W]: lengths of runs of 0, 1, 0, ..., down the columns."""
    counts = rle['counts']
    if isinstance(counts, str):
        counts = _unpack(counts)
    found = tuple(int(side) for side in rle['size'])
    if found != size or sum(counts) != size[0] * size[1]:
        raise ValueError(
            f'runs of {sum(counts)} pixels for {found[0]}x{found[1]}, the image being '
            f'{size[0]}x{size[1]}'
        )
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size[::-1]).T


def _unpack(text: str) -> list[int]:
    """The lengths in COCO's compressed RLE.

    Each is the difference to the one two before, in base 32 with a continuation bit, as printable
    characters from '0' on (pycocotools' maskApi.c).
    """
    counts = []
    value = 0
    shift = 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:  # more digits follow
            continue
        if digit & 16:  # the sign
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = 0
        shift = 0
    return counts
