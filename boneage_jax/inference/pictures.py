"""The picture of a predicted image: its age as caption, its parts, relation or attention maps."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from boneage_jax import figures
from boneage_jax.inference import intervals
from boneage_jax.inference.images import Seen
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import listing

_SEX = {True: ' (boy)', False: ' (girl)', None: ''}


def name_pictures(
    listed: Sequence[listing.Image], folder: pathlib.Path | None, overwrite: bool
) -> dict[str, pathlib.Path]:
    """`{id: path}` of the pictures to draw into `folder`; empty where there is no folder.

    Raises UserError where one of them exists and may not be overwritten.
    """
    if not folder:
        return {}
    paths = {}
    for file in listed:
        name = re.sub('[^-._A-Za-z0-9]', '_', file.id)
        paths[file.id] = pathlib.Path(folder) / f'{name}.png'
    if len(set(paths.values())) < len(paths):  # ids that differ only in what no file name can hold
        for number, (image, path) in enumerate(paths.items()):
            paths[image] = path.with_stem(f'{path.stem}_{number}')

    sources = {os.path.realpath(file.entry.file) for file in listed}
    own = [path for path in paths.values() if os.path.realpath(path) in sources]
    if own:
        raise UserError(f'{own[0]} is an image that is read; give another folder to --overlays')
    existing = [path for path in paths.values() if path.exists()]
    if existing and not overwrite:
        raise UserError(
            f'{existing[0]} exists ({len(existing)} pictures); give another folder to --overlays, '
            'or --overwrite'
        )
    return paths


def draw(path: pathlib.Path, row: Mapping, seen: Seen, aux: Mapping, index: int) -> None:
    """Draws one image of a batch.

    Args:
        path: the picture to write.
        row: what was predicted, as `predict` returns it.
        seen: the image, with its native one.
        aux: the network's auxiliary outputs of the whole batch.
        index: the image's place in the batch.
    """
    own = of_image(aux, index)
    figures.overlay(
        seen.native,
        '\n'.join(caption(row)),
        path,
        boxes=own.get('part_boxes'),
        valid=own.get('part_valid'),
        maps=maps(own),
        boxes_of_maps={'attention': own.get('map_box')},
        size=seen.image.shape[:2],
        matrix=seen.matrix,
    )


def of_image(aux: Mapping, index: int) -> dict:
    """The auxiliary outputs of one image of a batch."""
    return {name: _item(value, index) for name, value in aux.items()}


def maps(own: Mapping) -> dict:
    """`{title: map [h, w]}` among the auxiliary outputs of one image."""
    found = {}
    for level, relation in enumerate(own.get('relation_maps', ()), start=3):
        found[f'relation, res{level}'] = relation
    if 'attention' in own:
        found['attention'] = own['attention']
    return found


def draw_refused(path: pathlib.Path, seen: Seen) -> None:
    """Draws an image that is not predicted, with the reason as caption."""
    figures.overlay(seen.native, f'{seen.listed.id}: refused, {seen.refusal}', path)


def _item(value, index):
    if isinstance(value, list):
        return [part[index] for part in value]
    return value[index]


def caption(row: Mapping) -> list[str]:
    """The lines that say what was predicted for an image, or that it was refused."""
    if row['prediction'] is None:
        return [f'{row["id"]}: refused', f'flags: {row["flags"].replace(";", ", ")}']
    months = f'{row["prediction"]:.1f} months'
    if row['lower'] is not None:
        level = 100 * intervals.LEVEL
        months += f', {level:g}% interval {row["lower"]:.0f} to {row["upper"]:.0f}'

    lines = [f'{row["id"]}{_SEX[row["male"]]}: {row["years"]}', months]
    if 'class_months' in row:
        lines.append(f'class {row["class"]}: {row["class_months"]} months')
    if row['flags']:
        lines.append(f'flags: {row["flags"].replace(";", ", ")}')
    if row['age'] is not None:
        lines.append(f'labelled {in_years(row["age"])}, {row["age"]:.1f} months')
    return lines


def in_years(months: float) -> str:
    """136.2 -> '11 years 4 months'; an age below zero counts as zero."""
    years, rest = divmod(max(0, round(months)), 12)
    return f'{_counted(years, "year")} {_counted(rest, "month")}'


def _counted(count, unit):
    return f'{count} {unit}' if count == 1 else f'{count} {unit}s'
