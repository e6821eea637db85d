"""Images for a network to read: found as the builder finds them, with what labels there are."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

from tfds_rsna.columns import Columns, describe, find_columns
from tfds_rsna.image_folder import looks, matching
from tfds_rsna.image_folder.source import PER_YEAR, all_entries
from tfds_rsna.io.archive import Archive, Entry, is_file, on_disk, printable
from tfds_rsna.labels import check_unit, parse, read_table
from tfds_rsna.problems import DataError, Problems, duplicates, left_out_lines

# A table of all images and a folder of some of them is no mistake.
_UNSURE = ('label without an image', 'image without a label')


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
            `columns.find_columns`.
        age_unit: 'months' or 'years'.

    Returns:
        The images, their ids unique; where there is a table a line on its columns and how many rows
        matched, and one for each kind of row that could not be used; and a line on the files that
        were left out.

    Raises:
        DataError: nothing there, no image there, a table that cannot be read or lacks a column, or
            whose rows name none of the images.
    """
    entries = _entries(archive, place)
    if labels:
        entries = [entry for entry in entries if not is_file(entry, labels)]
    unlabelled, others = from_entries(entries)
    left_out = list(archive.left_out)
    for entry, reason in others:
        left_out.append(f'{entry.path} ({reason})')
    if not unlabelled and not archive.failures:
        raise DataError(
            '; '.join(
                [
                    f'{place}: no image there (PNG, JPEG, TIFF, BMP or DICOM) among '
                    f'{len(entries)} files',
                    *left_out_lines(left_out),
                ]
            )
        )
    labelled = {}
    lines = []
    if labels:
        found = [image.entry for image in unlabelled]
        labelled, lines = _label(found, place, labels, columns or {}, age_unit)
        lines = [f'{labels}: {line}' for line in lines]
    images = []
    for image in unlabelled:
        found = labelled.get(image.entry.path, image)
        images.append(dataclasses.replace(found, header_male=image.header_male))
    return with_unique_ids(images), lines + left_out_lines(left_out)


def from_entries(entries: Sequence[Entry]) -> tuple[list[Image], list[tuple[Entry, str]]]:
    """The images among files, and the other files, each with what it is instead."""
    images = []
    others = []
    for entry in entries:
        what = looks.look(entry)
        if what.reason:
            others.append((entry, what.reason))
        else:
            name = matching.IMAGE.sub('', entry.name)
            images.append(Image(name, entry, header_male=what.male))
    return images, others


def with_unique_ids(images: list[Image]) -> list[Image]:
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
    """{path: Image} of the images that a row names, and lines about the table and its rows."""
    if not labels.exists() or labels.is_dir():  # a pipe is a table too
        raise DataError(f'{labels}: no such file; give the CSV or xlsx with the ids and sexes')
    name = str(labels)
    rows = read_table(labels.read_bytes(), name, functools.partial(_fits, columns))
    spec = _choose_columns(rows[0], columns, PER_YEAR[age_unit], name)
    if not spec.image and not columns.get('id'):
        spec = dataclasses.replace(spec, image=matching.file_column(rows, spec.id, found))
        if not spec.image:
            matching.refuse_other_ids(rows, spec.id, found, name)
    problems = Problems('skip')
    parsed = parse(rows, spec, name, problems, partial=True)
    doubts = check_unit(parsed, spec, name, rows)
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
    notes = [rows.note] if rows.note else []
    return images, [*notes, summary, *doubts, *matching.renamed(pairs), *_about_rows(problems)]


def _fits(named: dict[str, str], header: list[str]) -> bool:
    """Whether a header has an id, and a sex or an age; or so many that they are asked for."""
    if not set(filter(None, named.values())) <= set(header):
        return False
    try:
        found = find_columns(header, named=named)
    except DataError:
        return True
    return found['id'] is not None and (found['male'] or found['months']) is not None


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
