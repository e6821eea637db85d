"""The mean of several finished runs, image by image: a tool over predictions, not a model.

Members are read from their predictions.csv and count alike. What `write` leaves reads like a run's
workdir, so that an ensemble can be a member of another.
"""

import glob
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from boneage_jax import figures, tasks
from boneage_jax.data import id_spaces
from boneage_jax.data import splits as splits_lib
from boneage_jax.data.source import Split
from boneage_jax.figures import ensembles as ensemble_figures
from boneage_jax.runs import exported, predictions, training_ids
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from boneage_jax.tasks import ages, metrics
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError

# To report ages: nothing is learned here.
TASK = tasks.Task(None, None, ages.report, ages.summary_line)
_NEEDED = ('predictions.csv', 'metrics.json', 'splits.json')
_SEXES = {'girls': False, 'boys': True}
_LEAST_SPREAD = 1e-6  # months: errors below that have no correlation

Table = dict[str, np.ndarray]  # of the images of one split, as `predictions.read` gives it


def read(workdir: pathlib.Path) -> dict[str, Table]:
    """`{split: table}` of a run that predicts ages.

    Raises UserError with the file and what is wrong with it.
    """
    table = predictions.read(pathlib.Path(workdir) / 'predictions.csv')
    return {split: predictions.of_split(table, split) for split in predictions.splits(table)}


def errors_of(images: Table) -> np.ndarray:
    """Predicted minus true age, months `[N]`."""
    return images['prediction'] - images['age']


def load(
    workdirs: Sequence[pathlib.Path],
) -> tuple[dict[str, dict[str, Table]], dict[str, Table], dict[str, id_spaces.IdSet]]:
    """Reads runs and averages them.

    Returns:
        The members `{name: {split: table}}`, their mean `{split: table}`, and their training images
        by name.

    Raises:
        UserError: the runs cannot be averaged; see `combine` and `check_no_leakage`.
    """
    workdirs = list(map(pathlib.Path, workdirs))
    for workdir in workdirs:
        if exported.is_file(exported.find(workdir)):
            raise UserError(
                f'{workdir} holds a network, not its predictions of images with their ids '
                '(predictions.csv, splits.json), of which an ensemble is the mean; give the '
                'workdir of its run'
            )
        require_finished(workdir, _NEEDED)
    reports = list(map(workdir_lib.read_metrics, workdirs))
    for workdir, report in zip(workdirs, reports):
        splits_lib.refuse_selected(report, workdir)

    members = {}
    trained = {}
    cross_validated = {}
    for workdir, report, name in zip(workdirs, reports, workdir_lib.unique_names(workdirs)):
        name = name.replace(',', '_')
        members[name] = read(workdir)
        trained[name] = training_ids.of_run(workdir)
        if 'folds' in report:
            cross_validated[name] = trained[name]
    mean = combine(members)
    # What a cross-validation says of `fold` is of the networks that have not seen the image; it
    # was checked when it was written.
    others = {split: table for split, table in mean.items() if split != splits_lib.FOLD}
    plain = {name: known for name, known in trained.items() if name not in cross_validated}
    for workdir in workdirs:
        spaces = _spaces(workdir, mean)
        check_no_leakage(plain, mean, spaces)
        check_no_leakage(cross_validated, others, spaces)
    return members, mean, trained


def require_finished(workdir: pathlib.Path, needed: Sequence[str]) -> None:
    """Raises UserError where a folder lacks one of the files `needed` of a finished run."""
    missing = [name for name in needed if not (workdir / name).exists()]
    if missing:
        raise UserError(
            f'{workdir}: no {", ".join(missing)}; members are workdirs of finished runs'
        )


def combine(members: Mapping[str, Mapping[str, Table]]) -> dict[str, Table]:
    """The unweighted mean prediction of each image, over the members that predict it.

    Args:
        members: `{name: {split: table}}`, two or more; the names are used in messages. A member
            with images of one sex alone is a network of that sex.

    Returns:
        `{split: table}`: the images of all members, in the first one's order, further ones behind.

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
                f'{first} predicts {", ".join(reference)}, but {name} {", ".join(other)}: not the '
                'same splits'
            )
    mean = {}
    for split in reference:
        images = {name: member[split] for name, member in members.items()}
        for whose, male in _SEXES.items():
            of_that_sex = {}
            for name, member in members.items():
                if any((table['male'] == male).any() for table in member.values()):
                    of_that_sex[name] = predictions.of_sex(images[name], male)
            _require_same_images(f'{split}, {whose}', split, of_that_sex)
        mean[split] = _mean(split, images)
    return mean


def _require_same_images(where, split, images):
    """Refuses members whose images or ages differ; `images` {name: table} are of one sex."""
    if not images:
        return
    (first, reference), *others = images.items()
    for name, other in others:
        other = predictions.align(other, reference, where=where, name=name, other=first)
        different = np.flatnonzero(~np.isclose(reference['age'], other['age']))
        if len(different):
            at = different[0]
            raise UserError(
                f'{split}, image {reference["id"][at]}: age is {reference["age"][at]} in {first}, '
                f'but {other["age"][at]} in {name}: not the same labels'
            )


def _mean(split, images):
    """The mean of one split; `images` {name: table}."""
    union = predictions.join(list(images.values()))
    total = np.zeros(len(union['id']))
    count = np.zeros(len(union['id']))
    for name, member in images.items():
        places = _places(union, member)
        wrong = np.flatnonzero(union['male'][places] != member['male'])
        if len(wrong):
            at = wrong[0]
            raise UserError(
                f'{split}, image {member["id"][at]}: male is {member["male"][at]} in {name}, but '
                'not in every member: not the same labels'
            )
        total[places] += member['prediction']
        count[places] += 1
    mean = {name: union[name] for name in predictions.COLUMNS}
    mean['prediction'] = total / count
    return mean


def _places(images, member):
    """Where the images of `member` are in `images`, which has them all: `[M]`."""
    order = np.argsort(images['id'])
    return order[np.searchsorted(images['id'], member['id'], sorter=order)]


def check_no_leakage(
    trained: Mapping[str, id_spaces.IdSet],
    images: Mapping[str, Table],
    spaces: Mapping[str, Sequence[str]],
) -> None:
    """Refuses (UserError) a member that trained on an image of any split here.

    Args:
        trained: the members' training images.
        images: `{split: table}`.
        spaces: the id spaces of the images of each split.
    """
    for name, known in trained.items():
        for split, held_out in images.items():
            leaked = known.among(held_out['id'].tolist(), spaces[split])
            if leaked:
                raise UserError(
                    f'{name} trained on {len(leaked)} of the {len(held_out["id"])} {split} images, '
                    f'the first: {leaked[0]}; an ensemble with it would report images that it '
                    'has learned'
                )


def _spaces(workdir, images):
    """`{split: [id space of each image]}` as a member has them.

    An image that it lacks (of the other sex) is of the space of its others, if they have but one.
    """
    found = {}
    for split, table in images.items():
        known = training_ids.spaces(workdir, split)
        declared = sorted(set(known.values()))
        other = declared[0] if len(declared) == 1 else id_spaces.UNDECLARED
        found[split] = [known.get(image, other) for image in table['id'].tolist()]
    return found


def carried(reports: Mapping[str, Mapping]) -> dict:
    """The label fingerprints and the leak check of the members, where all have the same.

    An ensemble has no images to look at. So of `{member: its metrics.json}` this gives
    `{'labels': {split: ...}, 'leaks': {kind: count}}` as a run writes them. Where members differ
    (networks of one sex, another leak check, an older release), `'members_differ'` holds, by name
    as 'labels of train', `{member: what it has, or None}`, and a line at the terminal tells.
    """
    agreed = {}
    differ = {}
    for key, title in (('labels', 'labels of {}'), ('leaks', 'leaks: {}')):
        found = {name: report.get(key, {}) for name, report in reports.items()}
        parts = []
        for of_member in found.values():
            parts += of_member
        for part in dict.fromkeys(parts):
            values = {name: of_member.get(part) for name, of_member in found.items()}
            first, *others = values.values()
            if others.count(first) == len(others):
                agreed.setdefault(key, {})[part] = first
            else:
                differ[title.format(part)] = values
    if differ:
        log.info(
            f'The members differ in {", ".join(differ)}; metrics.json holds what each one has '
            '(members_differ).'
        )
        agreed['members_differ'] = differ
    return agreed


def error_correlation(members: Mapping[str, Mapping[str, Table]], split: str) -> np.ndarray | None:
    """Pearson correlation `[M, M]` of the members' signed errors on the images that both predict.

    NaN for pairs with fewer than two such images in `split` or errors without spread; None where
    that leaves no pair.
    """
    errors = []
    for member in members.values():
        images = member[split]
        errors.append(dict(zip(images['id'].tolist(), errors_of(images))))

    matrix = np.full((len(errors), len(errors)), np.nan)
    for i, one in enumerate(errors):
        for j, other in enumerate(errors[: i + 1]):
            shared = [image for image in one if image in other]
            if len(shared) < 2:
                continue
            a = np.array([one[image] for image in shared])
            b = np.array([other[image] for image in shared])
            if min(a.std(), b.std()) >= _LEAST_SPREAD:
                matrix[i, j] = matrix[j, i] = np.corrcoef(a, b)[0, 1]
    between_two = ~np.eye(len(errors), dtype=bool)
    return None if np.isnan(matrix[between_two]).all() else matrix


def write(workdirs: Sequence[pathlib.Path], output: pathlib.Path) -> dict:
    """Writes the ensemble of the runs in `workdirs` into `output`; returns its metrics.json."""
    workdirs = list(map(pathlib.Path, workdirs))
    output = pathlib.Path(output)
    is_member = output.resolve() in map(pathlib.Path.resolve, workdirs)
    if is_member or (output / 'config.json').exists():
        raise UserError(f'--output={output} holds a run; choose a folder of its own')
    members, images, trained = load(workdirs)
    reports = list(map(workdir_lib.read_metrics, workdirs))

    output.mkdir(parents=True, exist_ok=True)
    everything = id_spaces.IdSet()
    for known in trained.values():
        everything.update(known)
    spaces = _spaces(workdirs[0], images)
    ids_of_splits = {'train': [image for _, image in everything.items()]}
    runs_of_splits = {'train': id_spaces.runs(space for space, _ in everything.items())}
    scored = {}
    for split, table in images.items():
        ids_of_splits[split] = table['id'].tolist()
        runs_of_splits[split] = id_spaces.runs(spaces[split])
        scored[split] = (labels_of(split, table), {'prediction': table['prediction']})
    files.write_json(output / 'splits.json', ids_of_splits | {training_ids.SPACES: runs_of_splits})
    evaluate.write_predictions(output, scored)

    about = {
        'members': list(map(str, workdirs)),
        'selected_by': 'nothing: the unweighted mean of the members given',
        **workdir_lib.provenance(),
        **carried(dict(zip(members, reports))),
    }
    if all('folds' in report for report in reports):
        about['folds'] = reports[0]['folds']
    # The floor: what predicting the median of each member's training ages would give.
    medians = []
    for report in reports:
        medians += [report['splits'][split]['median_mae']['median'] for split in images]
    report = evaluate.write_metrics(output, scored, TASK, np.asarray(medians), about)
    figures.from_run(output)
    for split, table in images.items():
        if split in splits_lib.REPORTED:
            mae = report['splits'][split]['overall']['mae']
            _report(split, members, table, mae, output)
    log.info(f'All figures: {output / "metrics.json"}\nPictures: {output / "figures"}')
    return report


def labels_of(split: str, images: Table) -> Split:
    """The labels of the images of a table, as the evaluator takes them; without the images."""
    ids = images['id'].tolist()
    return Split(split, None, np.arange(len(ids)), ids, images['age'], images['male'])


def _report(split, members, images, mae, output):
    """Prints each member beside the ensemble; prints, writes and draws how their errors agree."""
    width = max(map(len, (*members, 'ensemble')))
    count = len(images['id'])
    sexes = []
    for whose, male in _SEXES.items():
        predicting = sum((member[split]['male'] == male).any() for member in members.values())
        sexes.append(f'{(images["male"] == male).sum():,} {whose} by {predicting} members')
    log.info(
        f'\n{split}, {count:,} images ({", ".join(sexes)}): MAE in months (95% interval); the '
        'ensemble minus the member'
    )
    for name, member in members.items():
        errors = errors_of(member[split])
        lower, upper = metrics.bootstrap(np.abs(errors))
        of_ensemble = errors_of(images)[_places(images, member[split])]
        delta, delta_lower, delta_upper = metrics.paired_difference(of_ensemble, errors)
        line = (
            f'  {name:<{width}}  {np.abs(errors).mean():6.2f} ({lower:.2f} to {upper:.2f})   '
            f'{delta:+.2f} ({delta_lower:+.2f} to {delta_upper:+.2f})'
        )
        if len(errors) < count:
            line += f'   its {len(errors):,} images'
        log.info(line)
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
        cells = ['    –' if np.isnan(value) else f'{value:5.2f}' for value in row]
        log.info(f'  {name:<{width}}  {" ".join(cells)}')


def write_correlation(
    matrix: np.ndarray, names: Sequence[str], split: str, output: pathlib.Path
) -> None:
    """Writes and draws the matrix that `error_correlation` gives; NaN is an empty cell.

    Args:
        matrix: `[M, M]`.
        names: the members.
        split: whose images.
        output: gets error_correlation_SPLIT.csv, and the figure in `figures`.
    """
    rows = []
    for name, row in zip(names, matrix):
        rows.append([name, *('' if np.isnan(value) else f'{value:.4f}' for value in row)])
    file = f'error_correlation_{split}'
    files.write_table(output / f'{file}.csv', ['member', *names], rows)
    ensemble_figures.error_correlation(matrix, names, split, output / 'figures' / f'{file}.png')


def expand(patterns: Iterable[str]) -> list[str]:
    """Paths of `patterns`, each a path or a glob, in order, each once.

    A pattern that matches nothing is refused (UserError).
    """
    found = []
    for pattern in patterns:
        matches = [pattern]
        # A folder may have brackets in its name.
        if glob.has_magic(pattern) and not pathlib.Path(pattern).expanduser().exists():
            matches = sorted(glob.glob(str(pathlib.Path(pattern).expanduser())))
        if not matches:
            raise UserError(f'--workdirs: nothing matches {pattern}')
        found += [match for match in matches if match not in found]
    return found
