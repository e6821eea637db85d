"""Where a second run of the same classes gains: accuracy by distance to the nearest class edge.

Hamrouni and Hassen (2023) say that the sex helps near the edges. A run that predicts ages can be
compared with one that tells classes apart: its ages are cut at the other's edges.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from boneage_jax import cli, figures
from boneage_jax.data import splits as splits_lib
from boneage_jax.runs import predictions
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from boneage_jax.tasks import classes, metrics
from tfds_rsna.errors import UserError

RESULT = 'class_edges.csv'
ANY = 'any'
SPANS = {  # months
    ANY: (0, np.inf),
    '0-3': (0, 3),
    '3-6': (3, 6),
    '6-12': (6, 12),
    '12-24': (12, 24),
    '24+': (24, np.inf),
}
COLUMNS = ('split', 'sex', 'months', 'images', 'first', 'second', 'gain', 'lower', 'upper')


def compare(first: pathlib.Path, second: pathlib.Path, output: pathlib.Path) -> list[dict]:
    """Writes class_edges.csv and the figures into `output`; returns the lines.

    Raises UserError for runs of other classes or images, for two without classes, and where OUTPUT
    holds results.
    """
    runs = [pathlib.Path(first), pathlib.Path(second)]
    output = pathlib.Path(output)
    cli.refuse_results(output, RESULT)
    edges = _common_edges(runs)
    names = workdir_lib.unique_names(runs)
    one, two = (predictions.read(run / 'predictions.csv') for run in runs)

    lines = []
    for split in predictions.splits(one):
        if split in splits_lib.REPORTED:
            a = predictions.of_split(one, split)
            b = predictions.of_split(two, split)
            b = predictions.align(b, a, where=split, name=runs[1], other=runs[0])
            for line in _of_each_sex(a, b, edges):
                lines.append({'split': split, **line})
    if not lines:
        raise UserError(
            f'{runs[0]} reports no {" or ".join(splits_lib.REPORTED)} images to compare on'
        )
    output.mkdir(parents=True, exist_ok=True)
    _draw(lines, names, output)
    files.write_rows(output / RESULT, COLUMNS, lines)
    _print(lines)
    log.info(f'{output / RESULT} and figures beside it')
    return lines


def _common_edges(runs):
    """The class edges in months of the runs that have some."""
    known = [edges for edges in map(_edges, runs) if edges]
    if not known:
        raise UserError(
            f'{runs[0]} and {runs[1]} tell no classes apart; give a run of the task age_classes'
        )
    one, other = known[0], known[-1]
    if len(one) != len(other) or not np.allclose(one, other):
        raise UserError(
            f'{runs[0]} and {runs[1]} have other class edges: {_show(one)} and {_show(other)}'
        )
    return one


def _edges(run):
    for name in ('task.json', 'predictions.csv', 'metrics.json'):
        if not (run / name).is_file():
            raise UserError(f'{run}: no {name}; give the workdir of a finished run')
    return json.loads((run / 'task.json').read_text()).get('edges')


def _show(edges):
    return ', '.join(f'{edge:.1f}' for edge in edges)


def _of_each_sex(first, second, edges):
    """The lines of one split, of all its images and of each sex; the tables are in one order."""
    age = first['age']
    male = first['male']
    first_hits = _hits(first, edges)
    second_hits = _hits(second, edges)
    groups = {'all': np.ones(len(age), bool), 'female': ~male, 'male': male}
    lines = []
    for sex, chosen in groups.items():
        for line in by_distance(age[chosen], edges, first_hits[chosen], second_hits[chosen]):
            lines.append({'sex': sex, **line})
    return lines


def _hits(images, edges):
    if 'class' in images:
        return images['class'] == images['true_class']
    return classes.class_of(images['prediction'], edges) == classes.class_of(images['age'], edges)


def by_distance(
    age: np.ndarray, edges: Sequence[float], first: np.ndarray, second: np.ndarray
) -> list[dict]:
    """A line for all images, and for each span of distances that has some.

    Args:
        age: true ages `[N]` months.
        edges: of the classes, the outer ones included.
        first: whether the first run is right `[N]` bool.
        second: whether the second one is.
    """
    inner = np.asarray(edges)[1:-1]
    nearest = np.abs(np.asarray(age)[:, None] - inner).min(1)
    lines = []
    for months, (low, high) in SPANS.items():
        inside = (low <= nearest) & (nearest < high)
        if not inside.any():
            continue
        one = first[inside].astype(float)
        two = second[inside].astype(float)
        gain, lower, upper = metrics.paired_difference(two, one)
        line = {
            'months': months,
            'images': int(inside.sum()),
            'first': float(one.mean()),
            'second': float(two.mean()),
            'gain': gain,
            'lower': lower,
            'upper': upper,
        }
        lines.append(line)
    return lines


def _draw(lines, names, output):
    for split in dict.fromkeys(line['split'] for line in lines):
        drawn = []
        for line in lines:
            if line['split'] == split and line['sex'] == 'all' and line['months'] != ANY:
                drawn.append(line)
        figures.near_edges(split, drawn, names, output / f'class_edges_{split}.png')


def _print(lines):
    for line in lines:
        first, second, gain, lower, upper = (100 * line[name] for name in COLUMNS[-5:])
        print(
            f'{line["split"]} {line["sex"]:6} {line["months"]:>6} months from an edge: '
            f'{line["images"]:5} images, accuracy {first:5.1f}% and {second:5.1f}%, '
            f'gain {gain:+.1f} points ({lower:+.1f} to {upper:+.1f})'
        )
