"""Writes a folder of prepared records: all of it, or nothing."""

import csv
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping

from tfds_rsna.errors import is_disk_full
from tfds_rsna.prepared.builder import Prepared, PreparedError, infer_features

MARKER = 'prepared.json'
SIDECAR = 'records.csv'
COLUMNS = ('split', 'index', 'id', 'months', 'male', 'width', 'height', 'flags', 'group', 'source')


def write(
    folder: str | pathlib.Path,
    splits: Mapping[str, Iterable[dict]],
    *,
    description: str = '',
    metadata: dict,
) -> pathlib.Path:
    """Streams examples into `folder`, in their order; nothing is left there unless all went well.

    Args:
        folder: must not exist yet, or be empty.
        splits: {split: iterable of examples}. An example has `image` uint8 [H, W, 1], `id` str,
            `months` float (months), `male` bool, `width`, `height` int (native pixels). It may
            also have the texts `flags`, `group` (the patient) and `source` (where it comes from),
            and fixed-size arrays such as `hand_mask` uint8 [H, W, 1] and `keypoints` float32
            [K, 2]. All examples have the entries, shapes and types of the first.
        description: one line for people, kept by TFDS.
        metadata: anything JSON can hold; `open(folder).metadata` gives it back.

    Returns:
        The folder: array_record shards under `prepared/1.0.0/`, `records.csv` (labels without
        images) and `prepared.json` (`metadata`, `counts`).

    Raises:
        PreparedError: `folder` holds something already.
        ValueError: a split without examples, or an example unlike the first; the message names
            both.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and any(folder.iterdir()):
        state = 'finished records' if (folder / MARKER).exists() else 'other files'
        raise PreparedError(f'{folder}: holds {state} already; delete it or choose another folder')
    json.dumps(metadata)  # fails here rather than after hours
    partial = folder.with_name(f'.{folder.name}.incomplete')
    shutil.rmtree(partial, ignore_errors=True)  # the rest of a run that was killed
    partial.mkdir(parents=True)
    try:
        _write_into(partial, splits, description, metadata)
        if folder.exists():
            folder.rmdir()
        os.rename(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # A full disk under one of the small files: the builder itself reports one under the shards.
        if isinstance(error, OSError) and is_disk_full(error):
            raise PreparedError(
                f'{folder}: the disk became full ({error.strerror}); make room'
            ) from error
        raise
    return folder


def _write_into(
    folder: pathlib.Path,
    splits: Mapping[str, Iterable[dict]],
    description: str,
    metadata: dict,
) -> None:
    iterators = {name: iter(examples) for name, examples in splits.items()}
    if not iterators:
        raise ValueError('no splits to write')
    # The first example decides what all have, and goes back to the front of its split.
    first_split = next(iter(iterators))
    first = next(iterators[first_split], None)
    if first is None:
        raise ValueError(f'split {first_split!r} has no examples')
    features = infer_features(first)
    iterators[first_split] = itertools.chain([first], iterators[first_split])
    counts = {}
    with open(folder / SIDECAR, 'w', newline='', encoding='utf-8') as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)

        def logged(split: str, examples: Iterator[dict]) -> Iterator[dict]:
            counts[split] = 0
            for example in examples:
                if set(example) != set(features):
                    raise ValueError(
                        f'{split} example {example.get("id")!r} has {sorted(example)}, '
                        f'the first has {sorted(features)}'
                    )
                rows.writerow(_row(split, counts[split], example))
                counts[split] += 1
                yield example

        builder = Prepared(
            data_dir=folder,
            features=features,
            description=description,
            splits={name: logged(name, examples) for name, examples in iterators.items()},
        )
        builder.download_and_prepare()
    shutil.rmtree(folder / 'downloads', ignore_errors=True)
    (folder / MARKER).write_text(json.dumps({'metadata': metadata, 'counts': counts}, indent=1))


def _row(split: str, index: int, example: Mapping) -> list:
    """The line of an example in the table of labels, in the order of `COLUMNS`."""
    return [
        split,
        index,
        example['id'],
        repr(float(example['months'])),
        int(example['male']),
        int(example['width']),
        int(example['height']),
        example.get('flags', ''),
        example.get('group', ''),
        example.get('source', ''),
    ]
