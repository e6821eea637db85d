"""Which image is in which split: the source's own splits, else drawn from its training images.

Validation selects (checkpoint, patience, calibration); holdout and test are reported, once, and
never select. So is `fold`, the part of a cross-validation that a run has not seen.
"""

from collections.abc import Collection, Mapping

import numpy as np

from boneage_jax.data import folds as folds_lib
from boneage_jax.errors import SplitError
from boneage_jax.runtime import log

SELECTING = 'validation'
FOLD = 'fold'
REPORTED = (FOLD, 'holdout', 'test')
_ORDER = ('train', SELECTING, *REPORTED)
SHARE = 5  # one in so many images goes to validation, and to holdout, of small sets
FEWEST = 2  # images of a split that says anything

Cut = dict[str, tuple[str, np.ndarray]]  # {split: (source split, int64 positions in it)}


def selecting(name: str, what: str) -> str:
    """`name`, the split by which `what` (a checkpoint, a threshold, a calibration) is chosen.

    Raises SplitError where it is a reported one.
    """
    if name in REPORTED:
        raise SplitError(
            f'{what} would be chosen by the {name} split, which is reported and must never select: '
            'a figure on images that chose what it measures says nothing of new images. Choose by '
            f'{SELECTING}'
        )
    return name


def refuse_selected(report: Mapping, where):
    """Raises SplitError for a run whose metrics.json says that a reported split selected in it."""
    what = f'{where}: its checkpoint'
    selecting(str(report.get('selected_by', '')).split(' ')[0], what)
    for name, of_split in report.get('splits', {}).items():
        if of_split.get('role') == 'selects':
            selecting(name, what)


def derive(
    labels: Mapping,
    *,
    validation: int,
    holdout: int,
    seed: int,
    official: bool = True,
    holdout_ids: Collection[str] | None = None,
    shrink: bool = False,
    folds: int = 0,
    fold: int = 0,
) -> Cut:
    """Cuts a source into splits, by its labels.

    Official validation and test splits stay whole. What is missing is taken from the training
    images: `validation` images where there is no validation split, `holdout` images unless there
    are both. They are stratified by sex and age: sorted by (sex, age), ties in random order, and
    every k-th goes out, so each split has the age distribution of the whole. The draw depends on
    (ids, months, male, seed, sizes) alone, not on the order of the files.

    Images of one group (a patient's, 'groups') never come into two splits: a drawn image takes its
    group along, so the splits may come out larger than asked.

    With `folds`, the holdout is the one that there is without, and all other images of the source's
    training split are divided into so many parts (`folds.divide`). Part `fold` becomes the split
    `fold`; the validation images are drawn from the other parts, which train. An official
    validation split is not divided: it selects in every fold.

    Args:
        labels: `{source split: {'ids', 'months', 'male'[, 'groups']}}`.
        validation: images to take for validation.
        holdout: images to take for holdout.
        seed: of the draw.
        official: whether the source's own validation split is used.
        holdout_ids: the images of the holdout, by id, in the place of `holdout` drawn ones; those
            that the source lacks are passed over.
        shrink: take a fifth of the training images for each, and say so, where the two would take
            more than half of them.
        folds: number of parts of a cross-validation; 0 = none.
        fold: the part, from 0, that becomes the split `fold`.

    Raises:
        SplitError: the training images are too few, the source has none of `holdout_ids`, or groups
            leave nothing to train on.
    """
    splits = {}
    for name in ('validation', 'test'):
        if name in labels and (official or name == 'test'):
            splits[name] = (name, np.arange(len(labels[name]['ids'])))
    if 'validation' in splits:
        validation = 0
        if 'test' in splits:
            holdout = 0
    train = labels['train']
    count = len(train['ids'])
    if holdout_ids is not None:
        named = _named_holdout(train, holdout_ids)
        where = np.where(named, 2, 0)
        rest = _only(train, ~named)
        validation, _ = _sizes(rest, validation, 0, shrink)
        where[~named] = _draw(rest, validation, 0, seed)
        holdout = int(named.sum())
    else:
        validation, holdout = _sizes(train, validation, holdout, shrink)
        where = _draw(train, validation, holdout, seed)
    where = _with_groups(where, train.get('groups'))
    if folds:
        where = _cross_validated(where, train, folds, fold, seed, validation, shrink)
    if not (where == 0).any():
        raise SplitError(
            f'no training images are left: the {validation + holdout} images of validation and '
            'holdout took the others of their groups along; lower data.validation and data.holdout'
        )
    sizes = {'train': count, 'validation': validation, 'holdout': holdout, FOLD: folds}
    for number, (name, size) in enumerate(sizes.items()):
        if name == 'train' or size:
            splits[name] = ('train', np.flatnonzero(where == number))
    return {name: splits[name] for name in _ORDER if name in splits}


def _sizes(train, validation, holdout, shrink):
    """(validation, holdout), images to draw; SplitError where these are too many."""
    count = len(train['ids'])
    if validation + holdout <= count // 2:
        return validation, holdout
    share = count // SHARE
    if not shrink or share < FEWEST:
        advice = max(1, share)
        raise SplitError(
            f'{count} training images are too few for validation={validation} and '
            f'holdout={holdout}: they may take half of them at most; set data.validation={advice} '
            f'and data.holdout={advice}, or add images'
        )
    line = f'{count} images are too few for data.validation={validation} and data.holdout={holdout}'
    groups = train.get('groups')
    if groups is not None and any(groups):
        alone = sum(not group for group in groups)
        share = max(1, share * (len({*groups} - {''}) + alone) // count)
        log.info(f'{line}: {share} each are set aside, with the others of their groups.')
    else:
        log.info(f'{line}: a fifth is set aside for each, {share} images.')
    return min(validation, share), min(holdout, share)


def _named_holdout(train, holdout_ids):
    """bool [N]: which training images are named as the holdout."""
    named = np.array([name in holdout_ids for name in train['ids']], bool)
    if not named.any():
        few = ', '.join(sorted(holdout_ids)[:3])
        raise SplitError(
            f'data.holdout_ids: none of its {len(holdout_ids)} ids (first: {few}) is among the '
            f'{len(named)} training images (first: {", ".join(train["ids"][:3])})'
        )
    if named.sum() < len(holdout_ids):
        log.info(
            f'data.holdout_ids: {named.sum():,} of its {len(holdout_ids):,} ids are training '
            'images of the source; the others are passed over.'
        )
    return named


def _cross_validated(where, train, folds, fold, seed, validation, shrink):
    """`where` with the images outside the holdout divided anew; 3 for those of the split `fold`."""
    keys = ('ids', 'months', 'male', 'groups')
    inside = where < 2
    part = np.full(len(where), -1)
    part[inside] = folds_lib.divide(_only(train, inside, keys), folds, seed)
    where = np.where(inside, 0, where)
    where[part == fold] = 3
    others = _only(train, where == 0, keys)
    drawn = _draw(others, _validation_of_fold(others, validation, shrink), 0, seed)
    where[where == 0] = _with_groups(drawn, others.get('groups'))
    return where


def _validation_of_fold(train, validation, shrink):
    """Images to draw for validation from those of a fold; SplitError where these are too many."""
    count = len(train['ids'])
    if validation <= count // 2:
        return validation
    share = count // SHARE
    if shrink and share:
        return share
    raise SplitError(
        f'{count} images to train and select a fold with are too few for data.validation='
        f'{validation}, which may take half of them at most; set data.validation={max(1, share)}'
    )


def _only(train, chosen, keys=('ids', 'months', 'male')):
    """The labels of the images that are `chosen`, bool [N]."""
    return {key: np.asarray(train[key])[chosen] for key in keys if key in train}


def _draw(train, validation, holdout, seed):
    """0 for the images that stay in train, 1 for those of validation, 2 of holdout: `[N]`."""
    ids = np.asarray(train['ids'])
    count = len(ids)
    out = validation + holdout
    by_id = np.argsort(ids, kind='stable')
    ties = np.empty(count)
    ties[by_id] = np.random.default_rng([seed, count]).permutation(count)
    order = np.lexsort((ties, np.asarray(train['months']), np.asarray(train['male'])))
    # Evenly spaced ranks with a random start: `out` images, one from each of `out` neighbouring
    # strata.
    offset = np.random.default_rng([seed, count, 1]).random()
    taken = order[np.floor((np.arange(out) + offset) * count / max(out, 1)).astype(int)]
    # Validation gets its share of them, evenly among the others.
    share = validation / max(out, 1)
    before = np.floor(np.arange(out) * share + 1e-9)
    after = np.floor((np.arange(out) + 1) * share + 1e-9)
    where = np.zeros(count, int)
    where[taken] = np.where(after > before, 1, 2)
    return where


def whole(labels: Mapping) -> Cut:
    """Every source split as it is: for images that all go into training."""
    return {name: (name, np.arange(len(of_split['ids']))) for name, of_split in labels.items()}


def _with_groups(where, groups):
    """Every image of a group goes to the highest split that one of its images was drawn for."""
    if groups is None or not any(groups):
        return where
    names = [group or f' image {i}' for i, group in enumerate(groups)]
    unique, group_of = np.unique(names, return_inverse=True)
    highest = np.zeros(len(unique), int)
    np.maximum.at(highest, group_of, where)
    return highest[group_of]
