"""Where a second run of the same classes gains: accuracy by distance of the true age to the nearest
class edge.

    python -m boneage_jax.compare_classes --without=runs/resnet_3 --with_sex=runs/resnet_3_sex --output=runs/sex_3

Hamrouni and Hassen (2023) say that the sex helps near the edges. OUTPUT gets `near_edges.csv` (a
line for each reported split, sex and distance, 'any' first:
`split,sex,months,images,first,second,gain,lower,upper`, shares; the gain with its paired bootstrap
interval) and a figure for each split. Any two finished runs of one set of class edges can be
compared, also a run that predicts ages with one that tells classes apart: its ages are cut at the
other's edges.
"""

import json
import pathlib

import numpy as np

from boneage_jax import figures
from boneage_jax.analysis import ensemble
from boneage_jax.data import splits as splits_lib
from boneage_jax.runs import predictions
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files
from boneage_jax.tasks import classes, metrics
from tfds_rsna.errors import UserError

ANY = 'any'
SPANS = {
    ANY: (0, np.inf),
    '0-3': (0, 3),
    '3-6': (3, 6),
    '6-12': (6, 12),
    '12-24': (12, 24),
    '24+': (24, np.inf),
}  # months
COLUMNS = ('split', 'sex', 'months', 'images', 'first', 'second', 'gain', 'lower', 'upper')


def compare(first, second, output):
    """Writes near_edges.csv and the figures into `output`; returns the lines as dicts.

    Raises UserError for runs of other classes or images, for two without classes, and where OUTPUT
    holds results.
    """
    runs, output = [pathlib.Path(first), pathlib.Path(second)], pathlib.Path(output)
    if (output / 'near_edges.csv').exists():
        raise UserError(f'{output} holds results already; delete it or choose another --output')
    known = [edges for edges in map(_edges, runs) if edges]
    if not known:
        raise UserError(
            f'{runs[0]} and {runs[1]} tell no classes apart; give a run of the task age_classes'
        )
    edges, other_edges = known[0], known[-1]
    if len(edges) != len(other_edges) or not np.allclose(edges, other_edges):
        raise UserError(
            f'{runs[0]} and {runs[1]} have other class edges: {_show(edges)} and {_show(other_edges)}'
        )
    names = workdir_lib.unique_names(runs)
    tables = [predictions.read(run / 'predictions.csv') for run in runs]
    lines = []
    for split in dict.fromkeys(tables[0]['split'].tolist()):
        if split not in splits_lib.REPORTED:
            continue
        a, b = (predictions.of_split(table, split) for table in tables)
        order = ensemble.align(split, runs[0], a['id'].tolist(), runs[1], b['id'].tolist())
        b = {name: column[order] for name, column in b.items()}
        hits = [_hits(images, edges) for images in (a, b)]
        for sex, chosen in (
            ('all', np.ones(len(a['age']), bool)),
            ('female', ~a['male']),
            ('male', a['male']),
        ):
            lines += [
                {'split': split, 'sex': sex, **line}
                for line in by_distance(a['age'][chosen], edges, *(hit[chosen] for hit in hits))
            ]
    if not lines:
        raise UserError(
            f'{runs[0]} reports no {" or ".join(splits_lib.REPORTED)} images to compare on'
        )
    output.mkdir(parents=True, exist_ok=True)
    for split in dict.fromkeys(line['split'] for line in lines):
        drawn = [
            line
            for line in lines
            if (line['split'], line['sex']) == (split, 'all') and line['months'] != ANY
        ]
        figures.near_edges(split, drawn, names, output / f'near_edges_{split}.png')
    files.write_rows(output / 'near_edges.csv', COLUMNS, lines)
    return lines


def by_distance(age, edges, first, second):
    """A line for all images, and for each span of distances that has some: ages `[N]` months, hits
    of both runs `[N]` bool.
    """
    nearest = np.abs(np.asarray(age)[:, None] - np.asarray(edges)[None, 1:-1]).min(1)
    lines = []
    for months, (low, high) in SPANS.items():
        inside = (low <= nearest) & (nearest < high)
        if inside.any():
            one, two = first[inside].astype(float), second[inside].astype(float)
            gain, lower, upper = metrics.paired_difference(two, one)
            lines.append(
                {
                    'months': months,
                    'images': int(inside.sum()),
                    'first': float(one.mean()),
                    'second': float(two.mean()),
                    'gain': gain,
                    'lower': lower,
                    'upper': upper,
                }
            )
    return lines


def _hits(images, edges):
    if 'class' in images:
        return images['class'] == images['true_class']
    return classes.class_of(images['prediction'], edges) == classes.class_of(images['age'], edges)


def _edges(run):
    for name in ('task.json', 'predictions.csv', 'metrics.json'):
        if not (run / name).is_file():
            raise UserError(f'{run}: no {name}; give the workdir of a finished run')
    return json.loads((run / 'task.json').read_text()).get('edges')


def _show(edges):
    return ', '.join(f'{edge:.1f}' for edge in edges)
