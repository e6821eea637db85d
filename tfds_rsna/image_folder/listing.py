"""Images to be read by a network: found as the builder finds them, but with as much of a label as
there is.
"""

import dataclasses
import pathlib

from tfds_rsna.image_folder import matching
from tfds_rsna.image_folder.source import PER_YEAR, all_entries
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Archive, Entry
from tfds_rsna.labels import Columns, check_unit, parse, read_table
from tfds_rsna.problems import DataError, Problems, duplicates

# Headers that are understood where no column is named, in lower case: those of RSNA, of Kaggle and
# common ones.
KNOWN = {
    'id': ('id', 'image id', 'case id', 'caseid', 'image_id', 'case_id', 'study', 'image', 'file'),
    'months': (
        'boneage',
        'bone age (months)',
        'ground truth bone age (months)',
        'bone age',
        'boneage_months',
        'age_months',
        'months',
        'age',
    ),
    'male': ('male', 'sex', 'gender'),
}
_UNSURE = (
    'label without an image',
    'image without a label',
)  # a table of all images and some of them are no mistake


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
        `KNOWN`.
        age_unit: 'months' or 'years'.

    Returns:
        The images, their ids unique, and a line for each kind of row that could not be used.

    Raises:
        DataError: nothing there, no image there, a table that cannot be read or lacks a column.
    """
    entries = _entries(archive, place)
    found = [entry for entry in entries if _is_image(entry)]
    if not found:
        raise DataError(
            f'{place}: no image there (PNG, JPEG, TIFF or DICOM) among {len(entries)} files'
        )
    known, lines = _labels(found, place, labels, columns or {}, age_unit) if labels else ({}, [])
    listed = [
        known.get(entry.path) or Image(matching.IMAGE.sub('', entry.name), entry) for entry in found
    ]
    twice = duplicates(
        example.id for example in listed
    )  # left/7.png beside right/7.png, or 7.png beside 7.dcm
    return [
        dataclasses.replace(example, id=example.entry.path) if example.id in twice else example
        for example in listed
    ], lines


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
    if matching.IMAGE.search(entry.name) or not matching.BARE.search(entry.name):
        return bool(matching.IMAGE.search(entry.name))
    try:
        return decoding.is_dicom(entry.read())
    except (DataError, OSError):
        return False


def _labels(found, place, labels, columns, age_unit):
    """{path: Image} of the images that a row of the table names, and the lines about rows that
    cannot be used.
    """
    if not labels.is_file():
        raise DataError(f'{labels}: no such file; give the CSV or xlsx with the ids and sexes')
    name, rows = str(labels), read_table(labels.read_bytes(), str(labels))
    chosen = {key: columns.get(key) or _guess(key, rows[0]) for key in KNOWN}
    missing = [key for key in ('id', 'male') if not chosen[key]]
    if missing:
        raise DataError(
            f'{name}: no column for {" and ".join(missing)} among {", ".join(map(repr, rows[0]))}; name '
            'it: ' + ', '.join(f'--{key}_column=...' for key in missing)
        )
    if (
        chosen['months'] is None
    ):  # the parser wants an age of every row; what stands in for it is taken out again
        chosen['months'] = '\0age'
    unknown = {
        row[chosen['id']] for row in rows if chosen['id'] in row and not row.get(chosen['months'])
    }
    rows = [row | {chosen['months']: row.get(chosen['months']) or '0'} for row in rows]
    spec = Columns(**chosen, image=columns.get('image') or None, per_year=PER_YEAR[age_unit])
    problems = Problems('skip')
    parsed = parse(rows, spec, name, problems)
    check_unit([label for label in parsed if label.id not in unknown], spec, name)
    pairs = matching.pair(parsed, found, name, str(place), problems)
    images_by_path = {
        entry.path: Image(
            label.id, entry, label.male, None if label.id in unknown else label.months
        )
        for label, entry in pairs
    }
    return images_by_path, [line for line in problems.lines() if not line.startswith(_UNSURE)]


def _guess(key, row):
    by_lower = {column.lower(): column for column in row}
    return next((by_lower[name] for name in KNOWN[key] if name in by_lower), None)
