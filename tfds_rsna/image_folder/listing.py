"""Images for a network to read: found as the builder finds them, with what labels there are."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from tfds_rsna.columns import Columns, describe, find_columns
from tfds_rsna.image_folder import matching
from tfds_rsna.image_folder.source import PER_YEAR, all_entries
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Archive, Entry
from tfds_rsna.labels import check_unit, parse, read_table
from tfds_rsna.problems import DataError, Problems, duplicates

# A table of all images and a folder of some of them is no mistake.
_UNSURE = ('label without an image', 'image without a label')


@dataclasses.dataclass(frozen=True)
class Image:
    """An image to be read: its id, its file, and its sex and age in months where they are known."""

    id: str
    entry: Entry
    male: bool | None = None
    months: float | None = None


def listing(
    archive: Archive,
    place: pathlib.Path,
    labels: pathlib.Path | None = None,
    *,
    columns: dict[str, str] | None = None,
    age_unit: str = 'months',
) -> tuple[list[Image], list[str]]:
    """The images of a file, a folder (subfolders and zips in it included) or a zip, sorted by path.

    Args:
        archive: keeps zips open while the images are read.
        place: one image, a folder, or a zip.
        labels: a CSV or xlsx of sexes and ages; rows of other images and empty ages are no mistake.
        columns: the table's `id`, `male`, `months`, `image` columns where they have no name of
            `columns.find_columns`.
        age_unit: 'months' or 'years'.

    Returns:
        The images, their ids unique; and where there is a table a line on its columns and how many
        rows matched, and one for each kind of row that could not be used.

    Raises:
        DataError: nothing there, no image there, a table that cannot be read or lacks a column, or
            whose rows name none of the images.
    """
    entries = _entries(archive, place)
    found = [entry for entry in entries if _is_image(entry)]
    if not found:
        raise DataError(
            f'{place}: no image there (PNG, JPEG, TIFF or DICOM) among {len(entries)} files'
        )
    labelled = {}
    lines = []
    if labels:
        labelled, lines = _label(found, place, labels, columns or {}, age_unit)
    images = []
    for entry in found:
        unlabelled = Image(readable(matching.IMAGE.sub('', entry.name)), entry)
        images.append(labelled.get(entry.path, unlabelled))
    return _with_unique_ids(images), lines


def _with_unique_ids(images: list[Image]) -> list[Image]:
    """Images whose id occurs twice (left/7.png beside right/7.png, 7.png beside 7.dcm) by path."""
    twice = duplicates(image.id for image in images)
    unique = []
    for image in images:
        if image.id in twice:
            image = dataclasses.replace(image, id=readable(image.entry.path))
        unique.append(image)
    return unique


def _entries(archive: Archive, place: pathlib.Path) -> list[Entry]:
    if place.is_file() and place.suffix.lower() != '.zip':
        return [Entry(place.name, place.read_bytes, place)]
    if not place.exists():
        raise DataError(
            f'{place}: no such file or folder; give an image, a folder of images, or a zip of them'
        )
    return all_entries(archive, place)


def _is_image(entry: Entry) -> bool:
    """By its name, or by its content where the name has no extension, as in many DICOM exports."""
    if matching.IMAGE.search(entry.name):
        return True
    if not matching.BARE.search(entry.name):
        return False
    try:
        return decoding.is_dicom(entry.read())
    except (DataError, OSError):
        return False


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are written as \\xe4."""
    return os.fsencode(name).decode('utf-8', 'backslashreplace')


def _label(
    found: Sequence[Entry],
    place: pathlib.Path,
    labels: pathlib.Path,
    columns: dict[str, str],
    age_unit: str,
) -> tuple[dict[str, Image], list[str]]:
    """{path: Image} of the images that a row names, and lines about the table and its rows."""
    if not labels.exists() or labels.is_dir():  # a pipe is a table too
        raise DataError(f'{labels}: no such file; give the CSV or xlsx with the ids and sexes')
    name = str(labels)
    rows = read_table(labels.read_bytes(), name)
    spec = _choose_columns(rows[0], columns, PER_YEAR[age_unit], name)
    problems = Problems('skip')
    parsed = parse(rows, spec, name, problems, partial=True)
    doubts = check_unit(parsed, spec, name)
    pairs = matching.pair(parsed, found, name, str(place), problems)
    if not pairs:
        examples = matching.examples(parsed, found)
        raise DataError('\n'.join([f'{name}: {examples}', *_about_rows(problems)]))
    images = {}
    for label, entry in pairs:
        images[entry.path] = Image(label.id, entry, label.male, label.months)
    summary = (
        f'{describe(spec)}; {len(pairs):,} of {len(rows):,} rows name one of {len(found):,} images'
    )
    return images, [summary, *doubts, *matching.renamed(pairs), *_about_rows(problems)]


def _about_rows(problems: Problems) -> list[str]:
    return [line for line in problems.lines() if not line.startswith(_UNSURE)]


def _choose_columns(
    header: dict[str, str], named: dict[str, str], per_year: int, table: str
) -> Columns:
    """The named columns, the others by their headers; ages and sexes may be missing, ids not."""
    chosen = find_columns(header, table, named)
    if chosen['id'] is None:
        raise DataError(
            f'{table}: no column for the id among {", ".join(map(repr, header))}; name it: '
            '--id_column=...'
        )
    if chosen['male'] is None and chosen['months'] is None:
        raise DataError(
            f'{table}: no column for the sex or the age among {", ".join(map(repr, header))}; name '
            'one: --male_column=... or --months_column=...'
        )
    return Columns(**chosen, image=named.get('image') or None, per_year=per_year)
