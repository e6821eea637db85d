"""Images for a network to read: found as the builder finds them, with what labels there are."""

import dataclasses
import pathlib
from collections.abc import Sequence

from tfds_rsna.image_folder import looks, matching
from tfds_rsna.image_folder.source import PER_YEAR, all_entries
from tfds_rsna.io.archive import Archive, Entry, on_disk, printable
from tfds_rsna.labels import Columns, check_unit, find_columns, parse, read_table
from tfds_rsna.problems import DataError, Problems, duplicates, left_out_lines

# A table of all images and a folder of some of them is no mistake.
_UNSURE = ('label without an image', 'image without a label')
_NO_AGES = '\0age'  # stands in for the column of ages where a table has none


@dataclasses.dataclass(frozen=True)
class Image:
    """An image to be read.

    Attributes:
        id: its id.
        entry: its file.
        male: its sex in the table, None where that does not give it.
        months: its age in the table, likewise.
        header_male: its sex in its own header, where it has one (DICOM).
    """

    id: str
    entry: Entry
    male: bool | None = None
    months: float | None = None
    header_male: bool | None = None


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
            `labels.HEADERS`.
        age_unit: 'months' or 'years'.

    Returns:
        The images, their ids unique, and a line for each kind of row that could not be used, and
        for each kind of file that was left out.

    Raises:
        DataError: nothing there, no image there, a table that cannot be read or lacks a column.
    """
    entries = _entries(archive, place)
    found = []
    left_out = list(archive.left_out)
    sexes = {}
    for entry in entries:
        if labels and entry.name == labels.name and entry.file.samefile(labels):
            continue
        what = looks.look(entry)
        if what.reason:
            left_out.append(f'{entry.path} ({what.reason})')
        else:
            found.append(entry)
            sexes[entry.path] = what.male
    if not found and not archive.failures:
        raise DataError(
            f'{place}: no image there (PNG, JPEG, TIFF, BMP or DICOM) among {len(entries)} files'
        )
    labelled = {}
    lines = []
    if labels:
        labelled, lines = _label(found, place, labels, columns or {}, age_unit)
        lines = [f'{labels}: {line}' for line in lines]
    images = []
    for entry in found:
        unlabelled = Image(matching.IMAGE.sub('', entry.name), entry)
        image = labelled.get(entry.path, unlabelled)
        images.append(dataclasses.replace(image, header_male=sexes[entry.path]))
    return _with_unique_ids(images), lines + left_out_lines(left_out)


def _with_unique_ids(images: list[Image]) -> list[Image]:
    """Images whose id occurs twice (left/7.png beside right/7.png, 7.png beside 7.dcm) by path."""
    twice = duplicates(image.id for image in images)
    unique = []
    for image in images:
        if image.id in twice:
            image = dataclasses.replace(image, id=image.entry.path)
        unique.append(image)
    return unique


def _entries(archive: Archive, place: pathlib.Path) -> list[Entry]:
    if place.is_file() and place.suffix.lower() != '.zip':
        return [on_disk(place, printable(place.name))]
    if not place.exists():
        raise DataError(
            f'{place}: no such file or folder; give an image, a folder of images, or a zip of them'
        )
    return all_entries(archive, place)


def _label(
    found: Sequence[Entry],
    place: pathlib.Path,
    labels: pathlib.Path,
    columns: dict[str, str],
    age_unit: str,
) -> tuple[dict[str, Image], list[str]]:
    """{path: Image} of the images that a row names, and lines about rows that cannot be used."""
    if not labels.is_file():
        raise DataError(f'{labels}: no such file; give the CSV or xlsx with the ids and sexes')
    name = str(labels)
    rows = read_table(labels.read_bytes(), name)
    spec = _choose_columns(rows[0], columns, PER_YEAR[age_unit], name)
    rows, ageless = _fill_ages(rows, spec)
    problems = Problems('skip')
    parsed = parse(rows, spec, name, problems)
    check_unit([label for label in parsed if label.id not in ageless], spec, name)
    images = {}
    for label, entry in matching.pair(parsed, found, name, str(place), problems):
        months = None if label.id in ageless else label.months
        images[entry.path] = Image(label.id, entry, label.male, months)
    return images, [line for line in problems.lines() if not line.startswith(_UNSURE)]


def _choose_columns(
    header: dict[str, str], named: dict[str, str], per_year: int, table: str
) -> Columns:
    """The named columns, the others by their headers; ages may be missing, ids and sexes not."""
    chosen = find_columns(header)
    for key in chosen:
        chosen[key] = named.get(key) or chosen[key]
    missing = [key for key in ('id', 'male') if not chosen[key]]
    if missing:
        flags = ', '.join(f'--{key}_column=...' for key in missing)
        raise DataError(
            f'{table}: no column for {" and ".join(missing)} among '
            f'{", ".join(map(repr, header))}; name it: {flags}'
        )
    if chosen['months'] is None:
        chosen['months'] = _NO_AGES
    return Columns(**chosen, image=named.get('image') or None, per_year=per_year)


def _fill_ages(
    rows: list[dict[str, str]], columns: Columns
) -> tuple[list[dict[str, str]], set[str]]:
    """The rows, a missing age being the '0' that the parser needs, and the ids of such rows."""
    filled = []
    ageless = set()
    for row in rows:
        months = row.get(columns.months)
        if not months and columns.id in row:
            ageless.add(row[columns.id])
        filled.append(row | {columns.months: months or '0'})
    return filled, ageless
