"""The mean of several finished runs, image by image, from their predictions.csv: a tool over
predictions, not a model.

    python -m boneage_jax.ensemble --workdirs=runs/full/seed0,runs/full/seed1 --output=runs/full_mean
    python -m boneage_jax.ensemble --workdirs='runs/full/seed*' --output=runs/full_mean

The output folder reads like a run's workdir: predictions.csv, metrics.json (with the members, and
the label fingerprints and the leak check on which they agree), splits.json, figures/; beside them
the correlation of the members' errors on each reported split (CSV and figure): where it is high,
averaging gains little. Members count alike: no weight is fitted, so none can be fitted on images
that are reported. Networks of one sex (`data.sex`) join: an image gets the mean of the members that
predict it, and all members of a sex must predict the same images of it. Members that predict other
images, or trained on images reported here, are refused.
"""

import dataclasses
import glob
import json
import pathlib

import numpy as np

from boneage_jax import figures, tasks
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures import ensembles as ensemble_figures
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from boneage_jax.tasks import ages, metrics
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError

TASK = tasks.Task(
    None, None, ages.report, ages.summary_line
)  # to report ages; nothing is learned here
_NEEDED = ('predictions.csv', 'metrics.json', 'splits.json')


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The images of one split in the order of predictions.csv: `ids` list of str; `male` bool, the
    others months, `[N]`.
    """

    ids: list
    male: np.ndarray
    months: np.ndarray
    prediction: np.ndarray
    sources: tuple = ()

    def __len__(self):
        return len(self.ids)

    @property
    def errors(self):
        """Predicted minus true age, months `[N]`."""
        return self.prediction - self.months


def read(workdir):
    """`{split: Images}` of a run that predicts ages; UserError names the file and what is wrong
    with it.
    """
    path = pathlib.Path(workdir) / 'predictions.csv'
    table, found = predictions_lib.read(path), {}
    for split in dict.fromkeys(table['split'].tolist()):
        chosen = predictions_lib.of_split(table, split)
        images = Predictions(
            chosen['id'].tolist(), chosen['male'], chosen['age'], chosen['prediction']
        )
        if len(set(images.ids)) < len(images):
            twice = next(image for image in images.ids if images.ids.count(image) > 1)
            raise UserError(f'{path}: image {twice} stands in {split} twice')
        found[split] = images
    return found


def load(workdirs):
    """`(members {name: {split: Images}}, their mean {split: Images}, their training images {name:
    [id, ...]})`.

    Raises UserError where the runs cannot be averaged: see `combine` and `refuse_leak`.
    """
    workdirs = [pathlib.Path(workdir) for workdir in workdirs]
    for workdir in workdirs:
        missing = [name for name in _NEEDED if not (workdir / name).exists()]
        if missing:
            raise UserError(
                f'{workdir}: no {", ".join(missing)}; members are workdirs of finished runs'
            )
    names = [name.replace(',', '_') for name in workdir_lib.unique_names(workdirs)]
    for workdir in workdirs:
        splits_lib.refuse_selected(_json(workdir / 'metrics.json'), workdir)
    members = {name: read(workdir) for name, workdir in zip(names, workdirs)}
    images = combine(members)
    trained = {
        name: _json(workdir / 'splits.json', 'train') for name, workdir in zip(names, workdirs)
    }
    check_no_leakage(trained, images)
    return members, images, trained


def combine(members):
    """The unweighted mean prediction of each image, over the members that predict it.

    Args:
        members: `{name: {split: Images}}`, two or more; the names are used in messages. A member
            with images of one sex alone is a network of that sex.

    Returns:
        `{split: Images}`: the images of all members, in the first one's order, further ones behind.

    Raises:
        UserError: members differ in splits, in the images of a sex that both have, or in ages; the
            message names the first difference.
    """
    if len(members) < 2:
        raise UserError(
            f'an ensemble needs two members or more; found {", ".join(members) or "none"}'
        )
    (first, reference), *others = members.items()
    for name, other in others:
        if set(other) != set(reference):
            raise UserError(
                f'{first} predicts {", ".join(reference)}, but {name} {", ".join(other)}: not the same splits'
            )
    sexes = {
        name: {bool(sex) for images in member.values() for sex in images.male}
        for name, member in members.items()
    }
    return {
        split: _mean(split, {name: member[split] for name, member in members.items()}, sexes)
        for split in reference
    }


def _mean(split, images, sexes):
    """The mean of one split; `sexes` `{name: the sexes that the member has in any split}`."""
    for sex, whose in ((False, 'girls'), (True, 'boys')):
        (first, reference), *others = [
            (name, of_sex(images[name], sex)) for name in images if sex in sexes[name]
        ] or [('', None)]
        for name, other in others:
            _require_same(split, whose, first, reference, name, other)
    union = join(list(images.values()))
    total, count = np.zeros(len(union)), np.zeros(len(union))
    for name, member in images.items():
        places = _places(union, member)
        wrong = np.flatnonzero(union.male[places] != member.male)
        if len(wrong):
            raise UserError(
                f'{split}, image {member.ids[wrong[0]]}: male is {member.male[wrong[0]]} in {name}, but not in '
                'every member: not the same labels'
            )
        total[places] += member.prediction
        count[places] += 1
    return dataclasses.replace(union, prediction=total / count)


def of_sex(images, male):
    """The Images of one sex (bool)."""
    chosen = np.flatnonzero(images.male == male)
    return Predictions(
        [images.ids[i] for i in chosen],
        images.male[chosen],
        images.months[chosen],
        images.prediction[chosen],
    )


def join(parts):
    """One Images of all images in `parts`, each once, as the first part that has it says."""
    ids = list(dict.fromkeys(image for part in parts for image in part.ids))
    known = {}
    for part in parts:
        for i, image in enumerate(part.ids):
            known.setdefault(image, (part.male[i], part.months[i], part.prediction[i]))
    return Predictions(
        ids, *(np.asarray(column) for column in zip(*(known[image] for image in ids)))
    )


def _places(images, member):
    """Where the images of `member` stand in `images`, which has them all: `[M]`."""
    place = {image: i for i, image in enumerate(images.ids)}
    return np.asarray([place[image] for image in member.ids], int)


def _require_same(split, whose, first, reference, name, other):
    order = align(f'{split}, {whose}', first, reference.ids, name, other.ids)
    if not (same := np.isclose(reference.months, other.months[order])).all():
        at = int(np.flatnonzero(~same)[0])
        raise UserError(
            f'{split}, image {reference.ids[at]}: age is {reference.months[at]} in {first}, but '
            f'{other.months[order][at]} in {name}: not the same labels'
        )


def align(split, first, ids, name, other):
    """Positions `[N]` that bring the images `other` of run `name` into the order of `ids` of run
    `first`; UserError where they are not the same images.
    """
    place = {image: i for i, image in enumerate(other)}
    for one, images, two, lacking in ((first, ids, name, place), (name, other, first, set(ids))):
        alone = [image for image in images if image not in lacking]
        if alone:
            raise UserError(
                f'{split}: {len(alone)} of the {len(images)} images of {one} are not in {two}, the first: '
                f'{alone[0]}; compare runs of the same data, data.split_seed, data.validation and data.holdout'
            )
    return np.asarray([place[image] for image in ids], int)


def check_no_leakage(trained, images):
    """Refuses (UserError) a member that trained on an image of any split here: `trained` `{name:
    [id, ...]}`.
    """
    for name, ids in trained.items():
        ids = set(ids)
        for split, held_out in images.items():
            leaked = [image for image in held_out.ids if image in ids]
            if leaked:
                raise UserError(
                    f'{name} trained on {len(leaked)} of the {len(held_out)} {split} images, the first: '
                    f'{leaked[0]}; an ensemble with it would report images that it knows'
                )


def carried(reports):
    """The label fingerprints and the leak check of the members, where all say the same; an ensemble
    has no images to look at.

    Of `{member: its metrics.json}` gives `{'labels': {split: ...}, 'leaks': {kind: count}}` as a
    run writes them and, where members differ (networks of one sex, another leak check, an older
    release), `'members_differ'`: by name, as 'labels of train', `{member: what it says, or None}`.
    A line at the terminal tells.
    """
    agreed, differ = {}, {}
    for key in ('labels', 'leaks'):
        said = {name: report.get(key, {}) for name, report in reports.items()}
        for part in dict.fromkeys(part for parts in said.values() for part in parts):
            first, *others = values = [parts.get(part) for parts in said.values()]
            if all(other == first for other in others):
                agreed.setdefault(key, {})[part] = first
            else:
                differ[f'{key} of {part}' if key == 'labels' else f'{key}: {part}'] = dict(
                    zip(said, values)
                )
    if differ:
        log.info(
            f'The members differ in {", ".join(differ)}; what each one says stands in metrics.json (members_differ).'
        )
    return agreed | ({'members_differ': differ} if differ else {})


def error_correlation(members, split):
    """Pearson correlation `[M, M]` of the members' signed errors on the images of `split` that both
    predict; NaN for pairs with fewer than two such images or errors without spread, None where that
    leaves no pair.
    """
    errors = [dict(zip(member[split].ids, member[split].errors)) for member in members.values()]
    matrix = np.full((len(errors),) * 2, np.nan)
    for i, one in enumerate(errors):
        for j, other in enumerate(errors[: i + 1]):
            pairs = np.array(
                [(one[image], other[image]) for image in one if image in other]
            ).reshape(-1, 2)
            if len(pairs) > 1 and pairs.std(axis=0).min() >= 1e-6:  # months
                matrix[i, j] = matrix[j, i] = np.corrcoef(pairs.T)[0, 1]
    return None if np.isnan(matrix[~np.eye(len(errors), dtype=bool)]).all() else matrix


def write(workdirs, output):
    """Writes the ensemble of the runs in `workdirs` into `output`; returns the content of its
    metrics.json.
    """
    workdirs, output = [pathlib.Path(workdir) for workdir in workdirs], pathlib.Path(output)
    if (
        output.resolve() in [workdir.resolve() for workdir in workdirs]
        or (output / 'config.json').exists()
    ):
        raise UserError(f'--output={output} holds a run; choose a folder of its own')
    members, images, trained = load(workdirs)
    reports = [_json(workdir / 'metrics.json') for workdir in workdirs]
    output.mkdir(parents=True, exist_ok=True)
    everything = sorted({image for ids in trained.values() for image in ids})
    files.write_json(
        output / 'splits.json',
        {'train': everything, **{split: f.ids for split, f in images.items()}},
    )
    predictions = {split: (f, {'prediction': f.prediction}) for split, f in images.items()}
    evaluate.write_predictions(output, predictions)
    about = {
        'members': [str(workdir) for workdir in workdirs],
        'selected_by': 'nothing: the unweighted mean of the members given',
        **workdir_lib.provenance(),
        **carried(dict(zip(members, reports))),
    }
    medians = [
        report['splits'][split]['median_mae']['median'] for report in reports for split in images
    ]
    report = evaluate.write_metrics(output, predictions, TASK, np.asarray(medians), about)
    figures.from_run(output)
    for split in images:
        if split in splits_lib.REPORTED:
            _report(
                split, members, images[split], report['splits'][split]['overall']['mae'], output
            )
    log.info(f'All figures: {output / "metrics.json"}\nPictures: {output / "figures"}')
    return report


def _report(split, members, images, mae, output):
    """Prints each member beside the ensemble; prints, writes and draws the correlation of their
    errors.
    """
    width = max(len(name) for name in (*members, 'ensemble'))
    of_sexes = [
        (
            who,
            len(of_sex(images, sex)),
            sum(len(of_sex(member[split], sex)) > 0 for member in members.values()),
        )
        for who, sex in (('girls', False), ('boys', True))
    ]
    log.info(
        f'\n{split}, {len(images):,} images ('
        + ', '.join(f'{count:,} {who} by {n} members' for who, count, n in of_sexes)
        + '): MAE in months (95% interval); the ensemble minus the member'
    )
    for name, member in members.items():
        errors = member[split].errors
        lower, upper = metrics.bootstrap(np.abs(errors))
        delta = metrics.paired_difference(images.errors[_places(images, member[split])], errors)
        log.info(
            f'  {name:<{width}}  {np.abs(errors).mean():6.2f} ({lower:.2f} to {upper:.2f})   '
            f'{delta[0]:+.2f} ({delta[1]:+.2f} to {delta[2]:+.2f})'
            + (f'   its {len(errors):,} images' if len(errors) < len(images) else '')
        )
    log.info(
        f'  {"ensemble":<{width}}  {mae["value"]:6.2f} ({mae["lower"]:.2f} to {mae["upper"]:.2f})'
    )
    matrix = error_correlation(members, split)
    if matrix is None:
        log.info('  No correlation of errors: too few images, or errors without spread.')
        return
    write_correlation(matrix, list(members), split, output)
    log.info('  Correlation of their errors:')
    for name, row in zip(members, matrix):
        log.info(
            f'  {name:<{width}}  '
            + ' '.join('    –' if np.isnan(value) else f'{value:5.2f}' for value in row)
        )


def write_correlation(matrix, names, split, output):
    """error_correlation_SPLIT.csv and its figure, of the matrix that `error_correlation` gives; NaN
    is an empty cell.
    """
    rows = [
        [name, *('' if np.isnan(value) else f'{value:.4f}' for value in row)]
        for name, row in zip(names, matrix)
    ]
    files.write_table(output / f'error_correlation_{split}.csv', ['member', *names], rows)
    ensemble_figures.error_correlation(
        matrix, names, split, output / 'figures' / f'error_correlation_{split}.png'
    )


def _json(path, key=None):
    try:
        return json.loads(path.read_text())[key] if key else json.loads(path.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: cannot be read ({error!r}); is its run finished?') from error


def expand(patterns):
    """Paths of `patterns`, each a path or a glob, in order; a pattern that matches nothing is
    refused.
    """
    found = []
    for pattern in patterns:
        matches = (
            sorted(glob.glob(str(pathlib.Path(pattern).expanduser())))
            if glob.has_magic(pattern)
            else [pattern]
        )
        if not matches:
            raise UserError(f'--workdirs: nothing matches {pattern}')
        found += [match for match in matches if match not in found]
    return found
