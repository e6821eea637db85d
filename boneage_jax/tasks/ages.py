"""Ages as a number of months.

Plain regression (Iglovikov 2018), with ranked parts (Ji 2019), with triplets (Bae 2018).
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from boneage_jax.tasks import losses, metrics
from boneage_jax.tasks.task import Task, by_value, mean_of_examples
from tfds_rsna.errors import UserError

AGES = 240  # classes of a month each: 0 to 239 (Iglovikov 2018)


def fit(options: ml_collections.ConfigDict, months: np.ndarray) -> dict[str, float]:
    """The `centre` and `scale` in months of the normalised ages.

    They are taken from the training ages (float32 months `[N]`).
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


def age(options: ml_collections.ConfigDict, *, centre: float, scale: float) -> Task:
    """Regression of an age, normalised as (months - centre) / scale. Prediction: `[B]`."""
    per_image = by_value(options)

    def months(prediction):
        return prediction * scale + centre

    def loss(prediction, aux, batch):
        del aux
        if prediction.ndim != 1:
            raise UserError(
                f'task.name={options.name!r} takes one number an image, this network gives '
                f"{prediction.shape[-1]}; set model.outputs=1 or task.name='age_expectation'"
            )
        value = per_image(prediction, (batch['months'] - centre) / scale)
        error = jnp.abs(months(prediction) - batch['months'])
        return mean_of_examples(batch, 'mae', value, error)

    def columns(prediction, aux, batch):
        del aux, batch
        return {'prediction': months(prediction)}

    return Task(loss, columns, report, summary_line, months=months)


def age_expectation(options: ml_collections.ConfigDict, *, centre: float, scale: float) -> Task:
    """The expectation of an age over classes of a month (Iglovikov 2018, section 2.3).

    Prediction: logits `[B, K]` of the ages 0 to K - 1 months. The loss is that of the normalised
    expectation, as of a regressed age. Images of other ages are refused.
    """
    plain = age(options, centre=centre, scale=scale)

    def normalised(logits):
        return (losses.expected_age(logits) - centre) / scale

    def loss(logits, aux, batch):
        if logits.ndim != 2 or logits.shape[-1] != AGES:
            raise UserError(
                f"task.name='age_expectation' takes {AGES} logits an image, "
                f'found {list(logits.shape)}; set model.outputs={AGES}'
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


def age_distribution(options: ml_collections.ConfigDict, *, centre: float, scale: float) -> Task:
    """A distribution over ages of a month, its expectation being the age. Prediction: `[B, 240]`.

    The loss is `losses.age_distribution` with the deviation `sigma` (months), and `age_weight`
    times the loss of the normalised expectation. Reports each. predictions.csv has `spread` too,
    the standard deviation of the distribution in months.
    """
    expectation = age_expectation(options, centre=centre, scale=scale)
    if not options.sigma > 0:
        raise UserError(f'task.sigma={options.sigma}: expected a deviation above 0 months')
    if options.age_weight < 0:
        raise UserError(f'task.age_weight={options.age_weight}: expected zero or more')

    def loss(logits, aux, batch):
        of_age, sums = expectation.loss(logits, aux, batch)
        valid = batch['valid'].astype(jnp.float32)
        count = sums['loss'][1]
        divergence = losses.age_distribution(logits, batch['months'], options.sigma)
        divergence = (divergence * valid).sum() / count
        value = divergence + options.age_weight * of_age
        sums |= {
            'age_loss': sums['loss'],
            'divergence': (divergence * count, count),
            'loss': (value * count, count),
        }
        return value, sums

    def signals(logits):
        return {'spread': losses.age_spread(logits)}

    def columns(logits, aux, batch):
        return expectation.per_example(logits, aux, batch) | signals(logits)

    return dataclasses.replace(expectation, loss=loss, per_example=columns, signals=signals)


def _refuse_other_ages(split):
    """UserError where an image's age lies outside [0, 240) months."""
    bad = np.flatnonzero(~((split.months >= 0) & (split.months < AGES)))
    if len(bad):
        named = ', '.join(f'{split.ids[i]} ({split.months[i]:g})' for i in bad[:5])
        raise UserError(
            f'{len(bad)} of the {len(split)} {split.name} images are outside 0 to {AGES} months, '
            f"which the classes of task.name='age_expectation' cannot say: {named}; "
            "leave them out or take task.name='age'"
        )


def age_parts(options: ml_collections.ConfigDict, *, centre: float, scale: float) -> Task:
    """Equation 4 of Ji 2019: the age's loss and the ranking loss (weight `rank_weight`) of parts.

    Ours: the mean squared error of the selected parts' own ages (weight `part_weight`), without
    which nothing would train them. Reports each term, and how many parts an image had. For a model
    that selects no parts it is the task 'age'.
    """
    plain = age(options, centre=centre, scale=scale)
    _check_one_of('ranking_form', options.ranking_form, losses.RANKING_FORMS)

    def loss(prediction, aux, batch):
        value, sums = plain.loss(prediction, aux, batch)
        if 'part_ages' not in aux:
            return value, sums
        images = batch['valid'].astype(jnp.float32)
        count = jnp.maximum(images.sum(), 1.0)
        terms = _part_terms(aux, (batch['months'] - centre) / scale, scale, options.ranking_form)
        totals = {name: (term * images).sum() for name, term in terms.items()}
        rank_term = options.rank_weight * totals['rank_loss']
        part_term = options.part_weight * totals['part_loss']
        value += (rank_term + part_term) / count
        sums |= {'age_loss': sums['loss'], 'loss': (value * count, count)}
        for name, total in totals.items():
            sums[name] = (total, count)
        return value, sums

    return dataclasses.replace(plain, loss=loss)


def _part_terms(aux, ages, scale, ranking_form):
    """{name: `[B]`} of an image's parts, from its normalised age `[B]`; `scale` is in months."""
    parts = aux['part_valid']
    errors = aux['part_ages'] - ages[:, None]
    number = jnp.maximum(parts.sum(axis=1), 1)
    squares = jnp.where(parts, losses.l2(errors, 0.0), 0.0)
    return {
        'rank_loss': losses.part_ranking(
            aux['part_scores'], errors * scale, form=ranking_form, valid=parts
        ),
        'part_loss': jnp.sum(squares, axis=1) / number,
        'parts': parts.sum(axis=1).astype(jnp.float32),
    }


def age_triplet(options: ml_collections.ConfigDict, *, centre: float, scale: float) -> Task:
    """The age's loss and the ranking loss of the batch's relative triplets (Bae 2018, section 2.2).

    The age's loss is in months, however the model's ages are normalised. The ranking loss has the
    weight `triplet_weight` (`losses.triplet_ranking`: `distance`, `reduction`, `triplet_form`,
    `margin`).

    Ours: `correlation_weight` times `losses.rank_correlation` at `temperature`. Reports
    `triplet_loss`, the mean of a triplet of the paper's form whatever is trained (ln 2 where
    nothing is ordered), and `ordered`, the share of triplets with d_ap < d_an; both of runs without
    the triplet loss too.
    """
    plain = age(options, centre=centre, scale=scale)
    _check_one_of('distance', options.distance, losses.DISTANCES)
    _check_one_of('triplet_form', options.triplet_form, losses.TRIPLET_FORMS)
    _check_one_of('reduction', options.reduction, ('sum', 'mean'))
    for name in ('triplet_weight', 'correlation_weight'):
        if options[name] < 0:
            raise UserError(f'task.{name}={options[name]}: expected zero or more')
    for name in ('margin', 'temperature'):
        if options[name] < 1e-9:
            raise UserError(f'task.{name}={options[name]}: expected a positive number')
    in_months = {'l1': scale, 'l2': scale**2}[options.loss]

    def loss(prediction, aux, batch):
        value, sums = plain.loss(prediction, aux, batch)
        count = sums['loss'][1]
        embeddings = aux['embeddings']
        months = batch['months']
        valid = batch['valid']
        value *= in_months
        sums |= {'age_loss': (value * count, count)}
        if options.triplet_weight:
            value += options.triplet_weight * losses.triplet_ranking(
                embeddings,
                months,
                distance=options.distance,
                reduction=options.reduction,
                form=options.triplet_form,
                margin=options.margin,
                valid=valid,
            )
        if options.correlation_weight:
            value += options.correlation_weight * losses.rank_correlation(
                embeddings,
                months,
                temperature=options.temperature,
                distance=options.distance,
                valid=valid,
            )
        sums['loss'] = (value * count, count)
        return value, sums | _order(embeddings, months, valid, options.distance)

    return dataclasses.replace(
        plain,
        loss=loss,
        batch_dependent_loss=bool(options.triplet_weight or options.correlation_weight),
    )


def _check_one_of(name, value, known):
    if value not in known:
        raise UserError(f'task.{name}={value!r}: expected one of {", ".join(known)}')


def _order(embeddings, months, valid, distance):
    """How far a batch's embeddings are in order, without a gradient.

    (sum, count) pairs over its relative triplets.
    """
    distances = losses.pairwise_distances(jax.lax.stop_gradient(embeddings), distance=distance)
    triplets = losses.relative_triplets(months, valid)
    excess = distances[:, :, None] - distances[:, None, :]
    number = triplets.sum().astype(jnp.float32)
    entropy = jnp.sum(jnp.where(triplets, jax.nn.softplus(excess), 0))
    ordered = jnp.sum(triplets & (excess < 0)).astype(jnp.float32)
    return {'triplet_loss': (entropy, number), 'ordered': (ordered, number)}


def report(columns: dict[str, np.ndarray], split, train_months: np.ndarray) -> dict:
    """`metrics.age_metrics` of a split, and the floor.

    The floor is `median_mae`: the error of predicting the training median.
    """
    return {
        'median_mae': metrics.median_baseline(train_months, split.months),
        **metrics.age_metrics(
            columns['prediction'], split.months, split.male, ids=split.ids, source=split.sources
        ),
    }


def summary_line(report: dict) -> str:
    """The report of a split in one line."""
    mae = report['overall']['mae']
    return (
        f'MAE {mae["value"]:.2f} months, '
        f'95% interval {mae["lower"]:.2f} to {mae["upper"]:.2f}; '
        f'predicting the median gives {report["median_mae"]["value"]:.2f}'
    )
