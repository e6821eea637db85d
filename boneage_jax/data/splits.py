"""Which film is in which split: the official splits where the source has them, else drawn from the training films.

Validation selects (checkpoint, patience, calibration); holdout and test are reported, once, and never select.
"""

import numpy as np

SELECTING = 'validation'
REPORTED = ('holdout', 'test')


class SplitError(ValueError):
    """The source has too few films for the splits that the config asks for."""


def derive(labels, *, validation, holdout, seed, official=True):
    """`{split: (source split, int64 positions in it)}` from `labels = {source split: {'ids', 'months', 'male'}}`.

    With an official validation split (and `official`), train / validation are the official ones. Without, `validation`
    and `holdout` films are taken from the training split, stratified by sex and age: films are sorted by (sex, age),
    ties in random order, and every k-th goes out, so each split has the age distribution of the whole. The official
    test split, where present, always stays whole. The draw depends on (ids, months, male, seed, sizes) alone, not on
    the order of the files.
    """
    splits = {}
    if 'test' in labels:
        splits['test'] = ('test', np.arange(len(labels['test']['ids'])))
    count = len(labels['train']['ids'])
    if official and 'validation' in labels:
        return {'train': ('train', np.arange(count)),
                'validation': ('validation', np.arange(len(labels['validation']['ids']))), **splits}
    if validation + holdout > count // 2:
        raise SplitError(f'{count} training films are too few for validation={validation} and holdout={holdout}: '
                         'they may take half of them at most; set data.validation and data.holdout')
    ids, months, male = (np.asarray(labels['train'][k]) for k in ('ids', 'months', 'male'))
    by_id = np.argsort(ids, kind='stable')
    ties = np.empty(count)
    ties[by_id] = np.random.default_rng([seed, count]).permutation(count)
    order = np.lexsort((ties, months, male))
    # Evenly spaced ranks with a random start: `out` films, one from each of `out` neighbouring strata.
    out = validation + holdout
    offset = np.random.default_rng([seed, count, 1]).random()
    taken = np.floor((np.arange(out) + offset) * count / out).astype(int)
    is_validation = np.floor((np.arange(out) + 1) * validation / out) > np.floor(np.arange(out) * validation / out)
    rest = np.setdiff1d(np.arange(count), taken)
    return {'train': ('train', np.sort(order[rest])),
            'validation': ('train', np.sort(order[taken[is_validation]])),
            'holdout': ('train', np.sort(order[taken[~is_validation]])), **splits}
