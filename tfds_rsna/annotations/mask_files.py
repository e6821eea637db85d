"""Reads hand masks that people drew: a folder of images, COCO, labelme or Supervisely files."""

import base64
import io
import json
import pathlib
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from skimage import draw as draw_lib

from tfds_rsna.errors import UserError
from tfds_rsna.io import decoding

_IMAGES = ('.png', '.tif', '.tiff', '.jpg', '.jpeg', '.bmp')


def read(path) -> dict[str, Callable[[], np.ndarray]]:
    """The masks at `path`, {image id: function that draws it as bool [H, W]}: nothing is decoded
    before it is asked for.

    - A folder of images `<id>.png`: hand where the grey is above half of the image's largest (0/1,
      0/255, palettes).
    - A COCO instances JSON: polygons, RLE and compressed RLE; all annotations of an image are
      united.
    - A folder of labelme JSON files: polygons, rectangles, circles and masks, united.
    - A Supervisely folder (`ann/<file>.json`, here or one level down): polygons, bitmaps and
    rectangles, united. The id is the image's file name without its endings. Where labels have
    several names, only those with 'hand' in them count.

    Raises:
        UserError: nothing of that kind there, or a file that cannot be read; a function raises it
        for a damaged mask.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        return _coco(path)
    if not path.is_dir():
        raise UserError(
            f'{path}: no such file or folder; give a folder of mask images, or COCO, labelme or Supervisely files'
        )
    if annotations := sorted([*path.glob('ann/*.json'), *path.glob('*/ann/*.json')]):
        return _of_documents(annotations, _supervisely)
    if annotations := sorted(path.glob('*.json')):
        return _of_documents(annotations, _labelme)
    images = sorted(file for file in path.iterdir() if file.suffix.lower() in _IMAGES)
    if not images:
        raise UserError(
            f'{path}: no mask images ({", ".join(_IMAGES)}) and no JSON files in this folder'
        )
    return _once((file.stem, file, lambda file=file: _image(file)) for file in images)


def _once(found):
    masks, files = {}, {}
    for key, file, draw in found:
        if key in masks:
            raise UserError(f'{file}: image {key} has a mask in {files[key]} too; leave one out')
        masks[key], files[key] = draw, file
    return masks


def _image(file):
    grey = (
        decoding.decode(file.read_bytes(), name=str(file))
        if file.suffix.lower() != '.bmp'
        else np.asarray(Image.open(file).convert('L'))
    )
    return grey > grey.max() / 2


def _json(file):
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except (ValueError, OSError) as error:
        raise UserError(f'{file}: not a JSON file ({error})') from error


def _of_documents(files, parse):
    """One document an image; `parse(document) -> (image's file name, {label: [drawers]}, size)`."""
    parsed = []
    for file in files:
        document = _json(file)
        try:
            name, shapes, size = parse(document, file)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(
                f'{file}: not a labelme or Supervisely annotation ({type(error).__name__}: {error})'
            ) from error
        parsed.append((file, name, shapes, size))
    chosen = _hands({label for _, _, shapes, _ in parsed for label, _ in shapes}, files[0].parent)
    return _once(
        (
            _stem(name),
            file,
            _drawer([draw for label, draw in shapes if label in chosen], size, file),
        )
        for file, name, shapes, size in parsed
        if any(label in chosen for label, _ in shapes)
    )


def _hands(labels, where):
    """The labels that mean the hand: the only one, or those with 'hand' in their names."""
    named = {label for label in labels if 'hand' in label.lower()}
    if len(labels) > 1 and not named:
        raise UserError(
            f'{where}: labels {", ".join(sorted(labels))}: none has "hand" in its name; rename the hand\'s'
        )
    return named if len(labels) > 1 else labels


def _drawer(shapes, size, where):
    """A function that draws the union of `shapes`, functions `size -> bool [H, W]`."""

    def draw():
        mask = np.zeros(size, bool)
        try:
            for shape in shapes:
                mask |= shape(size)
        except (ValueError, TypeError, KeyError, IndexError, OSError, zlib.error) as error:
            raise UserError(f'{where}: a damaged mask ({type(error).__name__}: {error})') from error
        return mask

    return draw


def _stem(name):
    """'images/4360.png' -> '4360'; Windows paths too."""
    return pathlib.PurePosixPath(str(name).replace('\\', '/')).name.split('.')[0]


def _polygon(points, holes=()):
    def draw(size):
        mask = np.zeros(size, bool)
        for value, ring in ((True, points), *((False, hole) for hole in holes)):
            if len(ring) < 3:
                raise ValueError(f'a polygon of {len(ring)} points')
            x, y = (
                np.asarray(ring, float).T - 0.5
            )  # annotations count from the pixel's corner, we from its centre
            mask[draw_lib.polygon(y, x, size)] = value
        return mask

    return draw


def _bitmap(decode, left, top):
    """A small mask, `decode() -> bool [h, w]`, laid at (left, top)."""

    def draw(size):
        small, mask = decode(), np.zeros(size, bool)
        rows, columns = (
            np.clip((start, start + n), 0, side)
            for start, n, side in zip((top, left), small.shape, size)
        )
        mask[rows[0] : rows[1], columns[0] : columns[1]] = small[
            rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left
        ]
        return mask

    return draw


def _box(points):
    (x0, y0), (x1, y1) = points
    return _polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _png_bits(data):
    with Image.open(io.BytesIO(data)) as image:
        # The last channel is the alpha of Supervisely's bitmaps, the mask itself elsewhere.
        pixels = np.asarray(image.convert('L') if image.mode in ('1', 'L', 'P', 'I') else image)
    return (pixels if pixels.ndim == 2 else pixels[..., -1]) > 0


def _labelme(document, file):
    shapes = []
    for shape in document['shapes']:
        kind, points = shape.get('shape_type') or 'polygon', shape['points']
        if kind == 'polygon':
            draw = _polygon(points)
        elif kind == 'rectangle':
            draw = _box(points)
        elif kind == 'circle':
            (x, y), edge = points
            radius, angles = (
                np.hypot(edge[0] - x, edge[1] - y),
                np.linspace(0, 2 * np.pi, 90, endpoint=False),
            )
            draw = _polygon(list(zip(x + radius * np.cos(angles), y + radius * np.sin(angles))))
        elif kind == 'mask':
            data, (left, top) = base64.b64decode(shape['mask']), points[0]
            draw = _bitmap(lambda data=data: _png_bits(data), round(left), round(top))
        else:
            continue  # points and lines enclose nothing
        shapes.append((str(shape['label']), draw))
    return (
        document.get('imagePath') or file.stem,
        shapes,
        (int(document['imageHeight']), int(document['imageWidth'])),
    )


def _supervisely(document, file):
    shapes = []
    for thing in document['objects']:
        kind = thing.get('geometryType') or ('bitmap' if thing.get('bitmap') else 'polygon')
        if kind == 'bitmap':
            data, (left, top) = thing['bitmap']['data'], thing['bitmap']['origin']
            draw = _bitmap(
                lambda data=data: _png_bits(zlib.decompress(base64.b64decode(data))),
                int(left),
                int(top),
            )
        elif kind == 'polygon':
            draw = _polygon(thing['points']['exterior'], thing['points'].get('interior', ()))
        elif kind == 'rectangle':
            draw = _box(thing['points']['exterior'])
        else:
            continue
        shapes.append((str(thing['classTitle']), draw))
    size = document['size']
    return file.name.removesuffix('.json'), shapes, (int(size['height']), int(size['width']))


def _coco(path):
    document = _json(path)
    try:
        images = {image['id']: image for image in document['images']}
        names = {
            category['id']: str(category['name']) for category in document.get('categories', ())
        }
        by_image = {}
        for annotation in document['annotations']:
            label = names.get(annotation.get('category_id'), str(annotation.get('category_id')))
            by_image.setdefault(annotation['image_id'], []).append(
                (label, annotation['segmentation'])
            )
        chosen = _hands({label for found in by_image.values() for label, _ in found}, path)
        rows = []
        for image_id, found in by_image.items():
            image = images[image_id]
            shapes = [
                shape for label, one in found if label in chosen for shape in _segmentation(one)
            ]
            if shapes:
                rows.append(
                    (
                        _stem(image['file_name']),
                        path,
                        _drawer(
                            shapes,
                            (int(image['height']), int(image['width'])),
                            f'{path}, image {image["file_name"]}',
                        ),
                    )
                )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f'{path}: not a COCO instances JSON ({type(error).__name__}: {error}); needed are images (id, '
            'file_name, height, width) and annotations (image_id, segmentation)'
        ) from error
    return _once(rows)


def _segmentation(one):
    if isinstance(one, list):  # polygons
        return [_polygon(np.asarray(ring, float).reshape(-1, 2).tolist()) for ring in one]
    return [lambda size, rle=one: _run_lengths(rle, size)]


def _run_lengths(rle, size):
    """COCO's RLE: lengths of runs of 0, 1, 0, ..., down the columns; compressed, each is the
    difference to the one two before, in base 32 with a continuation bit, as printable characters
    from '0' on (pycocotools' maskApi.c).
    """
    counts = rle['counts']
    if isinstance(counts, str):
        counts, text = [], counts
        value = shift = 0
        for character in text:
            digit = ord(character) - 48
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                value -= (1 << shift) if digit & 16 else 0
                counts.append(value + (counts[-2] if len(counts) > 2 else 0))
                value = shift = 0
    found = tuple(int(side) for side in rle['size'])
    if found != size or sum(counts) != size[0] * size[1]:
        raise ValueError(
            f'runs of {sum(counts)} pixels for {found[0]}x{found[1]}, the image being {size[0]}x{size[1]}'
        )
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size[::-1]).T
