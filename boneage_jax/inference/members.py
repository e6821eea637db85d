"""Several trained networks as one, the folds of a cross-validation say: the mean of their ages."""

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from boneage_jax import config as config_lib
from boneage_jax.data import splits
from boneage_jax.inference import intervals as intervals_lib
from boneage_jax.inference import scale
from boneage_jax.runs import exported, predictions
from boneage_jax.runs import folds as folds_lib
from boneage_jax.runs.predictor import Predictor, read_config, read_task
from boneage_jax.runtime import log
from tfds_rsna.errors import UserError

# What decides how a new image is prepared, beside the options of the stages that are used.
_PREPARATION = ('stages', 'size', 'resize', 'sex')


class MeanPredictor:
    """Networks that see the same prepared images; one alone is itself.

    Attributes:
        places: of the networks.
        first: the `Predictor` of the first.
        needs_sex: whether one of them reads the sex.
    """

    def __init__(self, places: Sequence[pathlib.Path], *, batch_size: int = 0):
        self.places = list(places)
        self.first = Predictor(places[0], batch_size=batch_size)
        others = [Predictor(place, batch_size=batch_size) for place in places[1:]]
        self._predictors = [self.first, *others]
        self.needs_sex = any(predictor.needs_sex for predictor in self._predictors)

    def ages(self, images: np.ndarray, male: Sequence) -> tuple[np.ndarray, dict[str, list], dict]:
        """(months `[N]`, further columns {name: [N]}, auxiliary outputs), as `ages` gives.

        Of several networks the mean age, and the mean of what tells how sure they are: classes,
        parts and maps are those of one network.
        """
        found = [ages(predictor, images, male) for predictor in self._predictors]
        if len(found) == 1:
            return found[0]
        columns = {}
        for name in scale.SIGNALS:
            if all(name in of_network for _, of_network, _ in found):
                columns[name] = np.mean([each[name] for _, each, _ in found], axis=0).tolist()
        return np.mean([months for months, *_ in found], axis=0), columns, {}


def ages(
    predictor: Predictor, images: np.ndarray, male: Sequence
) -> tuple[np.ndarray, dict[str, list], dict]:
    """What a run's own evaluation would give for prepared images, `flip_tta` included.

    Args:
        predictor: the run.
        images: uint8 [N, rows, columns, 1].
        male: the sexes, `[N]`; None counts as female, where the network does not read them.

    Returns:
        Months `[N]`, further columns {name: [N]} (of a classifier, and what tells how sure the
        network is, as `Task.signals`), and the network's auxiliary outputs.
    """
    male = np.array([bool(value) for value in male])
    prediction, aux = predictor.predict_tta(images, male)
    columns = {}
    for of_image in (predictor.task.classes, predictor.task.signals):
        if of_image:
            for name, values in of_image(prediction).items():
                columns[name] = np.asarray(values).tolist()
    return np.asarray(predictor.task.months(prediction)), columns, aux


def read_configs(places: Sequence[pathlib.Path]) -> dict[str, ml_collections.ConfigDict]:
    """`{place: its configuration}` of networks whose ages can be averaged.

    Raises:
        UserError: one is no run or predicts no ages, one comes twice, they take images of different
            preparation, or are not all folds of one cross-validation.
    """
    configs = {}
    for place in places:
        if str(place) in configs:
            raise UserError(f'the same network twice: {place}; each counts once')
        configs[str(place)] = read_config(place)
        if read_task(place).months is None:
            name = configs[str(place)].task.name
            raise UserError(f'{place} holds a run of the task {name!r}, which predicts no ages')
    (first, reference), *others = configs.items()
    for name, other in others:
        changed = config_lib.differences(_preparation(reference.data), _preparation(other.data))
        if changed:
            raise UserError(
                f'{name} takes other images than {first}: ' + '; '.join(changed) + '. A mean needs '
                'networks of the same data.stages, data.size, data.resize and data.sex'
            )
    if others:
        folds_lib.by_fold({name: config.data for name, config in configs.items()})
    return configs


def _preparation(data):
    found = {key: data[key] for key in _PREPARATION}
    options = data.stage_options.to_dict()
    return found | {name: options[name] for name in data.stages if name in options}


def fit_intervals(places: Sequence[pathlib.Path]) -> intervals_lib.Intervals | None:
    """Intervals of an age, or None; prints what they are worth, or why there are none.

    Those of one run are from its validation images. Of the folds of a cross-validation they are
    from all out-of-fold errors.
    """
    try:
        fitted, covered = _fitted(places)
    except intervals_lib.MissingIntervalsError as error:
        log.info(f'No intervals: {error}.')
        return None
    for line in fitted.lines():
        log.info(line)
    for split, shares in covered.items():
        log.info(_coverage(shares, split))
    return fitted


def _fitted(places):
    """(intervals, `intervals.coverage` by split) of the networks together."""
    if len(places) == 1:
        return intervals_lib.of_network(places[0])
    for place in places:
        if exported.is_file(place) or not (place / 'predictions.csv').exists():
            raise intervals_lib.MissingIntervalsError(
                f'{place} does not hold the predictions of its own images (predictions.csv)'
            )
    data = {str(place): read_config(place).data for place in places}
    of_folds = folds_lib.by_fold(data)
    if not of_folds:
        raise intervals_lib.MissingIntervalsError(
            'they are of one run, or of all folds of a cross-validation'
        )
    tables = [predictions.read(place / 'predictions.csv') for place in places]
    table = _out_of_fold(of_folds, dict(zip(data, tables)))
    fitted = intervals_lib.fit_out_of_fold(table)
    covered = {}
    for split in predictions.splits(table):
        if split != fitted.split:
            covered[split] = intervals_lib.coverage(fitted, table, split)
    return fitted, covered


def _coverage(shares, split):
    """A sentence on how many images of a split are in their interval."""
    parts = []
    for group, share in shares.items():
        whose = '' if group == 'overall' else f' of {intervals_lib.PLAIN[group]}'
        parts.append(
            f'{100 * share["value"]:.1f}% of {share["count"]:,} images{whose} '
            f'({100 * share["lower"]:.1f} to {100 * share["upper"]:.1f})'
        )
    width = ''
    if 'width' in shares['overall']:
        width = f' Their mean width there is {_width(shares["overall"])}.'
    return f'On {split} they hold {", ".join(parts)}; images from elsewhere may fare worse.{width}'


def _width(share):
    mean = share['width']
    constant = share['constant_width']
    if mean == constant:
        return f'{mean:.1f} months from end to end'
    share = 100 * mean / constant
    return f'{mean:.1f} months from end to end, {share:.0f}% of that of constant intervals'


def _out_of_fold(of_folds: Mapping[int, list], tables: Mapping[str, dict]) -> dict:
    """One table: the split `fold` of all, and the mean of all on what else they report."""
    parts = []
    for names in of_folds.values():
        parts.append(_mean(splits.FOLD, {name: tables[name] for name in names}))
    for split in splits.REPORTED:
        if split != splits.FOLD and split in predictions.splits(next(iter(tables.values()))):
            parts.append(_mean(split, tables))
    return predictions.join(parts)


def _mean(split, tables):
    """The mean prediction of one split, whose images all of `tables` have."""
    names = list(tables)
    first = predictions.of_split(tables[names[0]], split)
    found = []
    for name in names:
        own = predictions.of_split(tables[name], split)
        found.append(predictions.align(own, first, where=split, name=name, other=names[0]))
    means = {'prediction': np.mean([table['prediction'] for table in found], axis=0)}
    for name in scale.SIGNALS:
        if all(name in table for table in found):
            means[name] = np.mean([table[name] for table in found], axis=0)
    return {name: first[name] for name in first if name not in scale.SIGNALS} | means
