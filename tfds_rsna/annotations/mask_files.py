"""Reads hand masks that people drew: a folder of images, COCO, labelme or Supervisely files."""

import base64
import functools
import io
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image
from skimage import draw as draw_lib

from tfds_rsna.errors import UserError
from tfds_rsna.io import decoding

_IMAGES = ('.png', '.tif', '.tiff', '.jpg', '.jpeg', '.bmp')

# Draws a mask as bool [H, W].
Drawer = Callable[[], np.ndarray]
# Draws one shape on an image of a size (rows, columns), as bool [H, W].
Shape = Callable[[tuple[int, int]], np.ndarray]


def read(path: str | pathlib.Path) -> dict[str, Drawer]:
    """The masks at `path`, {image id: function that draws it as bool [H, W]}.

    Nothing is decoded before it is asked for. `path` is one of:
    - A folder of images `<id>.png`: hand where the grey is above half of the image's largest (0/1,
      0/255, palettes).
    - A COCO instances JSON: polygons, RLE and compressed RLE; all annotations of an image are
      united.
    - A folder of labelme JSON files: polygons, rectangles, circles and masks, united.
    - A Supervisely folder (`ann/<file>.json`, here or one level down): polygons, bitmaps and
      rectangles, united.

    The id is the image's file name without its endings. Where labels have several names, only those
    with 'hand' in them count.

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
    supervisely = sorted([*path.glob('ann/*.json'), *path.glob('*/ann/*.json')])
    if supervisely:
        return _of_documents(supervisely, _supervisely)
    labelme = sorted(path.glob('*.json'))
    if labelme:
        return _of_documents(labelme, _labelme)
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


def _of_documents(files: list[pathlib.Path], parse: Callable) -> dict[str, Drawer]:
    """The masks of one document an image.

    `parse(document, file)` gives the image's file name, its (label, shape) pairs, and its size.
    """
    parsed = []
    for file in files:
        document = _json(file)
        try:
            parsed.append((file, *parse(document, file)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(
                f'{file}: not a labelme or Supervisely annotation ({type(error).__name__}: {error})'
            ) from error
    labels = set()
    for _, _, shapes, _ in parsed:
        labels.update(label for label, _ in shapes)
    hands = _hands(labels, files[0].parent)
    found = []
    for file, name, shapes, size in parsed:
        chosen = [shape for label, shape in shapes if label in hands]
        if chosen:
            found.append((_stem(name), file, functools.partial(_union, chosen, size, file)))
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


def _polygon(points: list, holes: Iterable[list] = ()) -> Shape:
    def draw(size):
        mask = np.zeros(size, bool)
        _fill(mask, points, True)
        for hole in holes:
            _fill(mask, hole, False)
        return mask

    return draw


def _fill(mask: np.ndarray, ring: list, value: bool) -> None:
    """Sets the pixels inside a ring of (x, y) corners."""
    if len(ring) < 3:
        raise ValueError(f'a polygon of {len(ring)} points')
    # Annotations count from the pixel's corner, we from its centre.
    x, y = np.asarray(ring, float).T - 0.5
    mask[draw_lib.polygon(y, x, mask.shape)] = value


def _box(points: list) -> Shape:
    (x0, y0), (x1, y1) = points
    return _polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _circle(points: list) -> Shape:
    """A circle by its centre and a point on its edge, as a polygon of 90 corners."""
    (x, y), edge = points
    radius = np.hypot(edge[0] - x, edge[1] - y)
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return _polygon(list(zip(x + radius * np.cos(angles), y + radius * np.sin(angles))))


def _bitmap(decode: Callable[[], np.ndarray], left: int, top: int) -> Shape:
    """A small mask, `decode() -> bool [h, w]`, laid at (left, top) and cut at the image's edges."""

    def draw(size):
        small = decode()
        y0, y1 = np.clip((top, top + small.shape[0]), 0, size[0])
        x0, x1 = np.clip((left, left + small.shape[1]), 0, size[1])
        mask = np.zeros(size, bool)
        mask[y0:y1, x0:x1] = small[y0 - top : y1 - top, x0 - left : x1 - left]
        return mask

    return draw


def _packed_png_bits(text: str) -> np.ndarray:
    """The mask in a PNG that zlib packed and base 64 wrote, bool [h, w]."""
    return _png_bits(zlib.decompress(base64.b64decode(text)))


def _png_bits(data: bytes) -> np.ndarray:
    """The mask in a PNG, bool [h, w]."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode in ('1', 'L', 'P', 'I'):
            return np.asarray(image.convert('L')) > 0
        pixels = np.asarray(image)
    if pixels.ndim == 3:
        # The last channel is the alpha of Supervisely's bitmaps, the mask itself elsewhere.
        pixels = pixels[..., -1]
    return pixels > 0


def _labelme(document: dict, file: pathlib.Path) -> tuple:
    shapes = []
    for shape in document['shapes']:
        kind = shape.get('shape_type') or 'polygon'
        points = shape['points']
        if kind == 'polygon':
            draw = _polygon(points)
        elif kind == 'rectangle':
            draw = _box(points)
        elif kind == 'circle':
            draw = _circle(points)
        elif kind == 'mask':
            left, top = points[0]
            bits = functools.partial(_png_bits, base64.b64decode(shape['mask']))
            draw = _bitmap(bits, round(left), round(top))
        else:
            continue  # points and lines enclose nothing
        shapes.append((str(shape['label']), draw))
    size = (int(document['imageHeight']), int(document['imageWidth']))
    return document.get('imagePath') or file.stem, shapes, size


def _supervisely(document: dict, file: pathlib.Path) -> tuple:
    shapes = []
    for thing in document['objects']:
        default = 'bitmap' if thing.get('bitmap') else 'polygon'
        kind = thing.get('geometryType') or default
        if kind == 'bitmap':
            left, top = thing['bitmap']['origin']
            bits = functools.partial(_packed_png_bits, thing['bitmap']['data'])
            draw = _bitmap(bits, int(left), int(top))
        elif kind == 'polygon':
            draw = _polygon(thing['points']['exterior'], thing['points'].get('interior', ()))
        elif kind == 'rectangle':
            draw = _box(thing['points']['exterior'])
        else:
            continue
        shapes.append((str(thing['classTitle']), draw))
    size = (int(document['size']['height']), int(document['size']['width']))
    return file.name.removesuffix('.json'), shapes, size


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
        return [_polygon(np.asarray(ring, float).reshape(-1, 2).tolist()) for ring in one]
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
