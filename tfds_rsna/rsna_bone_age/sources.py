"""Finds the RSNA images and labels in a folder of any of the known layouts.

Known layouts (SHA-256 of the official zips in `official.py`), zipped or unpacked, folder names
single or doubled: the official training zip with `train.csv` (bare or in the annotations zip), the
official validation zip with its two inner zips, the official test zip with its xlsx, and Kaggle's
`boneage-training-dataset` with its csv.
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Sequence

from tfds_rsna import whole_month_labels
from tfds_rsna.columns import Columns, find_columns
from tfds_rsna.io.archive import Archive, Entry
from tfds_rsna.problems import DataError
from tfds_rsna.table_files import read_table

_SEPARATOR = r'[ +_-]*'
_SET = r'(?:data)?set'


def _pattern(text: str) -> re.Pattern:
    return re.compile(text.replace(' ', _SEPARATOR), re.IGNORECASE)


SPLITS = {
    'train': _pattern(rf'bone age training {_SET}'),
    'validation': _pattern(rf'bone age validation {_SET}'),
    'test': _pattern(rf'bone age test {_SET}|test set images'),
}
# Kaggle's whole download is called archive.zip or after the data set.
_ZIPS = _pattern(r'bone age|rsna|^archive[^/]*\.zip$')
_TABLES = {
    'train': _pattern(r'^(train|bone age training dataset)\.csv$'),
    'validation': _pattern(r'^(validation dataset|bone age validation dataset|validation)\.csv$'),
    'test': _pattern(r'^(bone age ground truth[^/]*|bone age test dataset|test)\.(xlsx|csv)$'),
}
# A zip shows up only where the archive lists packed ones instead of looking into them. Such a zip
# holds images.
_IMAGE = re.compile(r'\.(png|zip)$', re.IGNORECASE)
LOOKED_FOR = """\
  train:      Bone+Age+Training+Set.zip with Bone+Age+Training+Set+Annotations.zip (or its
              train.csv), or boneage-training-dataset (zip or folder, doubled too) with
              boneage-training-dataset.csv
  validation: Bone+Age+Validation+Set.zip, or the folder 'Bone Age Validation Set'
  test:       Bone+Age+Test+Set.zip, or the folder 'Bone Age Test Set' with
              'Bone age ground truth.xlsx\'"""


@dataclasses.dataclass(frozen=True)
class SplitSource:
    """What was found for a split.

    Attributes:
        images: its images by id.
        images_name: the zip or folder that they were taken from.
        candidates: the images of every place that has some, those of the place not taken too.
        table: the file of labels.
        rows: the rows of that file.
        columns: which of its columns hold what.
    """

    images: dict[str, Entry]
    images_name: str
    candidates: list[Entry]
    table: Entry
    rows: list[dict[str, str]]
    columns: Columns


def find(
    archive: Archive, folder: pathlib.Path, *, required: bool = True, quiet: bool = False
) -> dict[str, SplitSource]:
    """The official splits that are complete in `folder` (images and labels both), by name.

    Args:
        archive: keeps zips open while the images are read.
        folder: where to look.
        required: False allows that there is no split, and images without their labels (both are
            then to be downloaded).
        quiet: prints nothing about places not taken and images left out.

    Raises:
        DataError: none found (lists what was looked for and what is there), a split with images
            but no usable labels or the other way round where that cannot be meant, a bad zip, the
            wrong test labels.
    """
    if not folder.is_dir():
        raise DataError(
            f'{folder}: no such folder; --data_dir (or BONEAGE_DATA) names the folder with the '
            'RSNA files'
        )
    entries = list(archive.entries(folder, _ZIPS))
    found = {}
    for split in SPLITS:
        source = _find_split(entries, split, folder, required, quiet)
        if source is not None:
            found[split] = source
    if not found and required:
        there = ', '.join(sorted(path.name for path in folder.iterdir())[:12]) or 'nothing'
        raise DataError(
            f'{folder}: no RSNA bone age images here. Looked for:\n{LOOKED_FOR}\nFound: {there}'
        )
    return found


def _find_split(
    entries: Sequence[Entry], split: str, folder: pathlib.Path, required: bool, quiet: bool
) -> SplitSource | None:
    """One split, or None where its images or its labels are missing."""
    places = _places(entries, split)
    if not places:
        return None
    # From one place, that with most of them: mixing two could mix two sizes.
    name = max(places, key=lambda place: (len(places[place]), place))
    images = places[name]
    if len(places) > 1 and not quiet:
        print(f'{split}: images are in {", ".join(sorted(places))}; taking {name}', flush=True)
    tables = [entry for entry in entries if _TABLES[split].search(entry.name)]
    table = _table(tables, split)
    if table is not None:
        entry, rows, columns = table
        candidates = []
        for of_place in places.values():
            candidates += of_place.values()
        return SplitSource(images, name, candidates, entry, rows, columns)
    if split != 'test' and required:
        raise DataError(
            f'{folder}: {len(images)} {split} images in {name}, but no label table for them. '
            f'Looked for:\n{LOOKED_FOR}'
        )
    if required and not quiet:
        print(
            f'{name}: {len(images)} test images without labels are left out; their labels are in '
            "the official 'Bone age ground truth.xlsx'",
            flush=True,
        )
    return None


def _places(entries: Sequence[Entry], split: str) -> dict[str, dict[str, Entry]]:
    """{zip or folder: {id: image}} of a split."""
    places: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        if _IMAGE.search(entry.name) and _split_of(entry.path) == split:
            images = places.setdefault(_place_of(entry.path, split), {})
            images.setdefault(entry.name.rsplit('.', 1)[0], entry)
    return places


def _split_of(path: str) -> str | None:
    """The split whose name comes last in a path, or None.

    'boneage-test-dataset' inside an outer 'bone age' folder is test.
    """
    last = {}
    for split, pattern in SPLITS.items():
        for match in pattern.finditer(path):
            last[split] = match.start()
    return max(last, key=last.get, default=None)


def _place_of(path: str, split: str) -> str:
    """A path up to the first folder or zip that names the split.

    Doubled and inner folders are one place, and so are the two parts of the validation set.
    """
    start = SPLITS[split].search(path).start()
    return path[:start] + re.sub(r'-[12](\.zip)?$', '', path[start:].split('/', 1)[0])


def _table(
    tables: Sequence[Entry], split: str
) -> tuple[Entry, list[dict[str, str]], Columns] | None:
    """(entry, rows, columns) of the first table with ages, for the test set with the right ones."""
    refused = []
    for entry in tables:
        rows = read_table(entry.read(), entry.path, _has_all_columns)
        found = find_columns(rows[0], entry.path)
        if None in found.values():
            continue  # Kaggle's test csv: ids and sexes only
        columns = Columns(**found)
        if split == 'test' and _is_integer_file(rows, columns):
            refused.append(entry.path)
            continue
        return entry, rows, columns
    if refused:
        raise whole_month_labels.wrong(', '.join(refused))
    return None


def _has_all_columns(header: list[str]) -> bool:
    return None not in find_columns(header).values()


def _is_integer_file(rows: list[dict[str, str]], columns: Columns) -> bool:
    """Whether this is the other test label file that circulates."""
    ages = {}
    for row in rows:
        with contextlib.suppress(ValueError):  # the parser names it
            ages[row[columns.id]] = float(row[columns.months])
    return whole_month_labels.has_wrong_labels(ages)
