"""Which of several runs is which part of a cross-validation, and whether all parts are there."""

from collections.abc import Mapping

from tfds_rsna.errors import UserError

# Keys of config.data that decide which image is in which part.
_DECIDING = (
    'source',
    'folder',
    'phantom',
    'image_folder',
    'official_splits',
    'validation',
    'holdout',
    'holdout_ids',
    'split_seed',
    'sex',
)


def by_fold(data: Mapping[str, Mapping]) -> dict[int, list[str]]:
    """`{fold: [name, ...]}` of the members of a mean over folds.

    Empty where they are none: runs without `data.folds`, or all of the same part.

    Args:
        data: `{name: its config.data}` of the members.

    Raises:
        UserError: their numbers of folds differ, or their images, a fold is missing, or one has
            more members than another.
    """
    (first, reference), *others = data.items()
    count = reference.get('folds', 0)
    for name, other in others:
        if other.get('folds', 0) != count:
            raise UserError(
                f'data.folds is {count} in {first}, but {other.get("folds", 0)} in {name}: not '
                'folds of one cross-validation'
            )
    found = {}
    for name, of_member in data.items():
        found.setdefault(of_member.get('fold', 0), []).append(name)
    if not count or len(found) == 1:
        return {}

    for name, other in others:
        for key in _DECIDING:
            if _plain(other.get(key)) != _plain(reference.get(key)):
                raise UserError(
                    f'data.{key} is {reference.get(key)!r} in {first}, but {other.get(key)!r} in '
                    f'{name}: not folds of the same images'
                )
    missing = [str(fold) for fold in range(count) if fold not in found]
    if missing:
        plural = 's' if len(missing) > 1 else ''
        raise UserError(
            f'fold{plural} {", ".join(missing)} of data.folds={count} missing among '
            f'{", ".join(data)}; a mean over folds needs all of them: without one, its images '
            f'would have no prediction. Train it with data.folds={count} and data.fold={missing[0]}'
        )
    numbers = {fold: len(found[fold]) for fold in sorted(found)}
    if len(set(numbers.values())) > 1:
        listed = ', '.join(f'fold {fold}: {number}' for fold, number in numbers.items())
        raise UserError(f'as many runs of each fold are needed; found {listed}')
    return {fold: found[fold] for fold in sorted(found)}


def _plain(value):
    """A config's value as JSON has it: tuples and lists are the same."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, 'items'):
        return {key: _plain(item) for key, item in value.items()}
    return value
