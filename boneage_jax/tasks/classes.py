"""Ages cut into a few classes of equal width (Hamrouni, Hassen 2023)."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from boneage_jax.tasks import metrics
from boneage_jax.tasks.task import Task
from tfds_rsna.errors import UserError

WEIGHTS = ('none', 'balanced')
# pandas.cut lowers the first edge by this share of the range, so that the youngest image has a
# class.
_BELOW = 0.001


def fit(options: ml_collections.ConfigDict, months: np.ndarray) -> dict[str, list[float]]:
    """`edges` `[K + 1]`, class `centres` `[K]` (months) and loss `weights` `[K]`.

    They are taken from the training ages (months `[N]`).

    Edges are those of `pandas.cut(months, K)`: class k holds edges[k] < age <= edges[k + 1]. Ages
    beyond either end, which pandas leaves without a class, count to the class at that end. Weights
    are 1, or, 'balanced', N / (K N_k), so that every class counts the same.
    """
    if options.classes < 2:
        raise UserError(f'task.classes={options.classes}: expected 2 or more')
    if options.class_weights not in WEIGHTS:
        raise UserError(
            f'task.class_weights={options.class_weights!r}: expected one of {", ".join(WEIGHTS)}'
        )
    months = np.asarray(months, np.float64)
    low = float(months.min())
    high = float(months.max())
    if low == high:
        raise UserError(
            f'all {len(months)} training images have the same age ({low:g} months): '
            'no classes to cut'
        )
    edges = np.linspace(low, high, options.classes + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    edges[0] -= _BELOW * (high - low)
    weights = np.ones(options.classes)
    if options.class_weights == 'balanced':
        counts = np.bincount(class_of(months, edges), minlength=options.classes)
        weights = len(months) / (options.classes * np.maximum(counts, 1))
    return {'edges': edges.tolist(), 'centres': centres.tolist(), 'weights': weights.tolist()}


def class_of(months: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """The class `[N]` (int, from 0) of ages `[N]` in months.

    The right edge belongs to a class, the left does not.
    """
    inner = np.asarray(edges, np.float64)[1:-1]
    return np.searchsorted(inner, np.asarray(months), side='left')


def names(edges: Sequence[float]) -> list[str]:
    """'77-152' for each class: the whole months that it holds."""
    whole = [int(np.floor(edge)) for edge in edges]
    return [f'{max(low + 1, 0)}-{high}' for low, high in itertools.pairwise(whole)]


def age_classes(
    options: ml_collections.ConfigDict,
    *,
    edges: Sequence[float],
    centres: Sequence[float],
    weights: Sequence[float],
) -> Task:
    """Age classes, trained by cross-entropy (the loss that the paper prints is a misprint).

    Prediction: logits `[B, K]`. Columns: `prediction`, the expectation of the class centres in
    months; `class` (from 0), the likeliest; `true_class` where the age is known; `probability_0`
    and so on. `edges`, `centres` and `weights` are those of `fit`.
    """
    del options
    count = len(centres)
    inner = _rounded_down(edges[1:-1])
    centres32 = np.asarray(centres, np.float32)
    weights32 = np.asarray(weights, np.float32)

    def true_class(batch):
        return (jnp.asarray(batch['months'])[:, None] > inner[None]).sum(1).astype(jnp.int32)

    def months(logits):
        return (jax.nn.softmax(logits.astype(jnp.float32), axis=-1) * centres32[None]).sum(-1)

    def loss(logits, aux, batch):
        del aux
        if logits.shape[-1] != count:
            raise UserError(
                f'this network has {logits.shape[-1]} classes but task.classes={count}: '
                'take a network of as many'
            )
        truth = true_class(batch)
        valid = batch['valid'].astype(jnp.float32)
        chosen = jax.nn.one_hot(truth, count)
        entropy = -(chosen * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)).sum(1)
        weight = (chosen * weights32[None]).sum(1) * valid
        images = jnp.maximum(valid.sum(), 1.0)
        mass = jnp.maximum(weight.sum(), 1e-6)
        hits = ((jnp.argmax(logits, axis=-1) == truth) * valid).sum()
        error = (jnp.abs(months(logits) - batch['months']) * valid).sum()
        value = (entropy * weight).sum()
        sums = {'loss': (value, mass), 'accuracy': (hits, images), 'mae': (error, images)}
        return value / mass, sums

    def columns(logits, aux, batch):
        del aux
        found = {
            'prediction': months(logits),
            'class': jnp.argmax(logits, axis=-1).astype(jnp.int32),
        }
        if 'months' in batch:
            found['true_class'] = true_class(batch)
        return found | _probabilities(logits)

    def classes(logits):
        likeliest = columns(logits, {}, {})['class']
        held = np.asarray(names(edges))[np.asarray(likeliest)]
        return {'class': likeliest, 'class_months': held, **_probabilities(logits)}

    return Task(
        loss,
        columns,
        functools.partial(_report, edges, centres),
        summary_line,
        kind='age_classes',
        months=months,
        classes=classes,
        selection_metric='loss',
        metric_format='loss {:.4f}',
    )


def _rounded_down(edges):
    """Edges as float32: an age in float32 is then on the same side of one as in float64."""
    exact = np.asarray(edges, np.float64)
    rounded = exact.astype(np.float32)
    below = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > exact, below, rounded)


def _probabilities(logits):
    """`{'probability_0': [B], ...}` of logits `[B, K]`."""
    probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return {f'probability_{k}': probability[:, k] for k in range(logits.shape[-1])}


def _report(edges, centres, columns, split, train_months):
    """The ages' report, and that of classes beside it."""
    count = len(centres)
    truth = columns.get('true_class')  # of a cross-validation each by the edges of its own fold
    if truth is None:
        truth = class_of(split.months, edges)
    chosen = np.asarray(columns['class'])
    ages = metrics.age_metrics(
        columns['prediction'], split.months, split.male, ids=split.ids, source=split.sources
    )
    classes = metrics.class_metrics(chosen, truth, count)
    error = np.abs(np.asarray(centres)[chosen] - split.months)
    ages['overall'] |= classes.pop('overall') | metrics.intervals({'centre_mae': error})
    by_class = []
    for name, row in zip(names(edges), classes.pop('by_class'), strict=True):
        by_class.append({'months': name, **row})
    largest = np.argmax(np.bincount(class_of(train_months, edges), minlength=count))
    return {
        'median_mae': metrics.median_baseline(train_months, split.months),
        'largest_class_accuracy': float((truth == largest).mean()),
        **ages,
        **classes,
        'by_class': by_class,
    }


def summary_line(report: dict) -> str:
    """The report of a split in one line."""
    overall = report['overall']
    accuracy = overall['accuracy']
    return (
        f'accuracy {100 * accuracy["value"]:.1f}%, 95% interval {100 * accuracy["lower"]:.1f} to '
        f'{100 * accuracy["upper"]:.1f}; '
        f'always the largest class: {100 * report["largest_class_accuracy"]:.1f}%; '
        f'balanced {100 * overall["balanced_accuracy"]["value"]:.1f}%; '
        f'expected age, MAE {overall["mae"]["value"]:.1f} months'
    )
