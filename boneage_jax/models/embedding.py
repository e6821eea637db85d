"""A backbone whose pooled features are the embedding, then dense layers.

Bae, Bae, Jung (2018), section 2.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import layers
from tfds_rsna.errors import UserError


class EmbeddingNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(prediction float32, aux)`.

    The prediction is `[B]` for one output (an age, normalised), else `[B, outputs]`. aux:
    `embeddings` `[B, features]` float32, the backbone's pooled last map. `smallest_side` is the
    backbone's limit.

    Args:
        backbones: `{name: constructor}`.
        backbone: one of `backbones`, taken without its head and with one channel.
        width: channels of the backbone's first stage, 0 = its own.
        depth: blocks a stage, 0 = the backbone's own.
        stem: the backbone's, 'imagenet' or 'small'.
        standardise: see `layers.standardise`.
        hidden_units: of each hidden layer (ReLU), () = none. Ours: the paper gives none.
        dropout: before every dense layer (ours); draws from `rngs`.
        use_sex: appends the one-hot sex to what the dense layers read, not to the embedding: one
            network for both sexes (the paper trains one each).
        outputs: numbers an image.
        dtype: the backbone's type of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: an unknown backbone.
    """

    def __init__(
        self,
        backbones: Mapping[str, Callable],
        *,
        backbone: str = 'inception_v3',
        width: int = 0,
        depth: int = 0,
        stem: str = 'imagenet',
        standardise: str = 'image',
        hidden_units: Sequence[int] = (1024,),
        dropout: float = 0.0,
        use_sex: bool = False,
        outputs: int = 1,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if backbone not in backbones:
            raise UserError(f'backbone={backbone!r}: expected one of {", ".join(backbones)}')
        own = {'width': width} if width else {}
        self.backbone = backbones[backbone](
            num_outputs=0, channels=1, depth=depth, stem=stem, dtype=dtype, rngs=rngs, **own
        )
        self.smallest_side = self.backbone.smallest_side
        self.standardise = standardise
        self.use_sex = use_sex
        self.outputs = outputs
        self.dropout = nnx.Dropout(dropout)
        inputs = self.backbone.features
        if use_sex:
            inputs += layers.SEX_FEATURES
        self.dense = nnx.List()
        for units in hidden_units:
            self.dense.append(layers.linear(inputs, units, rngs=rngs))
            inputs = units
        self.head = layers.linear(inputs, outputs, rngs=rngs)

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        image = layers.standardise(image, self.standardise)
        embeddings = layers.global_average_pool(self.backbone.stages(image, rngs=rngs)[-1])
        x = embeddings
        if self.use_sex:
            x = jnp.concatenate([x, layers.one_hot_sex(male)], axis=-1)
        for layer in self.dense:
            x = jax.nn.relu(layer(self.dropout(x, rngs=rngs)))
        prediction = self.head(self.dropout(x, rngs=rngs))
        if self.outputs == 1:
            prediction = prediction[:, 0]
        return prediction, {'embeddings': embeddings}
