"""The losses of the papers, one function each; per-example values, so that padding can be masked
out.
"""

import jax
import jax.numpy as jnp

_EPSILON = 1e-6  # keeps log J finite where a batch has no hand

RANKING_FORMS = ('corrected', 'literal')


def l1(prediction, target):
    """`[B]`, `[B]` -> `[B]`: absolute error (Iglovikov 2018, section 3.4; Bae 2018)."""
    return jnp.abs(prediction - target)


def l2(prediction, target):
    """`[B]`, `[B]` -> `[B]`: squared error (Ji 2019, equation 4)."""
    return jnp.square(prediction - target)


def expected_age(logits):
    """Logits `[B, K]` of the ages 0 to K - 1 months -> `[B]` float32: their expectation (Iglovikov
    2018, section 2.3).
    """
    shares = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.sum(shares * jnp.arange(logits.shape[-1], dtype=jnp.float32)[None], axis=-1)


def part_ranking(scores, errors, *, form='corrected', valid=None):
    """Scores `[B, M]` and age errors `[B, M]` of the selected parts -> `[B]`: better parts should
    score higher.

    'corrected': `max(0, 1 - (S_better - S_worse))`, summed over the pairs with |e_better| <
    |e_worse|: the pairwise hinge of NTS-Net (Yang et al. 2018), from which the loss comes; errors
    in any unit. 'literal': equations 2 and 3 of Ji 2019 as printed, `max(0, 1 - S_i - S_j)` over
    the pairs with C_j > C_i. There C = 1 - sigmoid(-|e|) grows with the error; beyond 17 months it
    is 1 in float32, and such parts make no pair. Errors in months.

    Pairs of equal errors and parts that are not `valid` (`[B, M]` bool) add nothing. Errors carry
    no gradient. Raises ValueError for another `form`.
    """
    errors = jnp.abs(jax.lax.stop_gradient(errors))
    i, j = (..., slice(None), None), (..., None, slice(None))  # pairs [B, i, j]
    if form == 'corrected':
        pairs, margin = errors[i] < errors[j], scores[i] - scores[j]
    elif form == 'literal':
        confidence = 1 - jax.nn.sigmoid(-errors)
        pairs, margin = confidence[j] > confidence[i], scores[i] + scores[j]
    else:
        raise ValueError(f'form={form!r}: expected one of {", ".join(RANKING_FORMS)}')
    if valid is not None:
        pairs &= valid[i] & valid[j]
    return jnp.sum(jnp.where(pairs, jnp.maximum(1 - margin, 0), 0), axis=(1, 2))


def segmentation(logits, mask, valid, *, jaccard='global'):
    """`H - log J` of Iglovikov 2018 (section 3.2): logits `[B, H, W]`, mask `[B, H, W]` 0 or 1,
    valid `[B]` -> scalar.

    H is the mean binary cross-entropy of a pixel. 'global': J is the soft Jaccard index of the
    whole batch's pixels, `sum(y p) / (sum y + sum p - sum y p)` (the same authors' other work).
    'literal': equation 3 as printed, the mean of the pixels' own ratios, each 0 where the pixel is
    background. Images that are not valid count nowhere. Raises ValueError for another `jaccard`.
    """
    logits, y = logits.astype(jnp.float32), mask.astype(jnp.float32)
    counted = valid.astype(jnp.float32)[:, None, None]
    pixels = jnp.maximum(counted.sum(), 1.0) * logits.shape[1] * logits.shape[2]
    entropy = (counted * (jax.nn.softplus(logits) - y * logits)).sum() / pixels
    p = jax.nn.sigmoid(logits)
    if jaccard == 'global':
        both, either = (counted * y * p).sum(), (counted * (y + p - y * p)).sum()
        index = (both + _EPSILON) / (either + _EPSILON)
    elif jaccard == 'literal':
        index = (counted * y * p / jnp.maximum(y + p - y * p, _EPSILON)).sum() / pixels + _EPSILON
    else:
        raise ValueError(f"jaccard={jaccard!r}: expected 'global' or 'literal'")
    return entropy - jnp.log(index)


TRIPLET_FORMS = ('softmax', 'margin', 'semi_hard')
DISTANCES = ('l2', 'squared_l2')


def pairwise_distances(embeddings, *, distance='l2'):
    """Embeddings `[B, F]` -> `[B, B]` float32, by differences: exactly 0 for equal rows, where the
    gradient is 0 too.

    Raises ValueError for another `distance`.
    """
    if distance not in DISTANCES:
        raise ValueError(f'distance={distance!r}: expected one of {", ".join(DISTANCES)}')
    x = embeddings.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
    if distance == 'squared_l2':
        return squares
    apart = (
        squares > 0
    )  # the root's slope at 0 is infinite: inside `where` on both sides, or it comes out as NaN
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)


def relative_triplets(ages, valid=None):
    """Ages `[B]` -> bool `[B, B, B]`: (anchor, positive, negative) distinct with |y_a - y_p| < |y_a
    - y_n| (Bae 2018).

    Ties are out: at most B(B-1)(B-2)/2 triplets, 14,880 at B = 32. Images that are not `valid`
    (`[B]` bool) are in none.
    """
    gaps = jnp.abs(ages[:, None] - ages[None])
    there = jnp.ones(ages.shape, bool) if valid is None else valid
    others = ~jnp.eye(
        len(ages), dtype=bool
    )  # the anchor is no positive; as a negative it has the smallest gap
    positive = others & there[:, None] & there[None]
    return (gaps[:, :, None] < gaps[:, None, :]) & positive[:, :, None] & positive[:, None, :]


def triplet_ranking(
    embeddings, ages, *, distance='l2', reduction='mean', form='softmax', margin=1.0, valid=None
):
    """Bae 2018, section 2.2: embeddings `[B, F]`, ages `[B]` -> scalar over all relative triplets
    of the batch.

    With the distances of a triplet's anchor to its positive and its negative, 'softmax' (the
    paper): `softplus(d_ap - d_an)`, the cross-entropy of the softmax of the two; 'margin' (ours):
    `max(0, d_ap - d_an + margin)`; 'semi_hard' (ours): that of the triplets in the right order by
    less than `margin` alone (Schroff et al. 2015). 'sum' (the paper): of all triplets; 'mean': by
    their number ('semi_hard': of those that count); no triplet gives 0.

    The batch is the global one however it is sharded: distances reach across devices. Memory grows
    with B^3 and B^2 F: 168 MB in all, gradient included, at B = 128 and F = 2,048 on a CPU. Raises
    ValueError for another `distance`, `reduction` or `form`.
    """
    if reduction not in ('mean', 'sum'):
        raise ValueError(f"reduction={reduction!r}: expected 'mean' or 'sum'")
    if form not in TRIPLET_FORMS:
        raise ValueError(f'form={form!r}: expected one of {", ".join(TRIPLET_FORMS)}')
    distances, chosen = (
        pairwise_distances(embeddings, distance=distance),
        relative_triplets(ages, valid),
    )
    excess = distances[:, :, None] - distances[:, None, :]  # [anchor, positive, negative]
    if form == 'semi_hard':
        chosen &= (excess < 0) & (excess > -margin)
    terms = jax.nn.softplus(excess) if form == 'softmax' else jnp.maximum(excess + margin, 0)
    total = jnp.sum(jnp.where(chosen, terms, 0))
    return total if reduction == 'sum' else total / jnp.maximum(jnp.sum(chosen), 1)


def rank_correlation(embeddings, ages, *, temperature=0.1, distance='l2', valid=None):
    """Ours: embeddings `[B, F]`, ages `[B]` -> scalar, 1 minus the mean over anchors of a smooth
    Spearman correlation between the distances to the others and the gaps in age.

    An image's rank among an anchor's others is a sum of `sigmoid((d - d_other) / (temperature *
    mean distance))`: the scale of the embeddings does not matter. Anchors whose gaps are all equal,
    and images that are not `valid`, count nowhere.
    """
    distances, gaps = (
        pairwise_distances(embeddings, distance=distance),
        jnp.abs(ages[:, None] - ages[None]),
    )
    there = jnp.ones(ages.shape, bool) if valid is None else valid
    others = ~jnp.eye(len(ages), dtype=bool) & there[:, None] & there[None]
    pairs = others[:, :, None] & others[:, None, :]
    mean = jax.lax.stop_gradient(
        jnp.sum(jnp.where(others, distances, 0)) / jnp.maximum(others.sum(), 1)
    )
    soft = jax.nn.sigmoid(
        (distances[:, :, None] - distances[:, None, :])
        / (temperature * jnp.maximum(mean, _EPSILON))
    )
    hard = 0.5 * (
        1 + jnp.sign(gaps[:, :, None] - gaps[:, None, :])
    )  # ties count half: their mean rank

    def centred(ranks):
        ranks = jnp.sum(jnp.where(pairs, ranks, 0), axis=2)
        middle = ranks.sum(1, keepdims=True, where=others) / jnp.maximum(
            others.sum(1, keepdims=True), 1
        )
        return jnp.where(others, ranks - middle, 0)

    a, b = centred(soft), centred(hard)
    norm = jnp.sum(a * a, 1) * jnp.sum(b * b, 1)
    counts = jnp.sum(b * b, 1) > 0
    correlation = jnp.sum(a * b, 1) / jnp.sqrt(jnp.where(counts, norm, 1.0) + _EPSILON)
    return jnp.sum(jnp.where(counts, 1 - correlation, 0)) / jnp.maximum(counts.sum(), 1)
