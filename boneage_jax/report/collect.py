"""What is below the folders of a report: runs, sweeps' tables, and what other commands left.

Nothing here fails on a folder that an older release wrote, or on a run that was cut off: what
cannot be read becomes a note.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import pathlib

import numpy as np

from boneage_jax import renamed
from boneage_jax.analysis import table
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures import training
from boneage_jax.inference import intervals
from boneage_jax.runs import predictions
from boneage_jax.tasks import metrics
from tfds_rsna.cells import refuse_spare
from tfds_rsna.errors import UserError
from tfds_rsna.problems import REJECTED_HEADER

DEPTH = 4  # folders below a given one
_SKIPPED = ('checkpoints', 'figures', 'tensorboard', 'accepted')  # folders without runs
# What other commands leave: the file that tells, and how the section is called.
EXTRAS = {
    'distance_age_correlation.json': 'Embeddings',
    'orderedness.json': 'Embeddings',  # of releases before 0.2
    'robustness.csv': 'Robustness',
    'class_edges.csv': 'Near class edges',
    'parts.json': 'Inside the network',
}
AGES = ('age', 'age_classes')  # kinds of runs that predict ages
# What a page shows of each image, by the kind of other runs: a column of predictions.csv.
VALUES = {'segmentation': 'iou', 'keypoints': 'error_percent', 'similarity': 'error_percent'}
# Columns by which a table of `predict` is known; older releases wrote neither status nor flags.
_PREDICTED = {'id', 'file', 'male', 'prediction', 'years', 'lower', 'upper'}
# What decides, beside the stages, which images a run saw.
_DATA_KEYS = ('source', 'folder', 'stages', 'size', 'resize')
_SOURCE_OPTIONS = {'hand_phantom': 'phantom', 'image_folder': 'image_folder'}


@dataclasses.dataclass
class Run:
    """A workdir, or a folder that reads like one (an ensemble, a score).

    Attributes:
        place: the folder.
        config: config.json, None where there is none.
        report: metrics.json, None where there is none.
        notes: what could not be read.
        name: how the page calls it.
        kin: runs of the same images, whose records serve as well.
        older: {what metrics.json lacks: the splits in which it does}.
    """

    place: pathlib.Path
    config: dict | None
    report: dict | None
    notes: list[str]
    name: str = ''
    kin: list[Run] = dataclasses.field(default_factory=list)
    older: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def splits(self) -> dict[str, dict]:
        return (self.report or {}).get('splits', {})

    @functools.cached_property
    def kind(self) -> str | None:
        """What it predicts, as `tasks.Task.kind`; None where nothing was reported yet."""
        return predictions.kind_in(self.report or {})

    @functools.cached_property
    def images(self) -> dict[str, dict[str, np.ndarray]]:
        """{split: {column: [N]}} of predictions.csv; {} where it cannot be read.

        A run that predicts no ages has `value`, the figure of each image.
        """
        required = predictions.COLUMNS
        if self.kind in VALUES:
            required = ('id', 'split', VALUES[self.kind])
        try:
            images = predictions.read(self.place / 'predictions.csv', required)
        except (UserError, OSError, ValueError) as error:
            self.notes.append(f'predictions.csv cannot be read: {error}')
            return {}
        if self.kind in VALUES:
            images['value'] = images[VALUES[self.kind]]
        found = {}
        for split in predictions.splits(images):
            found[split] = predictions.of_split(images, split)
        return found

    @functools.cached_property
    def fitted(self) -> intervals.Intervals | None:
        """90% intervals from its own validation images; None where these are not at hand."""
        selecting = self.images.get(splits_lib.SELECTING)
        if self.kind not in AGES or selecting is None:
            return None
        try:
            return intervals.fit(selecting)
        except intervals.MissingIntervalsError:
            return None

    def bounded(self, split: str) -> dict[str, np.ndarray] | None:
        """`images` of a split with `lower` and `upper` of each; None of a run without intervals."""
        images = self.images.get(split)
        if images is None or self.fitted is None:
            return None
        signals = intervals.signals_of(images)
        lower, upper = self.fitted.bounds(images['prediction'], images['male'], signals)
        return images | {'lower': lower, 'upper': upper}

    @functools.cached_property
    def history(self) -> list[dict]:
        """The lines of metrics.jsonl, [] where there are none."""
        path = self.place / 'metrics.jsonl'
        try:
            return training.read(path) if path.exists() else []
        except (UserError, OSError) as error:
            self.notes.append(f'metrics.jsonl cannot be read: {error}')
            return []

    @functools.cached_property
    def complete(self) -> dict[str, dict]:
        """`splits` with what an older release left out, computed by the same functions."""
        filled = {}
        for split, of_split in self.splits.items():
            images = self.images.get(split)
            if self.kind in AGES and images is not None:
                of_split = self._fill(split, of_split, images)
            filled[split] = of_split
        return filled

    def _fill(self, split, of_split, images):
        anew = metrics.age_metrics(images['prediction'], images['age'], images['male'])
        reported = of_split['overall']['mae']['value']
        computed = anew['overall']['mae']['value']
        missing = sorted(set(anew['overall']) - set(of_split['overall']))
        if abs(reported - computed) > 1e-3 * max(1.0, abs(reported)):
            self.notes.append(
                f'metrics.json says MAE {reported:.3f} on {split}, predictions.csv '
                f'{computed:.3f}: not of the same run.'
            )
        elif missing:
            self.older.setdefault(', '.join(missing), []).append(split)
        filled = of_split | {'overall': anew['overall'] | of_split['overall']}
        for key in ('by_sex', 'by_stage'):
            filled[key] = {}
            for group, values in of_split.get(key, {}).items():
                filled[key][group] = anew[key].get(group, {}) | values
        return filled


@dataclasses.dataclass
class Sweep:
    """A folder with table.csv: `lines` as dicts of texts, `title` and `notes` from table.md."""

    place: pathlib.Path
    lines: list[dict[str, str]]
    title: str
    notes: list[str]
    name: str = ''


@dataclasses.dataclass
class Extra:
    """A folder that another command filled: `kind` of EXTRAS, its `file`."""

    place: pathlib.Path
    kind: str
    file: pathlib.Path
    name: str = ''


@dataclasses.dataclass
class Predicted:
    """A table of `predict`.

    Attributes:
        place: the file.
        rows: its lines as dicts of texts; all have `status` and `flags`.
        rejected: the lines of the list beside it, `id`, `file` and `reason`.
        notes: what could not be read.
        name: how the page calls it.
    """

    place: pathlib.Path
    rows: list[dict[str, str]]
    rejected: list[dict[str, str]]
    notes: list[str]
    name: str = ''


def find(folders: list) -> tuple[list[Run], list[Sweep], list[Extra], list[Predicted]]:
    """What is below `folders`, each place once, in order; one of them may be a table of `predict`.

    Raises UserError for a folder that does not exist, and where nothing at all is found.
    """
    found = []
    seen = set()
    for folder in map(pathlib.Path, folders):
        if folder.is_file():
            _look_at_table(folder, found, seen, given=True)
        elif folder.is_dir():
            _look(folder, DEPTH, found, seen)
        else:
            raise UserError(f'--workdir={folder}: no such folder or table')
    if not found:
        raise UserError(
            f'--workdir={",".join(map(str, folders))}: neither runs (config.json, metrics.json) '
            'nor tables (table.csv, or what predict wrote) lie there'
        )
    _name(found)
    runs = [thing for thing in found if isinstance(thing, Run)]
    _join_kin(runs)
    sweeps = [thing for thing in found if isinstance(thing, Sweep)]
    extras = [thing for thing in found if isinstance(thing, Extra)]
    predicted = [thing for thing in found if isinstance(thing, Predicted)]
    return runs, sweeps, extras, predicted


def _name(found):
    """Calls each thing by its path below the folder that all of them share."""
    places = [str(thing.place.absolute()) for thing in found]
    common = os.path.commonpath(places)
    for thing, place in zip(found, places):
        name = os.path.relpath(place, common)
        thing.name = pathlib.Path(common).name if name == '.' else name


def _join_kin(runs):
    for run in runs:
        images = _images(run)
        if not images:
            continue
        for other in runs:
            if other is not run and _images(other) == images:
                run.kin.append(other)


def _images(run):
    """Which images a run saw, as far as its config says: runs that agree have the same records."""
    try:
        data = run.config['data']
        options = data['stage_options']
        seen = [data[key] for key in _DATA_KEYS]
        seen += [options[name] for name in data['stages'] if name in options]
        if data['source'] in _SOURCE_OPTIONS:
            seen.append(data[_SOURCE_OPTIONS[data['source']]])
    except (KeyError, TypeError):
        return None
    return seen


def _look(folder, depth, found, seen):
    place = folder.resolve()
    if place in seen:
        return
    seen.add(place)
    if (folder / 'config.json').is_file() or (folder / 'metrics.json').is_file():
        found.append(_run(folder))
    sweep = _sweep(folder)
    if sweep is not None:
        found.append(sweep)
    for file, kind in EXTRAS.items():
        if (folder / file).is_file():
            found.append(Extra(folder, kind, folder / file))
    for path in sorted(folder.glob('*.csv')):
        _look_at_table(path, found, seen)
    if not depth:
        return
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and not inner.name.startswith('.') and inner.name not in _SKIPPED:
            _look(inner, depth - 1, found, seen)


def _look_at_table(path, found, seen, given=False):
    """Adds a table of `predict`; another CSV is passed over, or refused where it was `given`."""
    place = pathlib.Path(os.path.realpath(path))  # of a link to itself too
    if place in seen:
        return
    seen.add(place)
    try:
        columns, rows = _lines(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if given:
            raise UserError(f'--workdir={path}: no CSV in UTF-8 ({error})') from error
        return
    if not set(columns) >= _PREDICTED:
        if given:
            raise UserError(
                f'--workdir={path}: a folder, or a table that predict wrote, is expected; its '
                f'columns are {", ".join(columns) or "none"}'
            )
        return
    for row in rows:
        row['status'] = row.get('status') or predictions.OK
        row['flags'] = row.get('flags') or ''
    notes = []
    rejected = []
    beside = path.with_name(f'{path.stem}_rejected.csv')
    try:
        columns, lines = _lines(beside) if beside.is_file() else ([], [])
        if ','.join(columns) == REJECTED_HEADER:
            rejected = lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        notes.append(f'{beside.name} cannot be read ({error}).')
    found.append(Predicted(path, rows, rejected, notes))


def _lines(path):
    """(columns, lines as dicts) of a CSV; no lines where it is no table of `predict`.

    UserError where such a table has a line with more cells than columns.
    """
    with path.open(newline='', encoding='utf-8-sig') as file:
        reader = csv.DictReader(file, strict=True)
        columns = reader.fieldnames or []
        if not set(columns) >= _PREDICTED and ','.join(columns) != REJECTED_HEADER:
            return columns, []
        lines = []
        for line in reader:
            refuse_spare(line, f'{path}, line {reader.line_num}')
            lines.append(line)
        return columns, lines


def _run(folder):
    notes = []
    config = read_json(folder / 'config.json', notes)
    if config is not None:
        config = renamed.config(config)
    report = read_report(folder / 'metrics.json', notes)
    if report is None:
        notes.append('Not finished: there is no metrics.json.')
    elif not isinstance(report.get('splits'), dict):
        notes.append('metrics.json is not that of a run: it has no splits.')
        report = None
    return Run(folder, config, report, notes)


def _sweep(folder):
    path = folder / 'table.csv'
    if not path.is_file():
        return None
    with path.open(newline='') as file:
        reader = csv.DictReader(file)
        if not set(table.COLUMNS) <= set(reader.fieldnames or ()):
            return None
        lines = list(reader)
    page = folder / 'table.md'
    text = page.read_text().splitlines() if page.is_file() else []
    titles = [line[2:] for line in text if line.startswith('# ')]
    notes = [line[2:] for line in text if line.startswith('- ')]
    return Sweep(folder, lines, titles[0] if titles else folder.name, notes)


def read_report(path: pathlib.Path, notes: list[str]) -> dict | None:
    """A JSON file of figures with the names of today; None as `read_json` gives it."""
    report = read_json(path, notes)
    return None if report is None else renamed.report(report)


def read_json(path: pathlib.Path, notes: list[str]) -> dict | None:
    """A JSON object; None, and a line in `notes`, where it cannot be read, None without a file."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text())
        if isinstance(value, dict):
            return value
        raise ValueError('not an object')
    except (OSError, ValueError) as error:
        notes.append(f'{path.name} cannot be read ({error}).')
        return None
