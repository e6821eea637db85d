"""What a run's embedding knows of age: its t-SNE in colour, and how far distances follow ages (Bae
2018, figure 3).

    python -m boneage_jax.embeddings --workdir=RUN --output=tsne
    python -m boneage_jax.embeddings --workdir=runs/male-plain/seed0,runs/male-triplet/seed0 --output=tsne

One picture, `tsne.png`, a column for each sex, a panel for each run. `orderedness.json`: the
Spearman correlation of the pairwise distances of embeddings with the absolute differences of age,
of all images and of each sex, with a 95% bootstrap interval over images; 0 where embeddings know
nothing of age, 1 where they lie in its order. `tsne.csv` holds the points. Any run whose network
gives embeddings will do, configs/prsnet.py's too. The split is not selected on; the default is what
the runs report.
"""

import pathlib

import numpy as np
from scipy import stats
from scipy.spatial import distance as distances_lib
from sklearn import manifold

from boneage_jax import figures
from boneage_jax.data import splits as splits_lib
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log, setup
from boneage_jax.stages import records
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

FEWEST = 5  # images of a group, below which nothing is said of it
MOST = 4000  # images: pairs are held all at once


def embeddings(workdirs, output, *, split='', seed=0, data_dir=None):
    """Writes tsne.png, tsne.csv and orderedness.json into `output`; returns the content of the
    last.

    `split`: '' is what the run reports, test or else holdout. Raises UserError for a network
    without embeddings, an unknown split, images too few or too many.
    """
    output, report, rows, panels = pathlib.Path(output), {}, [], []
    names = workdir_lib.unique_names([pathlib.Path(workdir) for workdir in workdirs])
    for workdir, name in zip(workdirs, names):
        vectors, images = of_run(workdir, split, data_dir)
        groups = {'all': np.ones(len(images), bool), 'female': ~images.male, 'male': images.male}
        groups = {group: chosen for group, chosen in groups.items() if chosen.sum() >= FEWEST}
        found = {
            group: distance_age_correlation(vectors[chosen], images.months[chosen])
            for group, chosen in groups.items()
        }
        report[name] = {
            'workdir': str(workdir),
            'split': images.name,
            'images': len(images),
            'orderedness': found,
        }
        for sex in (group for group in groups if group != 'all'):
            chosen = groups[sex]
            points = tsne(vectors[chosen], seed=seed)
            panels.append((name, sex, points, images.months[chosen], found[sex]))
            rows += [
                (
                    name,
                    images.name,
                    images.ids[i],
                    sex,
                    f'{images.months[i]:.2f}',
                    *(f'{x:.3f}' for x in point),
                )
                for i, point in zip(np.flatnonzero(chosen), points)
            ]
        log.info(
            f'{name}, {len(images)} {images.name} images: '
            + '; '.join(
                f'{group} {of["value"]:.3f} ({of["lower"]:.3f} to {of["upper"]:.3f})'
                for group, of in found.items()
            )
        )
    output.mkdir(parents=True, exist_ok=True)
    files.write_table(output / 'tsne.csv', ('run', 'split', 'id', 'sex', 'age', 'x', 'y'), rows)
    files.write_json(output / 'orderedness.json', report)
    log.info(str(figures.tsne(panels, output / 'tsne.png')))
    return report


def of_run(workdir, split='', data_dir=None):
    """(embeddings float32 `[N, F]`, the images as a Split) of the best network of a run."""
    predictor = predictor_lib.Predictor(workdir)
    setup.set_up_jax(predictor.config)
    opened = records.open_splits(predictor.config, data_dir)
    split = split or next(name for name in reversed(splits_lib.REPORTED) if name in opened)
    if split not in opened:
        raise UserError(f'--split={split}: expected one of {", ".join(opened)}')
    images, size = opened[split], predictor.batch_size
    if not FEWEST <= len(images) <= MOST:
        raise UserError(f'--split={split}: {len(images)} images; expected {FEWEST} to {MOST}')
    parts = []
    for start in range(0, len(images), size):
        index = range(start, min(start + size, len(images)))
        _, aux = predictor(images.arrays(index)['image'], images.male[index.start : index.stop])
        if 'embeddings' not in aux:
            raise UserError(
                f'{workdir}: {predictor.config.model.name} gives no embeddings; take a run of '
                'configs/triplet.py or configs/prsnet.py'
            )
        parts.append(aux['embeddings'])
    return np.concatenate(parts), images


def tsne(vectors, *, seed=0):
    """`[N, F]` -> `[N, 2]` float64: scikit-learn's t-SNE, started from the principal components."""
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return manifold.TSNE(init='pca', perplexity=perplexity, random_state=seed).fit_transform(
        np.asarray(vectors, np.float64)
    )


def distance_age_correlation(vectors, months, *, seed=0, resamples=1000):
    """Spearman correlation of the distances of all pairs with their gaps in age: `{'value',
    'lower', 'upper', 'count'}`.

    `vectors` `[N, F]`, `months` `[N]`. The interval resamples images (pairs of one image with
    itself count nowhere), with every pair keeping the rank that it has among all. Raises UserError
    where ages, or embeddings, are all the same.
    """
    pairs = [
        distances_lib.pdist(np.asarray(x, np.float64).reshape(len(months), -1))
        for x in (vectors, months)
    ]
    if any(np.ptp(x) == 0 for x in pairs):
        raise UserError(
            f'orderedness: the {len(months)} images have all the same age, or the same embedding'
        )
    ranks = [stats.rankdata(x) for x in pairs]
    x, y = ((rank - rank.mean()) / rank.std() for rank in ranks)
    tables = [distances_lib.squareform(values) for values in (x, y, x * x, y * y, x * y)]
    tables.append(1.0 - np.eye(len(months)))
    generator, found = np.random.default_rng(seed), []
    for start in range(0, resamples, 100):
        drawn = generator.integers(0, len(months), (min(100, resamples - start), len(months)))
        times = np.stack([np.bincount(row, minlength=len(months)) for row in drawn]).astype(
            np.float64
        )
        sums = [((times @ table) * times).sum(1) for table in tables]
        mx, my, xx, yy, xy = (value / sums[-1] for value in sums[:-1])
        found.append((xy - mx * my) / np.sqrt((xx - mx**2) * (yy - my**2)))
    lower, upper = np.quantile(
        np.concatenate(found), [(1 - metrics.LEVEL) / 2, (1 + metrics.LEVEL) / 2]
    )
    return {
        'value': float(np.mean(x * y)),
        'lower': float(lower),
        'upper': float(upper),
        'count': len(months),
    }
