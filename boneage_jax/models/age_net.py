"""The age from any backbone and the sex: as a number, or as a distribution over months."""

from collections.abc import Callable, Mapping

import jax
from flax import nnx

from boneage_jax.models import age_classifier, layers
from tfds_rsna.errors import UserError


class AgeNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(prediction float32, aux)`.

    The prediction is `[B]` for one output, else logits `[B, outputs]` (240: a class a month). aux:
    `embeddings` `[B, F]`, the backbone's features.

    The sex is embedded and joins the features before a dense layer, so that the same bones can mean
    one age of a girl and another of a boy (Bae 2018 and the challenge's winner do the same).

    Args:
        backbones: `{name: constructor}`.
        backbone: one of them.
        outputs: numbers an image.
        width_factor: the backbone has so many times its own channels.
        depth: blocks a stage, 0 = the backbone's own.
        stem: the backbone's, 'imagenet' or 'small'.
        sex_units: of the embedding of the sex, 0 = the sex is not read.
        hidden_units: of the dense layer, 0 = none.
        dropout: before the dense layer and before the prediction; draws from `rngs`.
        standardise: see `layers.standardise`.
        dtype: of computing.
        rngs: where the parameters are drawn from.
    """

    def __init__(
        self,
        backbones: Mapping[str, Callable],
        *,
        backbone: str = 'convnext_tiny',
        outputs: int = 240,
        width_factor: float = 1.0,
        depth: int = 0,
        stem: str = 'imagenet',
        sex_units: int = 32,
        hidden_units: int = 256,
        dropout: float = 0.2,
        standardise: str = 'image',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        self.outputs = outputs
        self.standardise = standardise
        self.backbone = age_classifier.build_backbone(
            backbones,
            backbone,
            width_factor,
            num_outputs=0,
            depth=depth,
            stem=stem,
            channels=1,
            dtype=dtype,
            rngs=rngs,
        )
        features = self.backbone.features
        for name, value in (('sex_units', sex_units), ('hidden_units', hidden_units)):
            if value < 0:
                raise UserError(f'model.{name}={value}: expected 0 (none) or more')
        sex = None
        if sex_units:
            sex = layers.linear(layers.SEX_FEATURES, sex_units, rngs=rngs)
            features += sex_units
        self.sex = sex
        dense = None
        if hidden_units:
            dense = layers.linear(features, hidden_units, rngs=rngs)
            features = hidden_units
        self.dense = dense
        self.dropout = nnx.Dropout(dropout)
        self.head = layers.linear(features, outputs, rngs=rngs)

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = layers.standardise(image, self.standardise)
        embeddings = self.backbone(x, rngs=rngs)
        features = layers.join_sex(embeddings, self.sex, male)
        if self.dense is not None:
            features = jax.nn.relu(self.dense(self.dropout(features, rngs=rngs)))
        prediction = self.head(self.dropout(features, rngs=rngs))
        if self.outputs == 1:
            prediction = prediction[:, 0]
        return prediction, {'embeddings': embeddings}
