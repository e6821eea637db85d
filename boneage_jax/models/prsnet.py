"""PRSNet (Ji, Chen, Lin, Wu, Lin, MICCAI 2019): part relation and part selection on a ResNet.

Without both switches it is the paper's baseline (table 1): a ResNet whose pooled features and
one-hot sex give the age.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import layers, resnet
from boneage_jax.models import parts as parts_lib
from tfds_rsna.errors import UserError

SCORER_WIDTH = 128  # channels between a level's features and its anchors' scores (ours)


class Relation(nnx.Module):
    """Equation 1 at one level: `F = T sigmoid(R) + D`, three 1x1 convolutions that keep the level's
    channels.

    `(x [B, h, w, features], carried [B, h, w, carried] or None) -> (F [B, h, w, features], map [B,
    h, w] float32)`. What is carried over from the level before joins x ahead of the convolutions
    (ours); the map is the channel mean of sigmoid(R).
    """

    def __init__(self, features, carried, *, dtype, rngs):
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

        self.relation, self.trunk, self.residual = conv(), conv(), conv()

    def __call__(self, x, carried):
        if carried is not None:
            x = jnp.concatenate([x, carried], axis=-1)
        gate = jax.nn.sigmoid(self.relation(x))
        return self.trunk(x) * gate + self.residual(x), jnp.mean(gate, axis=-1, dtype=jnp.float32)


class Scorer(nnx.Module):
    """A score for every anchor of one level: `[B, h, w, features]` -> `[B, h * w * count]` float32."""

    def __init__(self, features, count, *, dtype, rngs):
        self.hidden = layers.conv(
            features, SCORER_WIDTH, 3, bias=True, init=layers.torch_default, dtype=dtype, rngs=rngs
        )
        # In float32: bfloat16 scores of thousands of anchors would tie.
        self.scores = layers.conv(
            SCORER_WIDTH, count, 1, bias=True, init=layers.torch_default, rngs=rngs
        )

    def __call__(self, x):
        return self.scores(jax.nn.relu(self.hidden(x)).astype(jnp.float32)).reshape(x.shape[0], -1)


class PRSNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(age [B] float32, normalised, aux)`.

    `relation` puts F_i of equation 1 in the place of the feature maps X_i of res3, res4, res5.
    `selection` scores anchors from them, keeps the best `parts` of an image after non-maximum
    suppression at IoU `nms_iou`, crops them from the image to `part_size` pixels a side and sums
    their features, from a second ResNet, to F_local. The head reads F_local, F_global (pooled F_5)
    and the one-hot sex.

    `part_features`: 'crop' takes a part's feature from the end of the second ResNet (section 3),
    'level' from its res3, res4 or res5, as the anchor's level is, projected to one width (section
    4). `detach_scores` keeps the ranking loss from reaching relation and backbone (NTS-Net's way).
    `anchor_sizes`: see `parts.anchors`. Dropout (ours, 0 = off) draws from `rngs`.

    aux: `embeddings` `[B, F]` float32 (F_global); `relation_maps`, a list of `[B, h, w]` for res3,
    res4, res5, empty without relation; with selection `part_scores` `[B, M]`, `part_ages` `[B, M]`
    (normalised, each from one part and the sex), `part_boxes` `[B, M, 4]` (pixels), `part_valid`
    `[B, M]` (False: fewer parts survived; they count nowhere).

    Raises UserError for options that no image fits, and, when called, for more `parts` than there
    are anchors.
    """

    def __init__(
        self,
        *,
        backbone='resnet34',
        width=64,
        depth=0,
        stem='imagenet',
        standardise='image',
        dropout=0.0,
        relation=False,
        selection=False,
        parts=3,
        part_size=96,
        part_features='crop',
        nms_iou=0.25,
        anchor_sizes=parts_lib.SIZES,
        detach_scores=False,
        dtype=None,
        rngs,
    ):
        if backbone not in resnet.BLOCKS | resnet.BOTTLENECKS:
            raise UserError(
                f'backbone={backbone!r}: expected one of {", ".join(resnet.BLOCKS | resnet.BOTTLENECKS)}'
            )
        if part_features not in ('crop', 'level'):
            raise UserError(f"part_features={part_features!r}: expected 'crop' or 'level'")
        if part_size < resnet.ResNet.smallest_side:
            raise UserError(
                f'part_size={part_size}: expected at least {resnet.ResNet.smallest_side} pixels'
            )
        if not 0 <= nms_iou < 1:
            raise UserError(f'nms_iou={nms_iou}: expected a number from 0 to below 1')

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

        self.standardise, self.detach_scores = standardise, detach_scores
        self.parts, self.part_size, self.nms_iou = parts, part_size, nms_iou
        self.backbone = make_backbone()
        self.strides, self.anchor_sizes = self.backbone.strides[1:], tuple(anchor_sizes)
        if selection:  # anchors grow with the image: what does not fit here fits no image
            parts_lib.anchors((448, 448), strides=self.strides, sizes=self.anchor_sizes)
        self.dropout = nnx.Dropout(dropout)
        features = self.backbone.features
        channels = self.backbone.widths[1:]
        # In float32: the age's last digit is a month.
        self.head = layers.linear(features * (2 if selection else 1) + 2, 1, rngs=rngs)
        self.relation = (
            nnx.List(
                Relation(c, carried, dtype=dtype, rngs=rngs)
                for c, carried in zip(channels, [0, *channels])
            )
            if relation
            else None
        )
        self.scorer = (
            nnx.List(
                Scorer(c, count, dtype=dtype, rngs=rngs)
                for c, count, size in zip(channels, parts_lib.PER_LEVEL, self.anchor_sizes)
                if size
            )
            if selection
            else None
        )
        self.part_backbone = make_backbone() if selection else None
        self.part_head = layers.linear(features + 2, 1, rngs=rngs) if selection else None
        self.projections = (
            nnx.List(layers.linear(c, features, rngs=rngs) for c in channels)
            if selection and part_features == 'level'
            else None
        )

    def __call__(self, image, male, *, rngs=None):
        image = layers.standardise(image, self.standardise)
        maps, relation_maps = self._relate(self.backbone.stages(image)[1:])
        embeddings = layers.global_average_pool(maps[-1])
        aux = {'embeddings': embeddings, 'relation_maps': relation_maps}
        sex = jax.nn.one_hot(male.astype(jnp.int32), 2)
        features = embeddings
        if self.scorer is not None:
            local, parts = self._select(image, maps, sex)
            features = jnp.concatenate([local, embeddings], axis=1)
            aux |= parts
        features = jnp.concatenate([self.dropout(features, rngs=rngs), sex], axis=1)
        return self.head(features)[:, 0], aux

    def _relate(self, maps):
        """X_3, X_4, X_5 -> F_3, F_4, F_5, and the relation maps; without the module X themselves,
        and none.
        """
        if self.relation is None:
            return maps, []
        contexts, relation_maps, carried = [], [], None
        for x, relation in zip(maps, self.relation):
            context, relation_map = relation(x, carried)
            contexts.append(context)
            relation_maps.append(relation_map)
            carried = nnx.avg_pool(
                context, (2, 2), strides=(2, 2), padding='SAME', count_include_pad=False
            )
        return contexts, relation_maps

    def _select(self, image, maps, sex):
        """F_local `[B, F]` and the entries of aux that speak of parts."""
        boxes, level = parts_lib.anchors(
            image.shape[1:3], strides=self.strides, sizes=self.anchor_sizes
        )
        scored = [x for x, size in zip(maps, self.anchor_sizes) if size]
        if self.detach_scores:
            scored = jax.lax.stop_gradient(scored)
        scores = jnp.concatenate(
            [score(x) for score, x in zip(self.scorer, scored, strict=True)], axis=1
        )
        index, valid = parts_lib.select(scores, boxes, self.parts, self.nms_iou)
        chosen = jnp.asarray(boxes)[index]
        stages = self.part_backbone.stages(parts_lib.crop(image, chosen, self.part_size))
        if self.projections is None:
            features = layers.global_average_pool(stages[-1])
        else:
            each = jnp.stack(
                [
                    project(layers.global_average_pool(x))
                    for project, x in zip(self.projections, stages[1:])
                ],
                axis=1,
            )
            features = jnp.take_along_axis(
                each, jnp.asarray(level)[index].reshape(-1, 1, 1), axis=1
            )[:, 0]
        features = features.reshape(*index.shape, -1)  # [B, M, F]
        sexes = jnp.broadcast_to(sex[:, None], (*index.shape, 2))
        ages = self.part_head(jnp.concatenate([features, sexes], axis=-1))[..., 0]
        local = jnp.sum(features * valid[..., None], axis=1)
        return local, {
            'part_scores': jnp.take_along_axis(scores, index, axis=1),
            'part_ages': ages,
            'part_boxes': chosen,
            'part_valid': valid,
        }
