"""What is reported about ages: errors in months with bootstrap intervals, by sex and stage; and
about age classes.

numpy on the host, over one split's predictions; the sums inside a step live in `tasks.py`. Every
result is a plain dict ready for JSON. What cannot be computed (no image of a sex, of a stage) is
left out: no NaN.
"""

import numpy as np

from tfds_rsna.errors import UserError

# Stages of puberty by skeletal age: where each begins, in months; it ends where the next begins.
# Gilsanz V, Ratib O. Hand Bone Age: A Digital Atlas of Skeletal Maturity. Springer 2005, which
# counts in years (girls: pre-puberty 2-7, early and mid puberty 7-13, late puberty 13-15; boys:
# 3-9, 9-14, 14-16). Iglovikov et al. 2018 report by the last four and leave the younger two out.
STAGES = {
    'female': {
        'infancy': 0,
        'toddler': 10,
        'pre-puberty': 24,
        'early and mid puberty': 84,
        'late puberty': 156,
        'post-puberty': 180,
    },
    'male': {
        'infancy': 0,
        'toddler': 14,
        'pre-puberty': 36,
        'early and mid puberty': 108,
        'late puberty': 168,
        'post-puberty': 192,
    },
}
SEXES = tuple(STAGES)
LEVEL = 0.95
AGREEMENT = 1.96  # standard deviations to either side hold 95% of errors where these are normal
_CHUNK = 2_000_000  # resampled entries held at once: 16 MB of indices


def puberty_stage(months, male):
    """Names of the stages of puberty [N] (str) for ages [N] in months and sexes [N] (bool, True for
    boys).
    """
    months, male = np.asarray(months, np.float64), np.asarray(male, bool)
    if months.shape != male.shape:
        raise UserError(f'stage: {months.shape} ages but {male.shape} sexes')
    if not (months >= 0).all():
        raise UserError(f'stage: ages must be 0 months or more, found {months[~(months >= 0)][0]}')
    names = np.asarray(list(STAGES['male']))
    index = [np.searchsorted(list(STAGES[sex].values()), months, side='right') - 1 for sex in SEXES]
    return names[np.where(male, index[1], index[0])]


def age_metrics(prediction, age, male, *, seed=0, resamples=1000, ids=None, source=()):
    """Errors of predicted ages, each with its percentile bootstrap interval (95 %) over images.

    Args:
        prediction, age: [N] months. The error is prediction minus age: a positive bias means judged
        too old.
        male: [N] bool.
        seed: of the resampling; the same call gives the same interval.
        ids: [N] names of the images, used in error messages only.
        source: [N] where each image comes from ('' = not known); empty where nothing says so.

    Returns:
        `{'overall': M, 'by_sex': {'female': M, ..}, 'by_stage': {'pre-puberty': M, ..}[,
        'by_source': {name: M}]}` where M maps each of `mae`, `rmse`, `bias` (months),
        `within_12_months`, `within_24_months` (share of images, 0 to 1) and `agreement_lower`,
        `agreement_upper` (months: the 95% limits of agreement of Bland and Altman 1986, bias -+
        1.96 standard deviations of the error) to `{'value', 'lower', 'upper', 'count'}`. Groups
        without images are absent.

    Raises:
        UserError: no images, arrays of unequal length, a prediction or age that is not finite.
    """
    prediction, age = _images(prediction, 'prediction', ids), _images(age, 'age', ids)
    male = np.asarray(male)
    if male.shape != age.shape or prediction.shape != age.shape:
        raise UserError(
            f'unequal lengths: {len(prediction)} predictions, {len(age)} ages, {male.size} sexes'
        )
    if not np.isin(male, (0, 1)).all():
        raise UserError(f'male must be true or false, found {male[~np.isin(male, (0, 1))][0]!r}')
    male = male.astype(bool)
    error, stages = prediction - age, puberty_stage(age, male)

    def group(chosen):
        return _error_metrics(error[chosen], seed, resamples)

    sexes, sources = {'female': ~male, 'male': male}, np.asarray(source, str)
    if sources.size and sources.shape != age.shape:
        raise UserError(f'unequal lengths: {len(age)} ages, {sources.size} sources')
    found = {
        'overall': group(slice(None)),
        'by_sex': {sex: group(chosen) for sex, chosen in sexes.items() if chosen.any()},
        'by_stage': {
            name: group(stages == name) for name in STAGES['male'] if (stages == name).any()
        },
    }
    if (sources != '').any():
        found['by_source'] = {
            name or 'not known': group(sources == name) for name in sorted(set(sources.tolist()))
        }
    return found


def bootstrap(values, *, statistic=lambda means: means, seed=0, resamples=1000, level=LEVEL):
    """Percentile bootstrap interval of a statistic of means, over images.

    Args:
        values: [N] or [N, S]; whole rows are resampled, so columns stay paired.
        statistic: maps column means [R, S] to [R, ...]; the default is the means themselves.

    Returns:
        (lower, upper): floats for [N], arrays for [N, S].
    """
    values = np.asarray(values, np.float64)
    if values.shape[0] == 0:
        raise UserError('bootstrap: no images')
    table = values.reshape(len(values), -1)
    count, generator, means = len(table), np.random.default_rng(seed), []
    for start in range(0, resamples, step := max(1, _CHUNK // count)):
        rows = min(step, resamples - start)
        # How often each image was drawn in each resample [rows, count]: all means are then one
        # matrix product.
        drawn = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        means.append(
            np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count) @ table / count
        )
    lower, upper = np.quantile(
        statistic(np.concatenate(means)), [(1 - level) / 2, (1 + level) / 2], axis=0
    )
    return (float(lower[0]), float(upper[0])) if values.ndim == 1 else (lower, upper)


def intervals(columns, *, seed=0, resamples=1000):
    """The means of some per-image figures `{name: [N]}` with bootstrap intervals: `{name: {'value',
    'lower', ..}}`.
    """
    table = np.stack([_images(values, name) for name, values in columns.items()], axis=1)
    rows = zip(columns, table.mean(0), *bootstrap(table, seed=seed, resamples=resamples))
    return {
        name: {
            'value': float(value),
            'lower': float(lower),
            'upper': float(upper),
            'count': len(table),
        }
        for name, value, lower, upper in rows
    }


def paired_difference(errors_a, errors_b, *, seed=0, resamples=1000):
    """MAE of a minus MAE of b on the same images: (delta, lower, upper) in months; negative means a
    is better.

    `errors_a`, `errors_b` [N]: errors (or absolute errors) in months, the same images in the same
    order.
    """
    errors_a, errors_b = _images(errors_a, 'error'), _images(errors_b, 'error')
    if errors_a.shape != errors_b.shape:
        raise UserError(
            f'paired_difference needs the same images twice: {len(errors_a)} and '
            f'{len(errors_b)} errors'
        )
    difference = np.abs(errors_a) - np.abs(errors_b)
    return (float(difference.mean()), *bootstrap(difference, seed=seed, resamples=resamples))


def median_baseline(train_months, age, *, seed=0, resamples=1000):
    """The floor: the MAE of always predicting the training images' median; `{'median', 'value',
    ..}`.
    """
    median = float(np.median(_images(train_months, 'age')))
    return {
        'median': median,
        **_error_metrics(median - _images(age, 'age'), seed, resamples)['mae'],
    }


def class_metrics(predicted, truth, count, *, seed=0, resamples=1000):
    """How well classes are told apart, with percentile bootstrap intervals over images; all are
    shares from 0 to 1.

    Args:
        predicted, truth: [N] int, from 0 to `count` - 1, in order of age: neighbours are one class
        off.

    Returns:
        `{'overall': {'accuracy', 'balanced_accuracy' (mean recall of the classes that have images),
        'macro_f1' (over the classes that have images or are predicted), 'off_by_one_accuracy'},
        'by_class': [{'recall', 'images', 'predicted'}, ..], 'confusion': [K][K] images, rows true
        and columns predicted}`; a class without images has no recall.
    """
    predicted, truth = np.asarray(predicted, int), np.asarray(truth, int)
    if not len(truth) or predicted.shape != truth.shape:
        raise UserError(
            f'class_metrics: {predicted.shape} predicted and {truth.shape} true classes'
        )
    pairs = np.zeros((len(truth), count * count))
    pairs[np.arange(len(truth)), truth * count + predicted] = 1
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count))) <= 1

    def statistic(shares):
        """Shares of images by (true, predicted), [R, K * K] -> [R, 4 + K]; recall is NaN where a
        class has no images.
        """
        table = shares.reshape(-1, count, count)
        hits, images, given = np.diagonal(table, axis1=1, axis2=2), table.sum(2), table.sum(1)
        recall = np.divide(hits, images, out=np.full(hits.shape, np.nan), where=images > 0)
        f1 = np.divide(
            2 * hits, images + given, out=np.full(hits.shape, np.nan), where=images + given > 0
        )
        return np.column_stack(
            [
                hits.sum(1),
                np.nanmean(recall, 1),
                np.nanmean(f1, 1),
                (table * near).sum((1, 2)),
                np.where(np.isnan(recall), 0.0, recall),
            ]
        )  # of a class that a resample missed: rare

    lower, upper = bootstrap(pairs, statistic=statistic, seed=seed, resamples=resamples)
    values, table = (
        statistic(pairs.mean(0)[None])[0],
        pairs.sum(0).reshape(count, count).astype(int),
    )
    figures = [
        {'value': float(value), 'lower': float(low), 'upper': float(high), 'count': len(truth)}
        for value, low, high in zip(values, lower, upper)
    ]
    by_class = [
        {
            **({'recall': {**figure, 'count': int(images)}} if images else {}),
            'images': int(images),
            'predicted': int(given),
        }
        for figure, images, given in zip(figures[4:], table.sum(1), table.sum(0))
    ]
    named = zip(('accuracy', 'balanced_accuracy', 'macro_f1', 'off_by_one_accuracy'), figures)
    return {'overall': dict(named), 'by_class': by_class, 'confusion': table.tolist()}


def _error_metrics(error, seed, resamples):
    """Errors [N] in months -> {name: {'value', 'lower', 'upper', 'count'}}."""
    size, count = np.abs(error), len(error)
    names = (
        'mae',
        'rmse',
        'bias',
        'within_12_months',
        'within_24_months',
        'agreement_lower',
        'agreement_upper',
    )
    table = np.stack([size, error**2, error, size <= 12, size <= 24], axis=1).astype(np.float64)

    def statistic(means):
        mae, square, bias, *shares = np.moveaxis(means, -1, 0)
        half = AGREEMENT * np.sqrt(np.maximum(square - bias**2, 0) * count / max(count - 1, 1))
        return np.stack([mae, np.sqrt(square), bias, *shares, bias - half, bias + half], axis=-1)

    rows = zip(
        names,
        statistic(table.mean(0)),
        *bootstrap(table, statistic=statistic, seed=seed, resamples=resamples),
    )
    return {
        name: {
            'value': float(value),
            'lower': float(lower),
            'upper': float(upper),
            'count': len(error),
        }
        for name, value, lower, upper in rows
    }


def _images(values, what, ids=None):
    """[N] float64, at least one and all finite; otherwise a ValueError naming the first images at
    fault.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise UserError(f'{what}: expected one value per image [N], found shape {values.shape}')
    if not len(values):
        raise UserError(f'{what}: no images to score')
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        names = bad if ids is None else [ids[i] for i in bad[:5]]
        raise UserError(
            f'{what} is not finite for {len(bad)} of {len(values)} images, the first: '
            f'{", ".join(str(name) for name in names[:5])}'
        )
    return values
