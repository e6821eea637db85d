"""What lies below the folders of a report: runs, sweeps' tables, and what other commands left
beside them.

Nothing here fails on a folder that an older release wrote, or a run that was cut off: what cannot
be read becomes a note.
"""

import csv
import dataclasses
import functools
import json
import os
import pathlib

from boneage_jax.analysis import table
from boneage_jax.figures import training
from boneage_jax.runs import predictions
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

DEPTH = 4  # folders below a given one
# What other commands leave: the file that tells, and how the section is called.
EXTRAS = {
    'orderedness.json': 'Embeddings',
    'stress.csv': 'Robustness',
    'near_edges.csv': 'Near class edges',
    'parts.json': 'Inside the network',
}
KINDS = {
    'accuracy': 'classes',
    'mae': 'ages',
    'iou': 'masks',
    'error_percent': 'points',
}  # by what metrics.json holds


@dataclasses.dataclass
class Run:
    """A workdir, or a folder that reads like one (an ensemble, a score). `config`, `report`: its
    JSON, or None.
    """

    place: pathlib.Path
    config: dict | None
    report: dict | None
    notes: list
    name: str = ''
    kin: list = dataclasses.field(
        default_factory=list
    )  # runs of the same images, whose records serve as well
    older: dict = dataclasses.field(
        default_factory=dict
    )  # {what metrics.json lacks: the splits in which it does}

    @property
    def splits(self):
        return (self.report or {}).get('splits', {})

    @functools.cached_property
    def kind(self):
        """'ages', 'classes', 'masks', 'points', or None where nothing was reported yet."""
        overall = next((of.get('overall', {}) for of in self.splits.values()), {})
        return next((kind for key, kind in KINDS.items() if key in overall), None)

    @functools.cached_property
    def images(self):
        """{split: {column: [N]}} of predictions.csv, of whatever columns it has; {} where it cannot
        be read.
        """
        path = self.place / 'predictions.csv'
        try:
            if self.kind in ('ages', 'classes'):
                images = predictions.read(path)
                return {
                    split: predictions.of_split(images, split)
                    for split in dict.fromkeys(images['split'].tolist())
                }
            name = 'iou' if self.kind == 'masks' else 'error_percent'
            return {
                split: {'id': ids, 'value': values}
                for split, (ids, values) in table.METRICS[name].images(self.place).items()
            }
        except (UserError, OSError, KeyError, ValueError) as error:
            self.notes.append(f'predictions.csv cannot be read: {error}')
            return {}

    @functools.cached_property
    def history(self):
        """The lines of metrics.jsonl, [] where there are none."""
        path = self.place / 'metrics.jsonl'
        try:
            return training.read(path) if path.exists() else []
        except (UserError, OSError) as error:
            self.notes.append(f'metrics.jsonl cannot be read: {error}')
            return []

    @functools.cached_property
    def complete(self):
        """`splits` with what an older release left out of them, computed from predictions.csv by
        the same functions.
        """
        filled = {}
        for split, of in self.splits.items():
            images = self.images.get(split)
            if self.kind not in ('ages', 'classes') or images is None:
                filled[split] = of
                continue
            anew = metrics.age_metrics(images['prediction'], images['age'], images['male'])
            said, here = of['overall']['mae']['value'], anew['overall']['mae']['value']
            if abs(said - here) > 1e-3 * max(1.0, abs(said)):
                self.notes.append(
                    f'metrics.json says MAE {said:.3f} on {split}, predictions.csv {here:.3f}: not of the '
                    'same run.'
                )
            elif missing := sorted(set(anew['overall']) - set(of['overall'])):
                self.older.setdefault(', '.join(missing), []).append(split)
            filled[split] = of | {
                'overall': anew['overall'] | of['overall'],
                **{
                    key: {
                        name: anew[key].get(name, {}) | values
                        for name, values in of.get(key, {}).items()
                    }
                    for key in ('by_sex', 'by_stage')
                },
            }
        return filled


@dataclasses.dataclass
class Sweep:
    """A folder with table.csv: `lines` as dicts of texts, `title` and `notes` from table.md."""

    place: pathlib.Path
    lines: list
    title: str
    notes: list
    name: str = ''


@dataclasses.dataclass
class Extra:
    """A folder that another command filled: `kind` of EXTRAS, its `file`."""

    place: pathlib.Path
    kind: str
    file: pathlib.Path
    name: str = ''


def find(folders):
    """(runs, sweeps, extras) below `folders`, each place once, in order; UserError where there is
    none at all.
    """
    found, seen = [], set()
    for folder in folders:
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise UserError(f'--workdir={folder}: no such folder')
        _look(folder, DEPTH, found, seen)
    if not found:
        raise UserError(
            f'--workdir={",".join(map(str, folders))}: neither runs (config.json, metrics.json) nor tables '
            '(table.csv) lie there'
        )
    places = [str(thing.place.absolute()) for thing in found]
    common = os.path.commonpath(places)
    for thing, place in zip(found, places):
        name = os.path.relpath(place, common)
        thing.name = pathlib.Path(common).name if name == '.' else name
    for run in found:
        if isinstance(run, Run) and (images := _images(run)):
            run.kin = [
                other
                for other in found
                if isinstance(other, Run) and other is not run and _images(other) == images
            ]
    return [[thing for thing in found if isinstance(thing, kind)] for kind in (Run, Sweep, Extra)]


def _images(run):
    """Which images a run saw, as far as its config says: runs that agree have the same records."""
    try:
        data = run.config['data']
        return (
            [data[key] for key in ('source', 'folder', 'stages', 'size', 'resize')]
            + [data['stage'][name] for name in data['stages'] if name in data['stage']]
            + [data.get(data['source'])]
        )
    except (KeyError, TypeError):
        return None


def _look(folder, depth, found, seen):
    place = folder.resolve()
    if place in seen:
        return
    seen.add(place)
    is_run = (folder / 'config.json').is_file() or (folder / 'metrics.json').is_file()
    if is_run:
        found.append(_run(folder))
    if (sweep := _sweep(folder)) is not None:
        found.append(sweep)
    found.extend(
        Extra(folder, kind, folder / file)
        for file, kind in EXTRAS.items()
        if (folder / file).is_file()
    )
    if depth:
        for inner in sorted(folder.iterdir()):
            if (
                inner.is_dir()
                and not inner.name.startswith('.')
                and inner.name not in ('checkpoints', 'figures', 'tensorboard', 'accepted')
            ):
                _look(inner, depth - 1, found, seen)


def _run(folder):
    notes = []
    config, report = (_json(folder / f'{name}.json', notes) for name in ('config', 'metrics'))
    if report is not None and not isinstance(report.get('splits'), dict):
        notes.append('metrics.json is not that of a run: it has no splits.')
        report = None
    elif report is None:
        notes.append('Not finished: there is no metrics.json.')
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
    text = (folder / 'table.md').read_text().splitlines() if (folder / 'table.md').is_file() else []
    title = next((line[2:] for line in text if line.startswith('# ')), folder.name)
    return Sweep(folder, lines, title, [line[2:] for line in text if line.startswith('- ')])


def _json(path, notes):
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
