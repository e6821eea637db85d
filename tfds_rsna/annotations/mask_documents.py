"""Parses JSON documents in which people drew one image's shapes: labelme's and Supervisely's."""

import base64
import functools
import pathlib
from typing import NamedTuple

from tfds_rsna.annotations import mask_shapes
from tfds_rsna.errors import UserError


class Document(NamedTuple):
    """What people drew on one image."""

    file: pathlib.Path
    kind: str  # 'labelme' or 'Supervisely'
    image: str  # the image's file name
    shapes: list[tuple[str, mask_shapes.Shape]]  # (label, shape)
    size: tuple[int, int]  # (rows, columns) of the image


def parse(content: dict, file: pathlib.Path) -> Document:
    """The shapes of a labelme document (it has `shapes`) or a Supervisely one (it has `objects`).

    Raises:
        UserError: neither of the two, or a damaged one; names the file.
    """
    try:
        if 'shapes' in content:
            return _labelme(content, file)
        if 'objects' in content:
            return _supervisely(content, file)
        raise ValueError('it has neither shapes nor objects')
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f'{file}: not a labelme or Supervisely annotation ({type(error).__name__}: {error})'
        ) from error


def _labelme(content: dict, file: pathlib.Path) -> Document:
    shapes = []
    for shape in content['shapes']:
        kind = shape.get('shape_type') or 'polygon'
        points = shape['points']
        if kind == 'polygon':
            draw = mask_shapes.polygon(points)
        elif kind == 'rectangle':
            draw = mask_shapes.box(points)
        elif kind == 'circle':
            draw = mask_shapes.circle(points)
        elif kind == 'mask':
            left, top = points[0]
            bits = functools.partial(mask_shapes.png_bits, base64.b64decode(shape['mask']))
            draw = mask_shapes.bitmap(bits, round(left), round(top))
        else:
            continue  # points and lines enclose nothing
        shapes.append((str(shape['label']), draw))
    size = (int(content['imageHeight']), int(content['imageWidth']))
    image = str(content.get('imagePath') or file.stem)
    return Document(file, 'labelme', image, shapes, size)


def _supervisely(content: dict, file: pathlib.Path) -> Document:
    shapes = []
    for thing in content['objects']:
        default = 'bitmap' if thing.get('bitmap') else 'polygon'
        kind = thing.get('geometryType') or default
        if kind == 'bitmap':
            left, top = thing['bitmap']['origin']
            bits = functools.partial(mask_shapes.packed_png_bits, thing['bitmap']['data'])
            draw = mask_shapes.bitmap(bits, int(left), int(top))
        elif kind == 'polygon':
            points = thing['points']
            draw = mask_shapes.polygon(points['exterior'], points.get('interior', ()))
        elif kind == 'rectangle':
            draw = mask_shapes.box(thing['points']['exterior'])
        else:
            continue
        shapes.append((str(thing['classTitle']), draw))
    size = (int(content['size']['height']), int(content['size']['width']))
    return Document(file, 'Supervisely', file.name.removesuffix('.json'), shapes, size)
