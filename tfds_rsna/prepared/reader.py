"""Opens a folder of prepared records."""

import csv
import dataclasses
import json
import pathlib

import numpy as np

from tfds_rsna.prepared.builder import Prepared, PreparedError, damage_named
from tfds_rsna.prepared.records import Records
from tfds_rsna.prepared.writer import MARKER, SIDECAR


@dataclasses.dataclass(frozen=True)
class PreparedRecords:
    """An open folder.

    Attributes:
        splits: {split: `Records`}.
        labels: {split: columns}, in the order of `splits`, read without touching an image. The
            columns are 'months' float32 [N], 'male' bool [N], 'width' and 'height' int32 [N], and
            the lists of str 'ids', 'flags', 'groups' (the patient, '' where unknown) and
            'sources' (where an image comes from, or '').
        metadata: what `write` was given.
    """

    splits: dict[str, Records]
    labels: dict[str, dict]
    metadata: dict


def open(folder: str | pathlib.Path) -> PreparedRecords:
    """Opens the records that `prepared.write` left in `folder`.

    Raises:
        PreparedError: not such a folder, an unfinished one, or one whose parts disagree.
    """
    folder = pathlib.Path(folder)
    document = _document(folder)
    with damage_named(folder):
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


def read_metadata(folder: str | pathlib.Path) -> dict:
    """The `metadata` of a finished folder, without opening its records; PreparedError as `open`."""
    return _document(pathlib.Path(folder))['metadata']


def _document(folder: pathlib.Path) -> dict:
    marker = folder / MARKER
    if not marker.exists():
        raise PreparedError(
            f'{folder}: no {MARKER}, so no finished prepared records; run prepare again'
        )
    with damage_named(marker):
        document = json.loads(marker.read_text())
        if not all(isinstance(document[key], dict) for key in ('metadata', 'counts')):
            raise ValueError('no metadata or counts in it')
    return document


def _read_labels(path: pathlib.Path, splits: list[str]) -> dict[str, dict]:
    rows = {split: [] for split in splits}
    with path.open(newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            rows[row['split']].append(row)
    return {split: _columns(of_split) for split, of_split in rows.items()}


def _columns(rows: list[dict[str, str]]) -> dict:
    def texts(key: str) -> list[str]:
        return [row.get(key, '') for row in rows]  # older folders have no groups and sources

    return {
        'ids': texts('id'),
        'months': np.array(texts('months'), np.float64).astype(np.float32),
        'male': np.array(texts('male'), str) == '1',
        'width': np.array(texts('width'), str).astype(np.int32),
        'height': np.array(texts('height'), str).astype(np.int32),
        'flags': texts('flags'),
        'groups': texts('group'),
        'sources': texts('source'),
    }
