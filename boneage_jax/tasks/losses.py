"""The losses of the papers, one function each.

Where a batch has padding, values are of examples or `valid` says which count.
"""

import jax
import jax.numpy as jnp

_EPSILON = 1e-6  # keeps log J finite where a batch has no hand

_TEMPERATURE = 0.1  # of smooth ranks, in shares of the mean difference of what is ranked
RANKING_FORMS = ('corrected', 'literal', 'correlation')


def l1(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """`[B]`, `[B]` -> `[B]`: absolute error (Iglovikov 2018, section 3.4; Bae 2018)."""
    return jnp.abs(prediction - target)


def l2(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """`[B]`, `[B]` -> `[B]`: squared error (Ji 2019, equation 4)."""
    return jnp.square(prediction - target)


def expected_age(logits: jax.Array) -> jax.Array:
    """Logits `[B, K]` of the ages 0 to K - 1 months -> `[B]` float32: their expectation.

    Iglovikov 2018, section 2.3.
    """
    shares = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.sum(shares * jnp.arange(logits.shape[-1], dtype=jnp.float32)[None], axis=-1)


def age_spread(logits: jax.Array) -> jax.Array:
    """Logits `[B, K]` of the ages 0 to K - 1 months -> `[B]`: their standard deviation, months."""
    shares = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    ages = jnp.arange(logits.shape[-1], dtype=jnp.float32)[None]
    mean = jnp.sum(shares * ages, axis=-1, keepdims=True)
    return jnp.sqrt(jnp.sum(shares * jnp.square(ages - mean), axis=-1))


def age_distribution(logits: jax.Array, months: jax.Array, sigma: float) -> jax.Array:
    """The divergence `[B]`, in nats, of predicted ages from a Gaussian about the true one.

    Label distribution learning (Gao et al., IEEE TIP 2017): KL(Gaussian || softmax), zero where
    they are the same. The Gaussian is cut at the ends of the ages and sums to 1.

    Args:
        logits: `[B, K]` of the ages 0 to K - 1 months.
        months: true ages `[B]`.
        sigma: standard deviation of the Gaussian, months.
    """
    ages = jnp.arange(logits.shape[-1], dtype=jnp.float32)[None]
    distance = (ages - months.astype(jnp.float32)[:, None]) / sigma
    log_target = jax.nn.log_softmax(-0.5 * jnp.square(distance), axis=-1)
    log_shares = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.sum(jnp.exp(log_target) * (log_target - log_shares), axis=-1)


def part_ranking(
    scores: jax.Array,
    errors: jax.Array,
    *,
    form: str = 'corrected',
    valid: jax.Array | None = None,
) -> jax.Array:
    """The ranking loss `[B]` of the selected parts: better parts should score higher.

    'corrected': `max(0, 1 - (S_better - S_worse))`, summed over the pairs with |e_better| <
    |e_worse|: the pairwise hinge of NTS-Net (Yang et al. 2018), from which the loss comes; errors
    in any unit.

    'literal': equations 2 and 3 of Ji 2019 as printed, `max(0, 1 - S_i - S_j)` over the pairs with
    C_j > C_i. There C = 1 - sigmoid(-|e|) grows with the error; beyond 17 months it is 1 in
    float32, and such parts make no pair. Errors in months.

    'correlation' (ours): 1 minus a smooth Spearman correlation of scores with errors, their signs
    reversed; the scale of the scores does not matter. Images of fewer than two parts, or of equal
    errors, add nothing.

    Pairs of equal errors add nothing.

    Args:
        scores: of the parts `[B, M]`.
        errors: of their ages `[B, M]`; they carry no gradient.
        form: one of `RANKING_FORMS`.
        valid: `[B, M]` bool, which parts count; None = all.

    Raises:
        ValueError: another `form`.
    """
    errors = jnp.abs(jax.lax.stop_gradient(errors))
    if form == 'correlation':
        counted = jnp.ones(scores.shape, bool) if valid is None else valid
        apart = jnp.abs(scores[..., None] - scores[..., None, :])
        pairs = counted[..., None] & counted[..., None, :]
        scale = _TEMPERATURE * _mean_where(apart, pairs, axis=(1, 2))
        correlation, counts = _smooth_spearman(scores, -errors, counted, scale)
        return jnp.where(counts, 1 - correlation, 0)
    # Pairs [B, i, j].
    i = (..., slice(None), None)
    j = (..., None, slice(None))
    if form == 'corrected':
        pairs = errors[i] < errors[j]
        margin = scores[i] - scores[j]
    elif form == 'literal':
        confidence = 1 - jax.nn.sigmoid(-errors)
        pairs = confidence[j] > confidence[i]
        margin = scores[i] + scores[j]
    else:
        raise ValueError(f'form={form!r}: expected one of {", ".join(RANKING_FORMS)}')
    if valid is not None:
        pairs &= valid[i] & valid[j]
    return jnp.sum(jnp.where(pairs, jnp.maximum(1 - margin, 0), 0), axis=(1, 2))


def segmentation(
    logits: jax.Array, mask: jax.Array, valid: jax.Array, *, jaccard: str = 'global'
) -> jax.Array:
    """`H - log J` of Iglovikov 2018 (section 3.2), a scalar.

    H is the mean binary cross-entropy of a pixel. 'global': J is the soft Jaccard index of the
    whole batch's pixels, `sum(y p) / (sum y + sum p - sum y p)` (the same authors' other work).
    'literal': equation 3 as printed, the mean of the pixels' own ratios, each 0 where the pixel is
    background.

    Args:
        logits: `[B, H, W]`.
        mask: `[B, H, W]`, 0 or 1.
        valid: `[B]`; images that are not count nowhere.
        jaccard: 'global' or 'literal'.

    Raises:
        ValueError: another `jaccard`.
    """
    logits = logits.astype(jnp.float32)
    y = mask.astype(jnp.float32)
    counted = valid.astype(jnp.float32)[:, None, None]
    pixels = jnp.maximum(counted.sum(), 1.0) * logits.shape[1] * logits.shape[2]
    entropy = (counted * (jax.nn.softplus(logits) - y * logits)).sum() / pixels
    p = jax.nn.sigmoid(logits)
    if jaccard == 'global':
        both = (counted * y * p).sum()
        either = (counted * (y + p - y * p)).sum()
        index = (both + _EPSILON) / (either + _EPSILON)
    elif jaccard == 'literal':
        index = (counted * y * p / jnp.maximum(y + p - y * p, _EPSILON)).sum() / pixels + _EPSILON
    else:
        raise ValueError(f"jaccard={jaccard!r}: expected 'global' or 'literal'")
    return entropy - jnp.log(index)


TRIPLET_FORMS = ('softmax', 'margin', 'semi_hard')
DISTANCES = ('l2', 'squared_l2')


def pairwise_distances(embeddings: jax.Array, *, distance: str = 'l2') -> jax.Array:
    """Embeddings `[B, F]` -> `[B, B]` float32, by differences.

    Exactly 0 for equal rows, where the gradient is 0 too. Raises ValueError for another `distance`.
    """
    if distance not in DISTANCES:
        raise ValueError(f'distance={distance!r}: expected one of {", ".join(DISTANCES)}')
    x = embeddings.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
    if distance == 'squared_l2':
        return squares
    # The root's slope at 0 is infinite: inside `where` on both sides, or it comes out as NaN.
    apart = squares > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)


def relative_triplets(ages: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Ages `[B]` -> bool `[B, B, B]`: which (anchor, positive, negative) are triplets (Bae 2018).

    They are distinct, with |y_a - y_p| < |y_a - y_n|. Ties are out: at most B(B-1)(B-2)/2 triplets,
    14,880 at B = 32. Images that are not `valid` (`[B]` bool) are in none.
    """
    gaps = jnp.abs(ages[:, None] - ages[None])
    # The anchor is no positive; as a negative it has the smallest gap.
    others = _others(ages, valid)
    return (gaps[:, :, None] < gaps[:, None, :]) & others[:, :, None] & others[:, None, :]


def triplet_ranking(
    embeddings: jax.Array,
    ages: jax.Array,
    *,
    distance: str = 'l2',
    reduction: str = 'mean',
    form: str = 'softmax',
    margin: float = 1.0,
    valid: jax.Array | None = None,
) -> jax.Array:
    """The loss of all relative triplets of the batch (Bae 2018, section 2.2), a scalar.

    It takes the distances of a triplet's anchor to its positive and its negative. The batch is the
    global one however it is sharded: distances reach across devices. Memory grows with B^3 and B^2
    F: 168 MB in all, gradient included, at B = 128 and F = 2,048 on a CPU.

    Args:
        embeddings: `[B, F]`.
        ages: `[B]`.
        distance: one of `DISTANCES`.
        reduction: 'sum' (the paper) of all triplets; 'mean': by their number ('semi_hard': of those
            that count); no triplet gives 0.
        form: 'softmax' (the paper): `softplus(d_ap - d_an)`, the cross-entropy of the softmax of
            the two; 'margin' (ours): `max(0, d_ap - d_an + margin)`; 'semi_hard' (ours): that of
            the triplets in the right order by less than `margin` alone (Schroff et al. 2015).
        margin: see `form`.
        valid: `[B]` bool, which images count; None = all.

    Raises:
        ValueError: another `distance`, `reduction` or `form`.
    """
    if reduction not in ('mean', 'sum'):
        raise ValueError(f"reduction={reduction!r}: expected 'mean' or 'sum'")
    if form not in TRIPLET_FORMS:
        raise ValueError(f'form={form!r}: expected one of {", ".join(TRIPLET_FORMS)}')
    distances = pairwise_distances(embeddings, distance=distance)
    chosen = relative_triplets(ages, valid)
    excess = distances[:, :, None] - distances[:, None, :]  # [anchor, positive, negative]
    if form == 'semi_hard':
        chosen &= (excess < 0) & (excess > -margin)
    terms = jax.nn.softplus(excess) if form == 'softmax' else jnp.maximum(excess + margin, 0)
    total = jnp.sum(jnp.where(chosen, terms, 0))
    return total if reduction == 'sum' else total / jnp.maximum(jnp.sum(chosen), 1)


def rank_correlation(
    embeddings: jax.Array,
    ages: jax.Array,
    *,
    temperature: float = _TEMPERATURE,
    distance: str = 'l2',
    valid: jax.Array | None = None,
) -> jax.Array:
    """Ours: 1 minus a smooth Spearman correlation of distances with gaps in age, a scalar.

    It is the mean over anchors, of their distances and gaps to the others. An image's rank among an
    anchor's others is a sum of `sigmoid((d - d_other) / (temperature * mean distance))`: the scale
    of the embeddings does not matter. Anchors whose gaps are all equal count nowhere.

    Args:
        embeddings: `[B, F]`.
        ages: `[B]`.
        temperature: of the ranks.
        distance: one of `DISTANCES`.
        valid: `[B]` bool, which images count; None = all.
    """
    distances = pairwise_distances(embeddings, distance=distance)
    gaps = jnp.abs(ages[:, None] - ages[None])
    others = _others(ages, valid)
    scale = temperature * _mean_where(distances, others)
    correlation, counts = _smooth_spearman(distances, gaps, others, scale[..., None])
    return jnp.sum(jnp.where(counts, 1 - correlation, 0)) / jnp.maximum(counts.sum(), 1)


def _mean_where(values, counted, axis=None):
    """The mean of the values that count, positive, without a gradient; it keeps its axes."""
    total = jnp.sum(values, axis, where=counted, keepdims=True)
    number = jnp.maximum(jnp.sum(counted, axis, keepdims=True), 1)
    return jnp.maximum(jax.lax.stop_gradient(total / number), _EPSILON)


def _smooth_spearman(values, targets, counted, scale):
    """The rank correlation of each row's values with its targets, differentiable in the values.

    A value's rank is a sum of `sigmoid((value - other) / scale)` over the others of its row.

    Args:
        values: `[R, N]`.
        targets: `[R, N]`; ties have their mean rank.
        counted: `[R, N]` bool, which of a row count.
        scale: of the values, broadcast to `[R, N, N]`.

    Returns:
        (correlation `[R]`, counts `[R]` bool: rows whose targets are not all equal).
    """
    pairs = counted[:, :, None] & counted[:, None, :]  # [row, value, other]
    soft = jax.nn.sigmoid((values[:, :, None] - values[:, None, :]) / scale)
    # Ties count half: their mean rank.
    hard = 0.5 * (1 + jnp.sign(targets[:, :, None] - targets[:, None, :]))

    def centred(above):
        """Ranks [row, value] less their mean, from shares of others above which each is."""
        ranks = jnp.sum(jnp.where(pairs, above, 0), axis=2)
        counts = jnp.maximum(counted.sum(1, keepdims=True), 1)
        middle = ranks.sum(1, keepdims=True, where=counted) / counts
        return jnp.where(counted, ranks - middle, 0)

    by_value = centred(soft)
    by_target = centred(hard)
    spread = jnp.sum(by_target * by_target, 1)
    norm = jnp.sum(by_value * by_value, 1) * spread
    counts = spread > 0
    # A row that does not count has no norm, whose root has no slope.
    root = jnp.sqrt(jnp.where(counts, norm, 1.0) + _EPSILON)
    return jnp.sum(by_value * by_target, 1) / root, counts


def _others(ages, valid):
    """bool `[B, B]`: pairs of two images that both count."""
    there = jnp.ones(ages.shape, bool) if valid is None else valid
    return ~jnp.eye(len(ages), dtype=bool) & there[:, None] & there[None]
