"""A backbone whose pooled features are the embedding, then dense layers (Bae, Bae, Jung 2018,
section 2).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import layers
from tfds_rsna.errors import UserError


class EmbeddingNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool, rngs=None) -> (prediction float32, aux)`.

    `backbone` is any of `backbones` ({name: constructor}) without its head, of one channel; its
    pooled last map is `aux['embeddings']` `[B, features]` float32. `use_sex=True` appends the one-hot
    sex to what the dense layers read, not to the embedding: a network for both sexes (the paper
    trains one each). `dense`: units of the hidden layers (ReLU; ours, the paper gives none), () =
    none. The prediction is `[B]` for one output (an age, normalised), else `[B, outputs]`.

    `width` (0 = the backbone's own), `depth` and `stem` are the backbone's options, `smallest_side`
    its limit. `dropout` (ours) is before every dense layer and draws from `rngs`. Raises UserError
    for an unknown backbone.
    """

    def __init__(
        self,
        backbones,
        *,
        backbone='inception_v3',
        width=0,
        depth=0,
        stem='imagenet',
        standardise='image',
        dense=(1024,),
        dropout=0.0,
        use_sex=False,
        outputs=1,
        dtype=None,
        rngs,
    ):
        if backbone not in backbones:
            raise UserError(f'backbone={backbone!r}: expected one of {", ".join(backbones)}')
        own = {'width': width} if width else {}
        self.backbone = backbones[backbone](
            num_outputs=0, channels=1, depth=depth, stem=stem, dtype=dtype, rngs=rngs, **own
        )
        self.smallest_side, self.standardise = self.backbone.smallest_side, standardise
        self.use_sex, self.outputs = use_sex, outputs
        self.dropout = nnx.Dropout(dropout)
        widths = [self.backbone.features + (2 if use_sex else 0), *dense]
        self.dense = nnx.List(
            [layers.linear(inputs, units, rngs=rngs) for inputs, units in zip(widths, widths[1:])]
        )
        self.head = layers.linear(widths[-1], outputs, rngs=rngs)

    def __call__(self, image, male, *, rngs=None):
        image = layers.standardise(image, self.standardise)
        embeddings = layers.global_average_pool(self.backbone.stages(image, rngs=rngs)[-1])
        x = embeddings
        if self.use_sex:
            x = jnp.concatenate([x, jax.nn.one_hot(male.astype(jnp.int32), 2)], axis=-1)
        for layer in self.dense:
            x = jax.nn.relu(layer(self.dropout(x, rngs=rngs)))
        prediction = self.head(self.dropout(x, rngs=rngs))
        return prediction[:, 0] if self.outputs == 1 else prediction, {'embeddings': embeddings}
