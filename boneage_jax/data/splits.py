"""Which image is in which split: the official splits where the source has them, else drawn from the
training images.

Validation selects (checkpoint, patience, calibration); holdout and test are reported, once, and
never select.
"""

import numpy as np

from boneage_jax.errors import SplitError

SELECTING = 'validation'
REPORTED = ('holdout', 'test')


def selecting(name, what):
    """`name`, the split that `what` (a checkpoint, a threshold, a calibration) is chosen by;
    SplitError where it may not.
    """
    if name in REPORTED:
        raise SplitError(
            f'{what} would be chosen by the {name} split, which is reported and must never select: a figure on '
            f'images that chose what it measures says nothing of new images. Choose by {SELECTING}'
        )
    return name


def refuse_selected(report, where):
    """Refuses (SplitError) a run whose metrics.json says that a reported split selected anything in
    it.
    """
    by = str(report.get('selected_by', '')).split(' ')[0]
    roles = [
        name
        for name, of in report.get('splits', {}).items()
        if name in REPORTED and of.get('role') == 'selects'
    ]
    for name in filter(REPORTED.__contains__, [by, *roles]):
        selecting(name, f'{where}: its checkpoint')


def derive(labels, *, validation, holdout, seed, official=True):
    """`{split: (source split, int64 positions in it)}` from `labels = {source split: {'ids',
    'months', 'male'[, 'groups']}}`.

    Official validation and test splits stay whole (validation ones only with `official`). What is
    missing is taken from the training images: `validation` images where there is no validation
    split, `holdout` images where there is no test split. They are stratified by sex and age: sorted
    by (sex, age), ties in random order, and every k-th goes out, so each split has the age
    distribution of the whole. The draw depends on (ids, months, male, seed, sizes) alone, not on
    the order of the files.

    Images of one group (a patient's, 'groups') never come into two splits: a drawn image takes its
    group along, so the splits may come out larger than asked.
    """
    splits = {
        name: (name, np.arange(len(labels[name]['ids'])))
        for name in ('validation', 'test')
        if name in labels and (official or name == 'test')
    }
    sizes = {
        'validation': 0 if 'validation' in splits else validation,
        'holdout': 0 if 'test' in splits and ('validation' in splits) else holdout,
    }
    count, out = len(labels['train']['ids']), sum(sizes.values())
    if out > count // 2:
        raise SplitError(
            f'{count} training images are too few for validation={sizes["validation"]} and '
            f'holdout={sizes["holdout"]}: they may take half of them at most; set data.validation and '
            'data.holdout'
        )
    ids, months, male = (np.asarray(labels['train'][k]) for k in ('ids', 'months', 'male'))
    by_id = np.argsort(ids, kind='stable')
    ties = np.empty(count)
    ties[by_id] = np.random.default_rng([seed, count]).permutation(count)
    order = np.lexsort((ties, months, male))
    # Evenly spaced ranks with a random start: `out` images, one from each of `out` neighbouring
    # strata.
    offset = np.random.default_rng([seed, count, 1]).random()
    taken = order[np.floor((np.arange(out) + offset) * count / max(out, 1)).astype(int)]
    share = sizes['validation'] / max(out, 1)
    to_validation = np.floor((np.arange(out) + 1) * share + 1e-9) > np.floor(
        np.arange(out) * share + 1e-9
    )
    where = np.zeros(count, int)  # 0 train, 1 validation, 2 holdout
    where[taken] = np.where(to_validation, 1, 2)
    where = _with_groups(where, labels['train'].get('groups'))
    for number, name in enumerate(('train', 'validation', 'holdout')):
        if name == 'train' or sizes[name]:
            splits[name] = ('train', np.flatnonzero(where == number))
    return {
        name: splits[name] for name in ('train', 'validation', 'holdout', 'test') if name in splits
    }


def whole(labels):
    """Every source split as it lies: for images that all go into training."""
    return {name: (name, np.arange(len(of['ids']))) for name, of in labels.items()}


def _with_groups(where, groups):
    """Every image of a group goes to the highest split that one of its images was drawn for."""
    if groups is None or not any(groups):
        return where
    names, group = np.unique(
        [g or f' image {i}' for i, g in enumerate(groups)], return_inverse=True
    )
    highest = np.zeros(len(names), int)
    np.maximum.at(highest, group, where)
    return highest[group]
