"""Candidate parts of an image (Ji et al. 2019, section 3): anchors, the choice among them, crops.

All shapes are static, so everything here runs inside a jit. Boxes are `(row0, column0, row1,
column1)` in pixels, float32; pixel (r, c) covers [r, r + 1] x [c, c + 1], so the image's own box is
(0, 0, height, width). Boxes may reach beyond it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tfds_rsna.errors import UserError

# Of anchors at res3, res4, res5 on an image of 448 pixels: NTS-Net's, PRSNet gives none.
SIZES = (48, 96, 192)
SCALES = 2 ** np.array([1 / 3, 2 / 3, 0])  # the last one at the coarsest level only
RATIOS = np.array([2 / 3, 1, 3 / 2])  # width / height
PER_LEVEL = (6, 6, 9)


def anchors(
    size: tuple[int, int],
    *,
    strides: tuple[int, ...] = (8, 16, 32),
    sizes: tuple[float, ...] = SIZES,
) -> tuple[np.ndarray, np.ndarray]:
    """(boxes `[N, 4]` float32, level `[N]` int32) of an image: NumPy constants.

    One level for each stride, whose map has ceil(side / stride) places a side; in the order level,
    row, column, scale, ratio, as `[B, h, w, anchors]` scores flatten. The places are spread evenly
    over the image, which is stride / 2 + k stride where the stride divides the side. Elsewhere that
    rule would put the last centre outside the image and break the mirror symmetry.

    Args:
        size: (rows, columns) of the image.
        strides: of the levels' maps.
        sizes: of each level's anchors; they scale with the image's shorter side. 0 leaves a level
            out (it has no scores either).

    Raises:
        UserError: no level is left, or an anchor is larger than the image.
    """
    rows, columns = size
    return _anchors((int(rows), int(columns)), tuple(strides), tuple(sizes))


@functools.cache
def _anchors(size, strides, sizes):
    if len(sizes) != len(strides) or min(sizes) < 0 or not any(sizes):
        raise UserError(
            f'anchor_sizes={sizes}: no level yields an anchor; expected {len(strides)} sizes, '
            'those of res3, res4, res5 on an image of 448 pixels, 0 for a level without anchors'
        )
    boxes = []
    levels = []
    for level, (stride, base, count) in enumerate(zip(strides, sizes, PER_LEVEL)):
        if not base:
            continue
        shapes = _shapes(base * min(size) / 448 * SCALES[: count // len(RATIOS)])
        if (shapes > np.array(size)).any():
            raise UserError(
                f'anchor_sizes={sizes}: the largest anchor of level res{level + 3} is '
                f'{shapes[:, 0].max():.0f} x {shapes[:, 1].max():.0f} pixels (rows x columns), '
                f'the image {size[0]} x {size[1]}; give smaller sizes'
            )
        places = [_places(side, stride) for side in size]
        centres = np.stack(np.meshgrid(*places, indexing='ij'), -1)[:, :, None]
        corners = np.concatenate([centres - shapes / 2, centres + shapes / 2], -1).reshape(-1, 4)
        boxes.append(corners)
        levels.append(np.full(len(corners), level))
    return np.concatenate(boxes).astype(np.float32), np.concatenate(levels).astype(np.int32)


def _shapes(scales):
    """(rows, columns) `[scales x ratios, 2]` of anchors whose area is the square of a scale."""
    rows = np.outer(scales, RATIOS**-0.5)
    columns = np.outer(scales, RATIOS**0.5)
    return np.stack([rows, columns], -1).reshape(-1, 2)


def _places(side, stride):
    """Centres of the places of a map along `side` pixels."""
    count = -(-side // stride)
    return (np.arange(count) + 0.5) * side / count


def overlap(box: jax.Array, boxes: jax.Array) -> jax.Array:
    """Intersection over union of `box [..., 1, 4]` with `boxes [..., N, 4]` -> `[..., N]`."""
    low = jnp.maximum(box[..., :2], boxes[..., :2])
    high = jnp.minimum(box[..., 2:], boxes[..., 2:])
    common = jnp.prod(jnp.maximum(high - low, 0), -1)
    return common / (_area(box) + _area(boxes) - common)


def _area(boxes):
    return jnp.prod(boxes[..., 2:] - boxes[..., :2], -1)


def share_inside(mask: jax.Array, boxes: np.ndarray) -> jax.Array:
    """The share of each box that is inside a mask: `[B, H, W]` bool, `[N, 4]` -> `[B, N]` float32.

    Box edges are rounded to pixels; what lies outside the image is outside the mask.
    """
    rows, columns = mask.shape[1:3]
    sums = jnp.cumsum(jnp.cumsum(mask.astype(jnp.float32), axis=1), axis=2)
    sums = jnp.pad(sums, ((0, 0), (1, 0), (1, 0)))
    edges = np.rint(boxes).astype(np.int32)
    low = np.clip(edges[:, :2], 0, (rows, columns))
    high = np.clip(edges[:, 2:], 0, (rows, columns))

    def corner(row, column):
        return sums[:, row, column]

    inside = (
        corner(high[:, 0], high[:, 1])
        - corner(low[:, 0], high[:, 1])
        - corner(high[:, 0], low[:, 1])
        + corner(low[:, 0], low[:, 1])
    )
    return inside / np.maximum(np.prod(edges[:, 2:] - edges[:, :2], axis=1), 1)[None]


def select(
    scores: jax.Array,
    boxes: np.ndarray,
    top: int,
    iou: float = 0.25,
    allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The best boxes after greedy non-maximum suppression.

    Nothing here carries a gradient.

    Args:
        scores: `[B, N]`; of equal ones the first is taken.
        boxes: `[N, 4]`.
        top: how many are taken.
        iou: a box that overlaps an earlier, better one by more is out.
        allowed: `[B, N]` bool, the boxes that may be taken; None = all.

    Returns:
        (index, valid), `[B, top]` each. Where fewer boxes survive, the rest is `valid=False`
        (index 0).

    Raises:
        UserError: `top` is not between 1 and N.
    """
    if not 1 <= top <= len(boxes):
        raise UserError(f'parts={top}: expected 1 to {len(boxes)}, the number of anchors')
    scores = jax.lax.stop_gradient(scores)
    boxes = jnp.asarray(boxes)
    alive = jnp.ones(scores.shape, bool) if allowed is None else allowed
    index = []
    valid = []
    # A few rounds over all anchors: exact, and cheaper than sorting them.
    for _ in range(top):
        best = jnp.argmax(jnp.where(alive, scores, -jnp.inf), axis=1)
        index.append(best)
        valid.append(alive.any(axis=1))
        alive &= overlap(boxes[best][:, None], boxes[None]) <= iou
    valid = jnp.stack(valid, 1)
    return jnp.where(valid, jnp.stack(index, 1), 0), valid


def crop(image: jax.Array, boxes: jax.Array, part_size: int) -> jax.Array:
    """Each box of an image as a square.

    `image [B, H, W, 1]`, `boxes [B, M, 4]` -> `[B * M, part_size, part_size, 1]`.
    Linear, smoothed where a part shrinks, zero outside the image. Boxes carry no gradient.
    """
    boxes = jax.lax.stop_gradient(boxes)

    def one(image, box):
        scale = part_size / (box[2:] - box[:2])
        return jax.image.scale_and_translate(
            image,
            (part_size, part_size),
            (0, 1),
            scale,
            -box[:2] * scale,
            method='linear',
            antialias=True,
        )

    parts = jax.vmap(jax.vmap(one, (None, 0)))(image[..., 0], boxes)
    return parts.reshape(-1, part_size, part_size, 1)
