"""PRSNet (Ji, Chen, Lin, Wu, Lin, MICCAI 2019): part relation and part selection on a ResNet.

Without both switches it is the paper's baseline (table 1): a ResNet whose pooled features and
one-hot sex give the age.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from boneage_jax.models import layers, resnet
from boneage_jax.models import parts as parts_lib
from tfds_rsna.errors import UserError

SCORER_WIDTH = 128  # channels between a level's features and its anchors' scores (ours)


class Relation(nnx.Module):
    """Equation 1 at one level: `F = T sigmoid(R) + D`.

    Three 1x1 convolutions that keep the level's channels. What is carried over from the level
    before joins x ahead of them (ours). `trunk` is the T of the attention literature's "trunk
    branch".
    """

    def __init__(self, features: int, carried: int, *, dtype, rngs: nnx.Rngs):
        def conv():
            return layers.conv(
                features + carried,
                features,
                1,
                bias=True,
                init=layers.torch_default,
                dtype=dtype,
                rngs=rngs,
            )

        self.relation = conv()
        self.trunk = conv()
        self.residual = conv()

    def __call__(self, x: jax.Array, carried: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """`[B, h, w, features]`, `[B, h, w, carried]` -> F `[B, h, w, features]`, map `[B, h, w]`.

        The map is the channel mean of sigmoid(R), float32.
        """
        if carried is not None:
            x = jnp.concatenate([x, carried], axis=-1)
        gate = jax.nn.sigmoid(self.relation(x))
        return self.trunk(x) * gate + self.residual(x), jnp.mean(gate, axis=-1, dtype=jnp.float32)


class Scorer(nnx.Module):
    """A score for every anchor of one level.

    `[B, h, w, features]` -> `[B, h * w * count]` float32.
    """

    def __init__(self, features: int, count: int, *, dtype, rngs: nnx.Rngs):
        self.hidden = layers.conv(
            features, SCORER_WIDTH, 3, bias=True, init=layers.torch_default, dtype=dtype, rngs=rngs
        )
        # In float32: bfloat16 scores of thousands of anchors would tie.
        self.scores = layers.conv(
            SCORER_WIDTH, count, 1, bias=True, init=layers.torch_default, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(self.hidden(x)).astype(jnp.float32)
        return self.scores(hidden).reshape(x.shape[0], -1)


class PRSNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(age [B] float32, normalised, aux)`.

    `relation` puts F_i of equation 1 in the place of the feature maps X_i of res3, res4, res5.
    `selection` scores anchors from them, keeps the best parts of an image after non-maximum
    suppression, crops them from the image and sums their features, from a second ResNet, to
    F_local. The head reads F_local, F_global (pooled F_5) and the one-hot sex.

    aux: `embeddings` `[B, F]` float32 (F_global); `relation_maps`, a list of `[B, h, w]` for res3,
    res4, res5, empty without relation; with selection `part_scores` `[B, M]`, `part_ages` `[B, M]`
    (normalised, each from one part and the sex), `part_boxes` `[B, M, 4]` (pixels), `part_valid`
    `[B, M]` (False: fewer parts survived; they count nowhere).

    Args:
        backbone: a ResNet.
        width: channels of the backbone's first stage.
        depth: blocks a stage, 0 = the backbone's own.
        stem: the backbone's, 'imagenet' or 'small'.
        standardise: see `layers.standardise`.
        dropout: before the head (ours, 0 = off); draws from `rngs`.
        relation: whether there is a relation module.
        selection: whether parts are selected.
        parts: M, how many of an image.
        part_size: pixels a side that they are cropped to.
        part_features: 'crop' takes a part's feature from the end of the second ResNet (section 3),
            'level' from its res3, res4 or res5, as the anchor's level is, projected to one width
            (section 4).
        nms_iou: overlap from which the worse of two parts is out.
        anchor_sizes: see `parts.anchors`.
        detach_scores: keeps the ranking loss from reaching relation and backbone (NTS-Net's way).
        backbone_size: pixels of the longer side of the image that the backbone sees, 0 = as it
            comes (the paper). Parts are cut from the image as it comes, so they show more of it
            (ours).
        on_hand: least share of a part that is not black, where a hand's mask was applied; 0 = any
            part (the paper).
        dtype: of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: options that no image fits; when called, more `parts` than there are anchors.
    """

    def __init__(
        self,
        *,
        backbone: str = 'resnet34',
        width: int = 64,
        depth: int = 0,
        stem: str = 'imagenet',
        standardise: str = 'image',
        dropout: float = 0.0,
        relation: bool = False,
        selection: bool = False,
        parts: int = 3,
        part_size: int = 96,
        part_features: str = 'crop',
        nms_iou: float = 0.25,
        anchor_sizes: tuple[float, ...] = parts_lib.SIZES,
        detach_scores: bool = False,
        backbone_size: int = 0,
        on_hand: float = 0.0,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        _check_options(backbone, part_features, part_size, nms_iou, backbone_size, on_hand)

        def make_backbone():
            return resnet.build(
                backbone,
                num_outputs=0,
                channels=1,
                width=width,
                depth=depth,
                stem=stem,
                dtype=dtype,
                rngs=rngs,
            )

        self.standardise = standardise
        self.detach_scores = detach_scores
        self.backbone_size = backbone_size
        self.on_hand = on_hand
        self.parts = parts
        self.part_size = part_size
        self.nms_iou = nms_iou
        self.backbone = make_backbone()
        self.strides = self.backbone.strides[1:]
        self.anchor_sizes = tuple(anchor_sizes)
        if selection:  # anchors grow with the image: what does not fit here fits no image
            parts_lib.anchors((448, 448), strides=self.strides, sizes=self.anchor_sizes)
        self.dropout = nnx.Dropout(dropout)
        features = self.backbone.features
        channels = self.backbone.widths[1:]
        # In float32: the age's last digit is a month.
        inputs = (2 if selection else 1) * features + layers.SEX_FEATURES
        self.head = layers.linear(inputs, 1, rngs=rngs)
        relations = None
        if relation:
            relations = nnx.List()
            for count, carried in zip(channels, (0, *channels)):
                relations.append(Relation(count, carried, dtype=dtype, rngs=rngs))
        self.relation = relations
        scorers = None
        if selection:
            scorers = nnx.List()
            for count, anchors, size in zip(channels, parts_lib.PER_LEVEL, self.anchor_sizes):
                if size:
                    scorers.append(Scorer(count, anchors, dtype=dtype, rngs=rngs))
        self.scorer = scorers
        part_backbone = None
        part_head = None
        projections = None
        if selection:
            part_backbone = make_backbone()
            part_head = layers.linear(features + layers.SEX_FEATURES, 1, rngs=rngs)
            if part_features == 'level':
                projections = nnx.List([layers.linear(c, features, rngs=rngs) for c in channels])
        self.part_backbone = part_backbone
        self.part_head = part_head
        self.projections = projections

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array | list[jax.Array]]]:
        hand = image[..., 0] > 0
        image = layers.standardise(image, self.standardise)
        seen = self._seen(image)
        maps, relation_maps = self._relate(self.backbone.stages(seen)[1:])
        embeddings = layers.global_average_pool(maps[-1])
        aux = {'embeddings': embeddings, 'relation_maps': relation_maps}
        sex = layers.one_hot_sex(male)
        features = embeddings
        if self.scorer is not None:
            local, parts = self._select(image, hand, maps, sex)
            features = jnp.concatenate([local, embeddings], axis=1)
            aux |= parts
        features = jnp.concatenate([self.dropout(features, rngs=rngs), sex], axis=1)
        return self.head(features)[:, 0], aux

    def _relate(self, maps):
        """X_3, X_4, X_5 -> F_3, F_4, F_5, and the relation maps.

        Without the module they are X themselves, and none.
        """
        if self.relation is None:
            return maps, []
        contexts = []
        relation_maps = []
        carried = None
        for x, relation in zip(maps, self.relation):
            context, relation_map = relation(x, carried)
            contexts.append(context)
            relation_maps.append(relation_map)
            carried = nnx.avg_pool(
                context, (2, 2), strides=(2, 2), padding='SAME', count_include_pad=False
            )
        return contexts, relation_maps

    def candidates(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(boxes `[N, 4]` in pixels, level `[N]`) of all anchors of an image of `size`."""
        seen = self._seen_size(size)
        boxes, level = parts_lib.anchors(seen, strides=self.strides, sizes=self.anchor_sizes)
        enlarged = np.array(size, np.float32) / np.array(seen, np.float32)
        return boxes * np.tile(enlarged, 2), level

    def _seen_size(self, size):
        """(rows, columns) of what the backbone sees of an image of `size`."""
        if not self.backbone_size or self.backbone_size >= max(size):
            return tuple(size)
        return tuple(max(1, round(side * self.backbone_size / max(size))) for side in size)

    def _seen(self, image):
        size = self._seen_size(image.shape[1:3])
        if size == image.shape[1:3]:
            return image
        return jax.image.resize(image, (len(image), *size, 1), 'linear')

    def _select(self, image, hand, maps, sex):
        """F_local `[B, F]` and the entries of aux that describe parts."""
        boxes, level = self.candidates(image.shape[1:3])
        allowed = None
        if self.on_hand:
            allowed = parts_lib.share_inside(hand, boxes) >= self.on_hand
        scores = self._score(maps)
        index, valid = parts_lib.select(scores, boxes, self.parts, self.nms_iou, allowed)
        chosen = jnp.asarray(boxes)[index]
        crops = parts_lib.crop(image, chosen, self.part_size)
        features = self._part_features(crops, jnp.asarray(level)[index])
        features = features.reshape(*index.shape, -1)  # [B, M, F]
        sexes = jnp.broadcast_to(sex[:, None], (*index.shape, layers.SEX_FEATURES))
        ages = self.part_head(jnp.concatenate([features, sexes], axis=-1))[..., 0]
        local = jnp.sum(features * valid[..., None], axis=1)
        return local, {
            'part_scores': jnp.take_along_axis(scores, index, axis=1),
            'part_ages': ages,
            'part_boxes': chosen,
            'part_valid': valid,
        }

    def _score(self, maps):
        """The scores `[B, N]` of all anchors."""
        scored = [x for x, size in zip(maps, self.anchor_sizes) if size]
        if self.detach_scores:
            scored = jax.lax.stop_gradient(scored)
        scores = [score(x) for score, x in zip(self.scorer, scored, strict=True)]
        return jnp.concatenate(scores, axis=1)

    def _part_features(self, crops, level):
        """`[B * M, F]` of crops `[B * M, size, size, 1]`, whose anchors are of `level` `[B, M]`."""
        stages = self.part_backbone.stages(crops)
        if self.projections is None:
            return layers.global_average_pool(stages[-1])
        projected = []
        for project, x in zip(self.projections, stages[1:]):
            projected.append(project(layers.global_average_pool(x)))
        of_levels = jnp.stack(projected, axis=1)
        return jnp.take_along_axis(of_levels, level.reshape(-1, 1, 1), axis=1)[:, 0]


def _check_options(backbone, part_features, part_size, nms_iou, backbone_size, on_hand):
    known = resnet.BLOCKS | resnet.BOTTLENECKS
    if backbone not in known:
        raise UserError(f'backbone={backbone!r}: expected one of {", ".join(known)}')
    if part_features not in ('crop', 'level'):
        raise UserError(f"part_features={part_features!r}: expected 'crop' or 'level'")
    if part_size < resnet.ResNet.smallest_side:
        raise UserError(
            f'part_size={part_size}: expected at least {resnet.ResNet.smallest_side} pixels'
        )
    if backbone_size < 0:
        raise UserError(
            f'backbone_size={backbone_size}: expected pixels, or 0 = the image as it is'
        )
    if not 0 <= on_hand <= 1:
        raise UserError(f'on_hand={on_hand}: expected a share, 0 to 1')
    if not 0 <= nms_iou < 1:
        raise UserError(f'nms_iou={nms_iou}: expected a number from 0 to below 1')
