"""Opens a folder of prepared records."""

import csv
import dataclasses
import json
import pathlib

import numpy as np

from tfds_rsna.prepared.builder import Prepared, PreparedError
from tfds_rsna.prepared.records import Records
from tfds_rsna.prepared.writer import MARKER, SIDECAR


@dataclasses.dataclass(frozen=True)
class PreparedRecords:
    """An open folder.

    Attributes:
        splits: {split: `Records`}.
        labels: {split: {'ids': list of str, 'months': float32 [N], 'male': bool [N], 'width': int32
            [N], 'height': int32 [N], 'flags': list of str, 'groups': list of str (the patient, ''
            where nothing says), 'sources': list of str (where an image comes from, or '')}}, in the
            order of `splits`, read without touching an image.
        metadata: what `write` was given.
    """

    splits: dict[str, Records]
    labels: dict[str, dict]
    metadata: dict


def open(folder) -> PreparedRecords:
    """Opens the records that `prepared.write` left in `folder`.

    Raises:
        PreparedError: not such a folder, an unfinished one, or one whose parts disagree.
    """
    folder = pathlib.Path(folder)
    document = _document(folder)
    labels = _read_labels(folder / SIDECAR, list(document['counts']))
    builder = Prepared(data_dir=folder)
    splits = {split: Records(builder, split) for split in document['counts']}
    for split, count in document['counts'].items():
        found = {'images': len(splits[split]), 'labels': len(labels[split]['ids'])}
        if set(found.values()) != {count}:
            raise PreparedError(
                f'{folder}: split {split!r} should hold {count} records, found {found}; '
                'delete the folder and prepare again'
            )
    return PreparedRecords(splits=splits, labels=labels, metadata=document['metadata'])


def read_metadata(folder) -> dict:
    """The `metadata` of a finished folder, without opening its records; PreparedError as `open`."""
    return _document(pathlib.Path(folder))['metadata']


def _document(folder: pathlib.Path) -> dict:
    marker = folder / MARKER
    if not marker.exists():
        raise PreparedError(
            f'{folder}: no {MARKER}, so no finished prepared records; run prepare again'
        )
    return json.loads(marker.read_text())


def _read_labels(path: pathlib.Path, splits: list[str]) -> dict[str, dict]:
    rows = {split: [] for split in splits}
    with path.open(newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            rows[row['split']].append(row)
    return {
        split: {
            'ids': [row['id'] for row in of_split],
            'months': np.array([float(row['months']) for row in of_split], np.float32),
            'male': np.array([row['male'] == '1' for row in of_split], np.bool_),
            'width': np.array([int(row['width']) for row in of_split], np.int32),
            'height': np.array([int(row['height']) for row in of_split], np.int32),
            'flags': [row['flags'] for row in of_split],
            'groups': [
                row.get('group', '') for row in of_split
            ],  # older folders have no such columns
            'sources': [row.get('source', '') for row in of_split],
        }
        for split, of_split in rows.items()
    }
