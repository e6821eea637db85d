"""Ages cut into a few classes of equal width (Hamrouni, Hassen 2023)."""

import jax
import jax.numpy as jnp
import numpy as np

from boneage_jax.tasks import metrics
from boneage_jax.tasks.task import Task
from tfds_rsna.errors import UserError

WEIGHTS = ('none', 'balanced')
# pandas.cut lowers the first edge by this share of the range, so that the youngest image has a
# class
_BELOW = 0.001


def fit(options, months):
    """From the training ages (months `[N]`): `edges` `[K + 1]`, class `centres` `[K]` (months),
    loss `weights` `[K]`.

    Edges are those of `pandas.cut(months, K)`: class k holds edges[k] < age <= edges[k + 1]. Ages
    beyond either end, which pandas leaves without a class, count to the class at that end. Weights
    are 1, or, 'balanced', N / (K N_k), which gives every class the same say.
    """
    if options.classes < 2:
        raise UserError(f'task.classes={options.classes}: expected 2 or more')
    if options.class_weights not in WEIGHTS:
        raise UserError(
            f'task.class_weights={options.class_weights!r}: expected one of {", ".join(WEIGHTS)}'
        )
    months = np.asarray(months, np.float64)
    low, high = float(months.min()), float(months.max())
    if low == high:
        raise UserError(
            f'all {len(months)} training images have the same age ({low:g} months): no classes to cut'
        )
    edges = np.linspace(low, high, options.classes + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    edges[0] -= _BELOW * (high - low)
    weights = np.ones(options.classes)
    if options.class_weights == 'balanced':
        counts = np.bincount(class_of(months, edges), minlength=options.classes)
        weights = len(months) / (options.classes * np.maximum(counts, 1))
    return {'edges': edges.tolist(), 'centres': centres.tolist(), 'weights': weights.tolist()}


def class_of(months, edges):
    """The class `[N]` (int, from 0) of ages `[N]` in months: the right edge belongs to a class, the
    left does not.
    """
    return np.searchsorted(np.asarray(edges, np.float64)[1:-1], np.asarray(months), side='left')


def names(edges):
    """'77-152 months' for each class: the whole months that it holds."""
    inner = [int(np.floor(edge)) for edge in edges[1:]]
    first = [int(np.floor(edges[0])) + 1, *(edge + 1 for edge in inner)]
    return [f'{max(low, 0)}-{high}' for low, high in zip(first, inner)]


def age_classes(options, *, edges, centres, weights):
    """Prediction: logits `[B, K]`, trained by cross-entropy (the loss that the paper prints is a
    misprint).

    Columns: `prediction`, the expectation of the class centres in months; `class` (from 0), the
    likeliest; `true_class` where the age is known; `probability_0` and so on.
    """
    # As float32 rounded down: an age in float32 is then on the same side of an edge as in float64.
    inner = np.asarray(edges[1:-1], np.float64)
    rounded = inner.astype(np.float32)
    rounded = np.where(rounded > inner, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    centres32, weights32 = np.asarray(centres, np.float32), np.asarray(weights, np.float32)

    def true_class(batch):
        return (jnp.asarray(batch['months'])[:, None] > rounded[None]).sum(1).astype(jnp.int32)

    def months(logits):
        return (jax.nn.softmax(logits.astype(jnp.float32), axis=-1) * centres32[None]).sum(-1)

    def loss(logits, aux, batch):
        del aux
        if logits.shape[-1] != len(centres):
            raise UserError(
                f'this network has {logits.shape[-1]} classes but task.classes={len(centres)}: take a network of as many'
            )
        truth, valid = true_class(batch), batch['valid'].astype(jnp.float32)
        chosen = jax.nn.one_hot(truth, len(centres))
        entropy = -(chosen * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)).sum(1)
        weight = (chosen * weights32[None]).sum(1) * valid
        count, mass = jnp.maximum(valid.sum(), 1.0), jnp.maximum(weight.sum(), 1e-6)
        hits = ((jnp.argmax(logits, axis=-1) == truth) * valid).sum()
        error = (jnp.abs(months(logits) - batch['months']) * valid).sum()
        value = (entropy * weight).sum()
        return value / mass, {
            'loss': (value, mass),
            'accuracy': (hits, count),
            'mae': (error, count),
        }

    def columns(logits, aux, batch):
        del aux
        probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        found = {
            'prediction': months(logits),
            'class': jnp.argmax(logits, axis=-1).astype(jnp.int32),
        }
        if 'months' in batch:
            found['true_class'] = true_class(batch)
        return found | {f'probability_{k}': probability[:, k] for k in range(len(centres))}

    def report(columns, split, train_months):
        largest = np.argmax(np.bincount(class_of(train_months, edges), minlength=len(centres)))
        truth, chosen = class_of(split.months, edges), np.asarray(columns['class'])
        found = metrics.age_metrics(
            columns['prediction'], split.months, split.male, ids=split.ids, source=split.sources
        )
        classes = metrics.class_metrics(chosen, truth, len(centres))
        error = np.abs(np.asarray(centres)[chosen] - split.months)
        found['overall'] |= classes.pop('overall') | metrics.intervals({'centre_mae': error})
        names_, per_class = names(edges), classes.pop('by_class')
        return {
            'median_mae': metrics.median_baseline(train_months, split.months),
            'largest_class_accuracy': float((truth == largest).mean()),
            **found,
            **classes,
            'by_class': [
                {'months': name, **row} for name, row in zip(names_, per_class, strict=True)
            ],
        }

    def classes(logits):
        found = columns(logits, {}, {})
        return {
            'class': found['class'],
            'class_months': np.asarray(names(edges))[np.asarray(found['class'])],
            **{name: values for name, values in found.items() if name.startswith('probability_')},
        }

    return Task(
        loss,
        columns,
        report,
        summary_line,
        kind='age_classes',
        months=months,
        classes=classes,
        selection_metric='loss',
        metric_format='loss {:.4f}',
    )


def summary_line(report):
    overall = report['overall']
    accuracy, mae = overall['accuracy'], overall['mae']
    return (
        f'accuracy {100 * accuracy["value"]:.1f}%, 95% interval {100 * accuracy["lower"]:.1f} to '
        f'{100 * accuracy["upper"]:.1f}; always the largest class: {100 * report["largest_class_accuracy"]:.1f}%; '
        f'balanced {100 * overall["balanced_accuracy"]["value"]:.1f}%; expected age, MAE {mae["value"]:.1f} months'
    )
