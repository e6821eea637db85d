"""The runs of all folds as one: every image predicted by networks that have not seen it.

What `write` leaves reads like a run's workdir. Its split `fold` has every image outside the
holdout, each predicted by the run that held it out: neither trained on it nor selected by it. Its
holdout (or test) has the mean of all networks. Masks and points cannot be averaged: they have
`fold` alone. The validation images of one fold train others, so there is no validation split.
"""

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from boneage_jax import config as config_lib
from boneage_jax import figures, renamed, tasks
from boneage_jax.analysis import ensemble
from boneage_jax.analysis import table as table_lib
from boneage_jax.data import id_spaces
from boneage_jax.data import splits as splits_lib
from boneage_jax.runs import folds as folds_lib
from boneage_jax.runs import predictions, training_ids
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError

FOLDS = 'folds'  # the key of metrics.json that tells such a folder from an ensemble
_NEEDED = ('config.json', 'predictions.csv', 'metrics.json', 'splits.json')
_AGES = ('age', 'age_classes')  # kinds whose predictions can be averaged
_SEEN = ('train', splits_lib.SELECTING)

Table = dict[str, np.ndarray]


def members(workdirs: Sequence[pathlib.Path]) -> dict[int, list[pathlib.Path]]:
    """`{fold: [workdir, ...]}` of runs that are the folds of a cross-validation, else {}.

    Raises UserError as `runs.folds.by_fold`, and for a config.json that cannot be read.
    """
    data = {}
    for workdir in map(pathlib.Path, workdirs):
        data[str(workdir)] = _data(workdir) if (workdir / 'config.json').exists() else {}
    found = folds_lib.by_fold(data)
    return {fold: list(map(pathlib.Path, names)) for fold, names in found.items()}


def write(workdirs: Sequence[pathlib.Path], output: pathlib.Path) -> dict:
    """Writes the cross-validation of finished runs into `output`; returns its metrics.json.

    Args:
        workdirs: the runs of all folds, as many of each; several of a fold (seeds) are averaged.
        output: the folder, made where it is missing.

    Raises:
        UserError: `output` holds a run; the runs are not finished, are not all folds of the same
            division, or predict different things; one of them has seen an image that it reports.
    """
    workdirs = list(map(pathlib.Path, workdirs))
    output = pathlib.Path(output)
    if output.resolve() in map(pathlib.Path.resolve, workdirs) or (output / 'config.json').exists():
        raise UserError(f'--output={output} holds a run; choose a folder of its own')
    for workdir in workdirs:
        ensemble.require_finished(workdir, _NEEDED)
        splits_lib.refuse_selected(workdir_lib.read_metrics(workdir), workdir)
    of_folds = members(workdirs)
    if not of_folds:
        raise UserError(
            f'{", ".join(map(str, workdirs))}: not the folds of a cross-validation (data.folds)'
        )
    kind = _kind(workdirs)
    tables = {workdir: _read(workdir, kind) for workdir in workdirs}
    spaces = {workdir: _refuse_seen(workdir, tables[workdir]) for workdir in workdirs}
    images = {splits_lib.FOLD: _out_of_fold(of_folds, tables)}
    if kind in _AGES:
        for split in splits_lib.REPORTED:
            if split != splits_lib.FOLD and split in tables[workdirs[0]]:
                images[split] = _mean(split, tables)
    return _write(of_folds, output, images, spaces, kind)


def _data(workdir):
    """`data` of a run's config.json."""
    return renamed.config(workdir_lib.read_json(workdir / 'config.json'))['data']


def _kind(workdirs):
    kinds = {str(workdir): predictions.kind_of(workdir) for workdir in workdirs}
    if len(set(kinds.values())) > 1:
        listed = ', '.join(f'{name}: {kind}' for name, kind in kinds.items())
        raise UserError(f'the folds predict different things ({listed})')
    return next(iter(kinds.values()))


def _read(workdir, kind):
    """`{split: table}` of a run of any kind."""
    required = predictions.COLUMNS if kind in _AGES else (*predictions.COLUMNS[:4],)
    table = predictions.read(workdir / 'predictions.csv', required)
    return {split: predictions.of_split(table, split) for split in predictions.splits(table)}


def _refuse_seen(workdir, tables):
    """`{split: {id: its space}}` of what a run reports; refuses images that it has seen."""
    seen = training_ids.of_run(workdir, _SEEN)
    spaces = {}
    for split in splits_lib.REPORTED:
        if split not in tables:
            continue
        spaces[split] = training_ids.spaces(workdir, split)
        ids = tables[split]['id'].tolist()
        where = [spaces[split].get(image, id_spaces.UNDECLARED) for image in ids]
        leaked = seen.among(ids, where)
        if leaked:
            raise UserError(
                f'{workdir} trained on, or was selected by, {len(leaked)} of its {len(ids)} '
                f'{split} images, the first: {leaked[0]}; they would be reported as unseen'
            )
    return spaces


def _out_of_fold(of_folds, tables):
    """The table of every image, each predicted by the runs of its fold."""
    parts = []
    owner = {}
    for fold, workdirs in of_folds.items():
        for workdir in workdirs:
            if splits_lib.FOLD not in tables[workdir]:
                raise UserError(f'{workdir}: predictions.csv has no split {splits_lib.FOLD}')
        part = _mean(splits_lib.FOLD, {workdir: tables[workdir] for workdir in workdirs})
        for image in part['id'].tolist():
            if image in owner:
                raise UserError(
                    f'image {image} is in fold {owner[image]} and in fold {fold}: not folds of the '
                    'same images'
                )
            owner[image] = fold
        parts.append(part)
    return predictions.join(parts)


def _mean(split, tables):
    """The mean of one split over runs that predict the same images; `tables` by workdir.

    Of classes the mean probabilities, and the likeliest class by them.
    """
    named = {str(workdir): {split: of_run[split]} for workdir, of_run in tables.items()}
    first, *others = [of_run[split] for of_run in named.values()]
    if not others:
        return first
    if 'prediction' not in first:
        raise UserError(
            f'{", ".join(named)}: several runs of a fold, whose masks or points cannot be '
            'averaged; give one of each'
        )
    mean = ensemble.combine(named)[split]
    probabilities = [name for name in first if name.startswith('probability_')]
    aligned = []
    for name, of_run in named.items():
        aligned.append(
            predictions.align(of_run[split], mean, where=split, name=name, other='the others')
        )
    for name in probabilities:
        mean[name] = np.mean([table[name] for table in aligned], axis=0)
    if probabilities:
        stacked = np.stack([mean[name] for name in probabilities], axis=1)
        mean['class'] = np.argmax(stacked, axis=1)
        mean['true_class'] = aligned[0]['true_class']
    return mean


def _write(of_folds, output, images, spaces, kind):
    workdirs = [workdir for of_fold in of_folds.values() for workdir in of_fold]
    first = images[splits_lib.FOLD]
    names = [name for name in first if name not in predictions.COLUMNS[:4]]
    names = [name for name in names if all(name in table for table in images.values())]
    scored = {}
    for split, table in images.items():
        columns = {name: table[name] for name in names}
        scored[split] = (ensemble.labels_of(split, table), columns)
    output.mkdir(parents=True, exist_ok=True)
    files.write_json(output / 'splits.json', _ids(workdirs, images, spaces))
    evaluate.write_predictions(output, scored)

    reports = list(map(workdir_lib.read_metrics, workdirs))
    about = {
        'members': list(map(str, workdirs)),
        FOLDS: len(of_folds),
        'data': table_lib.describe(_data(workdirs[0])),
        'selected_by': f'{splits_lib.SELECTING} of each fold',
        **_provenance(reports),
        'labels': workdir_lib.label_digests({name: labels for name, (labels, _) in scored.items()}),
    }
    # The floor of a median, and the largest class: those of all images outside the holdout.
    task = _task(workdirs[0], kind)
    report = evaluate.write_metrics(output, scored, task, first['age'], about)
    figures.from_run(output)
    for split, of_split in report['splits'].items():
        log.info(f'{split} ({of_split["images"]} images): {task.summary_line(of_split)}')
    log.info(f'All figures: {output / "metrics.json"}')
    return report


def _task(workdir, kind) -> tasks.Task:
    """What reports the images: of classes and masks the first fold's task."""
    if kind == 'age':
        return ensemble.TASK
    config: ml_collections.ConfigDict = config_lib.from_json(workdir / 'config.json')
    return tasks.build(config.task, workdir_lib.read_json(workdir / 'task.json'))


def _ids(workdirs, images, spaces: Mapping) -> dict:
    """The content of splits.json: what any of the networks trained on, and what is reported."""
    trained = id_spaces.IdSet()
    for workdir in workdirs:
        trained.update(training_ids.of_run(workdir))
    content = {'train': [image for _, image in trained.items()]}
    runs = {'train': id_spaces.runs(space for space, _ in trained.items())}
    for split, table in images.items():
        known = {}
        for of_run in spaces.values():
            known |= of_run[split]
        ids = table['id'].tolist()
        content[split] = ids
        runs[split] = id_spaces.runs(known[image] for image in ids)
    return content | {training_ids.SPACES: runs}


def _provenance(reports):
    """With what the folds were made; the minutes are those of all of them."""
    found = workdir_lib.provenance()
    commits = [report['commit'] for report in reports if report.get('commit')]
    found['commit'] = ' '.join(dict.fromkeys(commits)) or None
    for key in ('processor', 'device'):
        values = [report[key] for report in reports if key in report]
        if values:
            found[key] = '; '.join(dict.fromkeys(values))
    minutes = [report['minutes'] for report in reports if 'minutes' in report]
    if minutes:
        found['minutes'] = round(sum(minutes), 2)
    return found
