"""What a run's embeddings hold of age: their t-SNE, and how far distances follow ages.

Bae 2018, figure 3. The split is not selected on.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.spatial import distance as distances_lib
from sklearn import manifold

from boneage_jax import cli, figures
from boneage_jax.analysis import own_images
from boneage_jax.data import splits as splits_lib
from boneage_jax.data.source import Split
from boneage_jax.runs import exported
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log, setup
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

FEWEST = 5  # images of a group, below which nothing is said of it
MOST = 4000  # images: pairs are held all at once
_COLUMNS = ('run', 'split', 'id', 'sex', 'age', 'x', 'y')
_AT_ONCE = 100  # resamples


def embeddings(
    workdirs: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    split: str = '',
    seed: int = 0,
    data_dir: str | None = None,
) -> dict:
    """Writes tsne.png, tsne.csv and distance_age_correlation.json; returns the last one's content.

    Args:
        workdirs: finished runs, exported files or names of shipped networks that give embeddings.
        output: folder for the results.
        split: whose images; '' is what the run reports, test or else holdout.
        seed: of the t-SNE.
        data_dir: folder of the raw data.

    Raises:
        UserError: a network without embeddings, an unknown split, too few or too many images.
    """
    output = pathlib.Path(output)
    cli.refuse_results(output, 'tsne.csv')
    names = workdir_lib.unique_names([exported.find(workdir) for workdir in workdirs])
    report = {}
    rows = []
    panels = []
    for workdir, name in zip(workdirs, names):
        vectors, images = of_run(workdir, split, data_dir)
        found = {}
        for group, chosen in _groups(images).items():
            found[group] = distance_age_correlation(vectors[chosen], images.months[chosen])
            if group == 'all':
                continue
            points = tsne(vectors[chosen], seed=seed)
            panels.append((name, group, points, images.months[chosen], found[group]))
            for i, (x, y) in zip(np.flatnonzero(chosen), points):
                age = f'{images.months[i]:.2f}'
                rows.append((name, images.name, images.ids[i], group, age, f'{x:.3f}', f'{y:.3f}'))
        report[name] = {
            'workdir': str(workdir),
            'split': images.name,
            'images': len(images),
            'distance_age_correlation': found,
        }
        _print(name, images, found)
    output.mkdir(parents=True, exist_ok=True)
    files.write_table(output / 'tsne.csv', _COLUMNS, rows)
    files.write_json(output / 'distance_age_correlation.json', report)
    log.info(str(figures.tsne(panels, output / 'tsne.png')))
    return report


def _groups(images):
    """`{group: its images [N] bool}`: all, and each sex, where there are enough."""
    groups = {'all': np.ones(len(images), bool), 'female': ~images.male, 'male': images.male}
    return {group: chosen for group, chosen in groups.items() if chosen.sum() >= FEWEST}


def _print(name, images, found):
    parts = []
    for group, value in found.items():
        parts.append(f'{group} {value["value"]:.3f} ({value["lower"]:.3f} to {value["upper"]:.3f})')
    log.info(f'{name}, {len(images)} {images.name} images: {"; ".join(parts)}')


def of_run(
    workdir: pathlib.Path, split: str = '', data_dir: str | None = None
) -> tuple[np.ndarray, Split]:
    """(embeddings float32 `[N, F]`, the images) of the best network of a run."""
    predictor = predictor_lib.Predictor(workdir)
    setup.set_up_jax(predictor.config)
    opened = own_images.open_splits(workdir, predictor.config, data_dir)
    split = split or next(name for name in reversed(splits_lib.REPORTED) if name in opened)
    if split not in opened:
        raise UserError(f'--split={split}: expected one of {", ".join(opened)}')
    images = opened[split]
    if not FEWEST <= len(images) <= MOST:
        raise UserError(f'--split={split}: {len(images)} images; expected {FEWEST} to {MOST}')

    parts = []
    for _, _, _, aux in predictor.over(images):
        if 'embeddings' not in aux:
            raise UserError(
                f'{workdir}: {predictor.config.model.name} gives no embeddings; take a run of '
                'configs/triplet.py or configs/prsnet.py'
            )
        parts.append(aux['embeddings'])
    return np.concatenate(parts), images


def tsne(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """`[N, F]` -> `[N, 2]` float64: scikit-learn's t-SNE, started from the principal components."""
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    fitted = manifold.TSNE(init='pca', perplexity=perplexity, random_state=seed)
    return fitted.fit_transform(np.asarray(vectors, np.float64))


def distance_age_correlation(
    vectors: np.ndarray, months: np.ndarray, *, seed: int = 0, resamples: int = 1000
) -> dict:
    """Spearman correlation of the distances of all pairs of images with their gaps in age.

    Args:
        vectors: embeddings `[N, F]`.
        months: ages `[N]`.
        seed: of the bootstrap.
        resamples: how many it draws.

    Returns:
        `{'value', 'lower', 'upper', 'count'}`. The 95% interval resamples images; pairs of one
        image with itself count nowhere, and every pair keeps the rank that it has among all.

    Raises:
        UserError: ages, or embeddings, are all the same.
    """
    count = len(months)
    distances = distances_lib.pdist(np.asarray(vectors, np.float64).reshape(count, -1))
    gaps = distances_lib.pdist(np.asarray(months, np.float64).reshape(count, 1))
    if np.ptp(distances) == 0 or np.ptp(gaps) == 0:
        raise UserError(
            f'distance_age_correlation: the {count} images have all the same age, or the same '
            'embedding'
        )
    x = _standardised_ranks(distances)
    y = _standardised_ranks(gaps)
    correlations = _resampled_correlations(x, y, count, seed, resamples)
    tail = (1 - metrics.LEVEL) / 2
    lower, upper = np.quantile(correlations, [tail, (1 + metrics.LEVEL) / 2])
    return {
        'value': float(np.mean(x * y)),
        'lower': float(lower),
        'upper': float(upper),
        'count': count,
    }


def _standardised_ranks(values):
    ranks = stats.rankdata(values)
    return (ranks - ranks.mean()) / ranks.std()


def _resampled_correlations(x, y, count, seed, resamples):
    """Pearson correlations `[resamples]` of pairs, where images are drawn with replacement.

    `x` and `y` are of the pairs, in the order of `pdist`. The pairs of an image that was drawn k
    times count k times, so a sum over drawn pairs is times^T table times.
    """
    x_table, y_table, xx_table, yy_table, xy_table = (
        distances_lib.squareform(values) for values in (x, y, x * x, y * y, x * y)
    )
    pairs_table = 1.0 - np.eye(count)
    generator = np.random.default_rng(seed)
    found = []
    for start in range(0, resamples, _AT_ONCE):
        size = (min(_AT_ONCE, resamples - start), count)
        drawn = generator.integers(0, count, size)
        times = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)
        pairs = _weighted_sums(times, pairs_table)
        mean_x = _weighted_sums(times, x_table) / pairs
        mean_y = _weighted_sums(times, y_table) / pairs
        variance_x = _weighted_sums(times, xx_table) / pairs - mean_x**2
        variance_y = _weighted_sums(times, yy_table) / pairs - mean_y**2
        covariance = _weighted_sums(times, xy_table) / pairs - mean_x * mean_y
        found.append(covariance / np.sqrt(variance_x * variance_y))
    return np.concatenate(found)


def _weighted_sums(times, table):
    return ((times @ table) * times).sum(1)
