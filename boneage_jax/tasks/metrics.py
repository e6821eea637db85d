"""What is reported about ages and age classes, with bootstrap intervals.

NumPy on the host, over one split's predictions; the sums inside a step are in `Task.loss`. Every
result is a plain dict ready for JSON. What cannot be computed (no image of a sex, of a stage) is
left out: no NaN.
"""

from collections.abc import Callable, Mapping, Sequence

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


def puberty_stage(months: np.ndarray, male: np.ndarray) -> np.ndarray:
    """Names of the stages of puberty [N] (str) for ages [N] in months and sexes [N].

    `male` is bool, True for boys.
    """
    months = np.asarray(months, np.float64)
    male = np.asarray(male, bool)
    if months.shape != male.shape:
        raise UserError(f'stage: {months.shape} ages but {male.shape} sexes')
    if not (months >= 0).all():
        raise UserError(f'stage: ages must be 0 months or more, found {months[~(months >= 0)][0]}')
    names = np.asarray(list(STAGES['male']))
    index = {}
    for sex, stages in STAGES.items():
        index[sex] = np.searchsorted(list(stages.values()), months, side='right') - 1
    return names[np.where(male, index['male'], index['female'])]


def age_metrics(
    prediction: np.ndarray,
    age: np.ndarray,
    male: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = 1000,
    ids: Sequence[str] | None = None,
    source: Sequence[str] = (),
) -> dict[str, dict]:
    """Errors of predicted ages, each with its percentile bootstrap interval (95 %) over images.

    Args:
        prediction: [N] months. The error is prediction minus age: a positive bias means judged too
            old.
        age: [N] months.
        male: [N] bool.
        seed: of the resampling; the same call gives the same interval.
        resamples: their number.
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
    prediction = _images(prediction, 'prediction', ids)
    age = _images(age, 'age', ids)
    male = np.asarray(male)
    if male.shape != age.shape or prediction.shape != age.shape:
        raise UserError(
            f'unequal lengths: {len(prediction)} predictions, {len(age)} ages, {male.size} sexes'
        )
    if not np.isin(male, (0, 1)).all():
        raise UserError(f'male must be true or false, found {male[~np.isin(male, (0, 1))][0]!r}')
    male = male.astype(bool)
    sources = np.asarray(source, str)
    if sources.size and sources.shape != age.shape:
        raise UserError(f'unequal lengths: {len(age)} ages, {sources.size} sources')
    error = prediction - age
    stages = puberty_stage(age, male)

    def by(groups):
        """M of each of `{name: images [N] bool}` that has images."""
        found = {}
        for name, chosen in groups.items():
            if chosen.any():
                found[name] = _error_metrics(error[chosen], seed, resamples)
        return found

    found = {
        'overall': _error_metrics(error, seed, resamples),
        'by_sex': by({'female': ~male, 'male': male}),
        'by_stage': by({name: stages == name for name in STAGES['male']}),
    }
    if (sources != '').any():
        names = sorted(set(sources.tolist()))
        found['by_source'] = by({name or 'not known': sources == name for name in names})
    return found


def _means(means):
    return means


def bootstrap(
    values: np.ndarray,
    *,
    statistic: Callable[[np.ndarray], np.ndarray] = _means,
    seed: int = 0,
    resamples: int = 1000,
    level: float = LEVEL,
) -> tuple[float, float] | tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of a statistic of means, over images.

    Args:
        values: [N] or [N, S]; whole rows are resampled, so columns stay paired.
        statistic: maps column means [R, S] to [R, ...]; the default is the means themselves.
        seed: of the resampling.
        resamples: R, their number.
        level: share of the resamples inside the interval.

    Returns:
        (lower, upper): floats for [N], arrays for [N, S].
    """
    values = np.asarray(values, np.float64)
    count = values.shape[0]
    if count == 0:
        raise UserError('bootstrap: no images')
    table = values.reshape(count, -1)
    generator = np.random.default_rng(seed)
    means = []
    step = max(1, _CHUNK // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        # How often each image was drawn in each resample [rows, count]: all means are then one
        # matrix product.
        drawn = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means.append(times @ table / count)
    ends = [(1 - level) / 2, (1 + level) / 2]
    lower, upper = np.quantile(statistic(np.concatenate(means)), ends, axis=0)
    if values.ndim == 1:
        return float(lower[0]), float(upper[0])
    return lower, upper


def _figure(value, lower, upper, count):
    return {'value': float(value), 'lower': float(lower), 'upper': float(upper), 'count': count}


def intervals(
    columns: Mapping[str, np.ndarray], *, seed: int = 0, resamples: int = 1000
) -> dict[str, dict]:
    """The means of per-image figures `{name: [N]}` with bootstrap intervals.

    `{name: {'value', 'lower', 'upper', 'count'}}`.
    """
    table = np.stack([_images(values, name) for name, values in columns.items()], axis=1)
    means = table.mean(0)
    lower, upper = bootstrap(table, seed=seed, resamples=resamples)
    found = {}
    for k, name in enumerate(columns):
        found[name] = _figure(means[k], lower[k], upper[k], len(table))
    return found


def paired_difference(
    errors_a: np.ndarray, errors_b: np.ndarray, *, seed: int = 0, resamples: int = 1000
) -> tuple[float, float, float]:
    """MAE of a minus MAE of b on the same images: (delta, lower, upper) in months.

    Negative means that a is better.

    Args:
        errors_a: [N], errors (or absolute errors) in months.
        errors_b: of the same images in the same order.
        seed: of the resampling.
        resamples: their number.
    """
    errors_a = _images(errors_a, 'error')
    errors_b = _images(errors_b, 'error')
    if errors_a.shape != errors_b.shape:
        raise UserError(
            f'paired_difference needs the same images twice: {len(errors_a)} and '
            f'{len(errors_b)} errors'
        )
    difference = np.abs(errors_a) - np.abs(errors_b)
    lower, upper = bootstrap(difference, seed=seed, resamples=resamples)
    return float(difference.mean()), lower, upper


def median_baseline(
    train_months: np.ndarray, age: np.ndarray, *, seed: int = 0, resamples: int = 1000
) -> dict[str, float]:
    """The floor: the MAE of always predicting the training images' median.

    Args:
        train_months: ages of the training images.
        age: [N], months, of the images that it is taken over.
        seed: of the resampling.
        resamples: their number.

    Returns:
        `{'median', 'value', 'lower', 'upper', 'count'}`.
    """
    median = float(np.median(_images(train_months, 'age')))
    errors = _error_metrics(median - _images(age, 'age'), seed, resamples)
    return {'median': median, **errors['mae']}


def class_metrics(
    predicted: np.ndarray, truth: np.ndarray, count: int, *, seed: int = 0, resamples: int = 1000
) -> dict:
    """How well classes are told apart, with percentile bootstrap intervals over images.

    All are shares from 0 to 1.

    Args:
        predicted: [N] int, from 0 to `count` - 1, in order of age: neighbours are one class off.
        truth: [N], the same.
        count: K, of classes.
        seed: of the resampling.
        resamples: their number.

    Returns:
        `{'overall': {'accuracy', 'balanced_accuracy' (mean recall of the classes that have images),
        'macro_f1' (over the classes that have images or are predicted), 'off_by_one_accuracy'},
        'by_class': [{'recall', 'images', 'predicted'}, ..], 'confusion': [K][K] images, rows true
        and columns predicted}`; a class without images has no recall.
    """
    predicted = np.asarray(predicted, int)
    truth = np.asarray(truth, int)
    images = len(truth)
    if not images or predicted.shape != truth.shape:
        raise UserError(
            f'class_metrics: {predicted.shape} predicted and {truth.shape} true classes'
        )
    # Which cell of the confusion matrix an image is in [N, K * K].
    pairs = np.zeros((images, count * count))
    pairs[np.arange(images), truth * count + predicted] = 1

    def statistic(shares):
        return _class_shares(shares.reshape(-1, count, count))

    values = statistic(pairs.mean(0)[None])[0]
    lower, upper = bootstrap(pairs, statistic=statistic, seed=seed, resamples=resamples)
    confusion = pairs.sum(0).reshape(count, count).astype(int)
    overall = {}
    for k, name in enumerate(_CLASS_METRICS):
        overall[name] = _figure(values[k], lower[k], upper[k], images)
    by_class = []
    for k in range(count):
        row = {}
        of_class = int(confusion[k].sum())
        if of_class:
            place = len(_CLASS_METRICS) + k
            row['recall'] = _figure(values[place], lower[place], upper[place], of_class)
        row['images'] = of_class
        row['predicted'] = int(confusion[:, k].sum())
        by_class.append(row)
    return {'overall': overall, 'by_class': by_class, 'confusion': confusion.tolist()}


_CLASS_METRICS = ('accuracy', 'balanced_accuracy', 'macro_f1', 'off_by_one_accuracy')


def _class_shares(table):
    """`_CLASS_METRICS`, then the recall of each class: [R, 4 + K].

    `table` [R, K, K] holds shares of images by true and predicted class. The recall of a class
    that a resample missed, which is rare, is 0; it is left out of the means.
    """
    count = table.shape[1]
    hits = np.diagonal(table, axis1=1, axis2=2)
    images = table.sum(2)
    predicted = table.sum(1)
    recall = _ratio(hits, images)
    f1 = _ratio(2 * hits, images + predicted)
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count))) <= 1
    return np.column_stack(
        [
            hits.sum(1),
            np.nanmean(recall, 1),
            np.nanmean(f1, 1),
            (table * near).sum((1, 2)),
            np.where(np.isnan(recall), 0.0, recall),
        ]
    )


def _ratio(part, whole):
    """NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


_ERROR_METRICS = (
    'mae',
    'rmse',
    'bias',
    'within_12_months',
    'within_24_months',
    'agreement_lower',
    'agreement_upper',
)


def _error_metrics(error, seed, resamples):
    """Errors [N] in months -> {name: {'value', 'lower', 'upper', 'count'}}."""
    size = np.abs(error)
    count = len(error)
    table = np.stack([size, error**2, error, size <= 12, size <= 24], axis=1).astype(np.float64)

    def statistic(means):
        mae, square, bias, *shares = np.moveaxis(means, -1, 0)
        half = AGREEMENT * np.sqrt(np.maximum(square - bias**2, 0) * count / max(count - 1, 1))
        return np.stack([mae, np.sqrt(square), bias, *shares, bias - half, bias + half], axis=-1)

    values = statistic(table.mean(0))
    lower, upper = bootstrap(table, statistic=statistic, seed=seed, resamples=resamples)
    found = {}
    for k, name in enumerate(_ERROR_METRICS):
        found[name] = _figure(values[k], lower[k], upper[k], count)
    return found


def _images(values, what, ids=None):
    """[N] float64, at least one and all finite; else a UserError naming the images at fault."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise UserError(f'{what}: expected one value per image [N], found shape {values.shape}')
    if not len(values):
        raise UserError(f'{what}: no images to score')
    bad = np.flatnonzero(~np.isfinite(values))[:5]
    if len(bad):
        count = int((~np.isfinite(values)).sum())
        names = bad if ids is None else [ids[i] for i in bad]
        raise UserError(
            f'{what} is not finite for {count} of {len(values)} images, the first: '
            f'{", ".join(str(name) for name in names)}'
        )
    return values
