"""The parts of a cross-validation: every image in one, alike in sex and age, groups together."""

from collections.abc import Mapping

import numpy as np

from boneage_jax.errors import SplitError

FEWEST = 2  # images (or groups) of a part that says anything


def divide(labels: Mapping, count: int, seed: int) -> np.ndarray:
    """The part of each image, int `[N]` from 0 to `count` - 1.

    Images are sorted by (sex, age), ties in random order, and of every `count` neighbours each part
    gets one, by chance. So the parts have the age distribution of the whole, and without groups
    their sizes differ by one image at most. A group (a patient's images) counts as one, of its mean
    age, and the largest of the neighbours goes to the smallest part. The draw depends on (ids,
    months, male, groups, seed, count) alone, not on the order of the files.

    Args:
        labels: `{'ids', 'months', 'male'[, 'groups']}` of the images, `[N]` each.
        count: of parts.
        seed: of the draw.

    Raises:
        SplitError: the images, or the groups, are too few.
    """
    ids = labels['ids']
    groups = labels.get('groups')
    if groups is None:
        groups = [''] * len(ids)
    keys = []
    for image, group in zip(ids, groups, strict=True):
        keys.append(f'group {group}' if group else f'image {image}')
    names, unit = np.unique(keys, return_inverse=True)
    if len(names) < FEWEST * count:
        apart = '' if len(names) == len(ids) else f' of {len(names)} groups'
        raise SplitError(
            f'data.folds={count}: the {len(ids)} images outside the holdout{apart} are too few, a '
            f'part needs {FEWEST} or more; set data.folds={max(2, len(names) // FEWEST)} or lower, '
            'or add images'
        )

    sizes = np.bincount(unit)
    months = np.bincount(unit, weights=labels['months']) / sizes
    male = np.bincount(unit, weights=labels['male']) / sizes
    generator = np.random.default_rng([seed, len(ids), count])
    ties = generator.permutation(len(names))
    order = np.lexsort((ties, months.round(6), male >= 0.5))
    part = np.zeros(len(names), int)
    images = np.zeros(count, int)  # of each part so far
    for start in range(0, len(names), count):
        neighbours = order[start : start + count]
        largest_first = neighbours[np.argsort(-sizes[neighbours], kind='stable')]
        shuffled = generator.permutation(count)
        emptiest_first = shuffled[np.argsort(images[shuffled], kind='stable')]
        chosen = emptiest_first[: len(neighbours)]
        part[largest_first] = chosen
        images[chosen] += sizes[largest_first]
    return part[unit]
