"""The losses of the papers, one function each; per-example values, so that padding can be masked out."""

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


def part_ranking(scores, errors, *, form='corrected', valid=None):
    """Scores `[B, M]` and age errors `[B, M]` of the selected parts -> `[B]`: better parts should score higher.

    'corrected': `max(0, 1 - (S_better - S_worse))`, summed over the pairs with |e_better| < |e_worse|: the
    pairwise hinge of NTS-Net (Yang et al. 2018), from which the loss comes; errors in any unit.
    'literal': equations 2 and 3 of Ji 2019 as printed, `max(0, 1 - S_i - S_j)` over the pairs with C_j > C_i.
    There C = 1 - sigmoid(-|e|) grows with the error; beyond 17 months it is 1 in float32, and such parts make
    no pair. Errors in months.

    Pairs of equal errors and parts that are not `valid` (`[B, M]` bool) add nothing. Errors carry no gradient.
    Raises ValueError for another `form`.
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
    """`H - log J` of Iglovikov 2018 (section 3.2): logits `[B, H, W]`, mask `[B, H, W]` 0 or 1, valid `[B]` -> scalar.

    H is the mean binary cross-entropy of a pixel. 'global': J is the soft Jaccard index of the whole batch's pixels,
    `sum(y p) / (sum y + sum p - sum y p)` (the same authors' other work). 'literal': equation 3 as printed, the mean of the
    pixels' own ratios, each 0 where the pixel is background. Films that are not valid count nowhere. Raises ValueError for
    another `jaccard`.
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
