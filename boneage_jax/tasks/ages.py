"""Ages as a number: regression of months (Iglovikov 2018), with ranked parts (Ji 2019), with
triplets (Bae 2018).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from boneage_jax.tasks import losses, metrics
from boneage_jax.tasks.task import Task, by_value, mean_of_examples
from tfds_rsna.errors import UserError

AGES = 240  # classes of a month each: 0 to 239 (Iglovikov 2018)


def fit(options, months):
    """The `centre` and `scale` in months of the normalised ages, from the training ages (float32
    months `[N]`).
    """
    if options.normalisation == 'zscore':
        spread = float(np.std(months, dtype=np.float64))
        if spread == 0:
            raise UserError(
                f"task.normalisation='zscore': all {len(months)} training images have the same age "
                f"({months[0]} months); give images of several ages or take 'unit'"
            )
        return {'centre': float(np.mean(months, dtype=np.float64)), 'scale': spread}
    if options.normalisation == 'unit':
        return {'centre': 120.0, 'scale': 120.0}
    if options.normalisation == 'months':
        return {'centre': 0.0, 'scale': 1.0}
    raise UserError(
        f"task.normalisation={options.normalisation!r}: expected 'zscore', 'unit' or 'months'"
    )


def age(options, *, centre, scale):
    per_image = by_value(options)

    def months(prediction):
        return prediction * scale + centre

    def loss(prediction, aux, batch):
        del aux
        if prediction.ndim != 1:
            raise UserError(
                f'task.name={options.name!r} takes one number an image, this network gives {prediction.shape[-1]}; '
                "set model.outputs=1 or task.name='age_expectation'"
            )
        value = per_image(prediction, (batch['months'] - centre) / scale)
        return mean_of_examples(batch, 'mae', value, jnp.abs(months(prediction) - batch['months']))

    def columns(prediction, aux, batch):
        del aux, batch
        return {'prediction': months(prediction)}

    return Task(loss, columns, report, summary_line, months=months)


def age_expectation(options, *, centre, scale):
    """Iglovikov 2018, section 2.3: logits `[B, K]` of the ages 0 to K - 1 months, whose expectation
    is the age. The loss is that of the normalised expectation, as of a regressed age. Images of
    other ages are refused.
    """
    plain = age(options, centre=centre, scale=scale)

    def normalised(logits):
        return (losses.expected_age(logits) - centre) / scale

    def loss(logits, aux, batch):
        if logits.ndim != 2 or logits.shape[-1] != AGES:
            raise UserError(
                f"task.name='age_expectation' takes {AGES} logits an image, found {list(logits.shape)}; set "
                f'model.outputs={AGES}'
            )
        return plain.loss(normalised(logits), aux, batch)

    def columns(logits, aux, batch):
        del aux, batch
        return {'prediction': losses.expected_age(logits)}

    return dataclasses.replace(
        plain,
        loss=loss,
        per_example=columns,
        months=losses.expected_age,
        validate_labels=_refuse_other_ages,
    )


def _refuse_other_ages(split):
    """UserError where an image's age lies outside [0, 240) months."""
    bad = np.flatnonzero(~((split.months >= 0) & (split.months < AGES)))
    if len(bad):
        named = ', '.join(f'{split.ids[i]} ({split.months[i]:g})' for i in bad[:5])
        raise UserError(
            f'{len(bad)} of the {len(split)} {split.name} images are outside 0 to {AGES} months, which the classes '
            f"of task.name='age_expectation' cannot say: {named}; leave them out or take task.name='age'"
        )


def age_parts(options, *, centre, scale):
    """Equation 4 of Ji 2019: the age's loss, the ranking loss (weight `rank_weight`) and, ours, the
    mean squared error of the selected parts' own ages (weight `part_weight`), without which nothing
    would train them. Reports each term, and how many parts an image had. For a model that selects
    no parts it is the task 'age'.
    """
    plain = age(options, centre=centre, scale=scale)
    if options.ranking_form not in losses.RANKING_FORMS:
        raise UserError(
            f'task.ranking_form={options.ranking_form!r}: expected one of {", ".join(losses.RANKING_FORMS)}'
        )

    def loss(prediction, aux, batch):
        total, sums = plain.loss(prediction, aux, batch)
        if 'part_ages' not in aux:
            return total, sums
        images, parts = batch['valid'].astype(jnp.float32), aux['part_valid']
        count, number = jnp.maximum(images.sum(), 1.0), jnp.maximum(parts.sum(axis=1), 1)
        errors = aux['part_ages'] - ((batch['months'] - centre) / scale)[:, None]
        terms = {
            'rank_loss': losses.part_ranking(
                aux['part_scores'], errors * scale, form=options.ranking_form, valid=parts
            ),
            'part_loss': jnp.sum(jnp.where(parts, losses.l2(errors, 0.0), 0.0), axis=1) / number,
            'parts': parts.sum(axis=1).astype(jnp.float32),
        }
        terms = {name: (value * images).sum() for name, value in terms.items()}
        total += (
            options.rank_weight * terms['rank_loss'] + options.part_weight * terms['part_loss']
        ) / count
        sums |= {'age_loss': sums['loss'], 'loss': (total * count, count)}
        return total, sums | {name: (value, count) for name, value in terms.items()}

    return dataclasses.replace(plain, loss=loss)


def age_triplet(options, *, centre, scale):
    """Bae 2018, section 2.2: the age's loss in months (however the model's ages are normalised),
    and `triplet_weight` times the ranking loss of the batch's relative triplets
    (`losses.triplet_ranking`: `distance`, `reduction`, `triplet_form`, `margin`).

    Ours: `correlation_weight` times `losses.rank_correlation` at `temperature`. Reports
    `triplet_loss`, the mean of a triplet of the paper's form whatever is trained (ln 2 where
    nothing is ordered), and `ordered`, the share of triplets with d_ap < d_an; both of runs without
    the triplet loss too.
    """
    plain = age(options, centre=centre, scale=scale)
    one_of = {
        'distance': losses.DISTANCES,
        'triplet_form': losses.TRIPLET_FORMS,
        'reduction': ('sum', 'mean'),
    }
    for name, known in one_of.items():
        if options[name] not in known:
            raise UserError(f'task.{name}={options[name]!r}: expected one of {", ".join(known)}')
    for name, lowest in {
        'triplet_weight': 0,
        'correlation_weight': 0,
        'margin': 1e-9,
        'temperature': 1e-9,
    }.items():
        if options[name] < lowest:
            raise UserError(
                f'task.{name}={options[name]}: expected '
                f'{"a positive number" if lowest else "zero or more"}'
            )
    in_months = {'l1': scale, 'l2': scale**2}[options.loss]

    def loss(prediction, aux, batch):
        value, sums = plain.loss(prediction, aux, batch)
        count, given = sums['loss'][1], (aux['embeddings'], batch['months'])
        value *= in_months
        sums |= {'age_loss': (value * count, count)}
        if options.triplet_weight:
            value += options.triplet_weight * losses.triplet_ranking(
                *given,
                distance=options.distance,
                reduction=options.reduction,
                form=options.triplet_form,
                margin=options.margin,
                valid=batch['valid'],
            )
        if options.correlation_weight:
            value += options.correlation_weight * losses.rank_correlation(
                *given,
                temperature=options.temperature,
                distance=options.distance,
                valid=batch['valid'],
            )
        return value, sums | {
            'loss': (value * count, count),
            **_order(*given, batch['valid'], options.distance),
        }

    return dataclasses.replace(
        plain,
        loss=loss,
        batch_dependent_loss=bool(options.triplet_weight or options.correlation_weight),
    )


def _order(embeddings, months, valid, distance):
    """How far a batch's embeddings are in order: (sum, count) pairs over its relative triplets,
    without a gradient.
    """
    distances = losses.pairwise_distances(jax.lax.stop_gradient(embeddings), distance=distance)
    triplets, excess = (
        losses.relative_triplets(months, valid),
        distances[:, :, None] - distances[:, None, :],
    )
    number = triplets.sum().astype(jnp.float32)
    return {
        'triplet_loss': (jnp.sum(jnp.where(triplets, jax.nn.softplus(excess), 0)), number),
        'ordered': (jnp.sum(triplets & (excess < 0)).astype(jnp.float32), number),
    }


def report(columns, split, train_months):
    """`metrics.age_metrics` of a split, and as `median_mae` the floor: the error of predicting the
    training median.
    """
    return {
        'median_mae': metrics.median_baseline(train_months, split.months),
        **metrics.age_metrics(
            columns['prediction'], split.months, split.male, ids=split.ids, source=split.sources
        ),
    }


def summary_line(report):
    mae = report['overall']['mae']
    return (
        f'MAE {mae["value"]:.2f} months, 95% interval {mae["lower"]:.2f} to {mae["upper"]:.2f}; predicting the '
        f'median gives {report["median_mae"]["value"]:.2f}'
    )
