"""PRSNet (Ji et al. 2019). So far its baseline, table 1: a ResNet whose pooled features and one-hot sex give the age."""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import layers, resnet
from tfds_rsna.errors import UserError


class PRSNet(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(age [B] float32, normalised, aux)`.

    `aux['embeddings']` `[B, F]` float32 are the pooled features of the backbone (F_global), before the sex joins.
    Dropout (ours, 0 = off) draws from `rngs`.
    """

    def __init__(self, *, backbone='resnet34', width=64, depth=0, stem='imagenet', standardise='film', dropout=0.0,
                 dtype=None, rngs):
        if backbone not in resnet.BLOCKS:
            raise UserError(f'backbone={backbone!r}: expected one of {", ".join(resnet.BLOCKS)}')
        self.standardise = standardise
        self.trunk = resnet.ResNet(resnet.BLOCKS[backbone], num_outputs=0, channels=1, width=width, depth=depth,
                                   stem=stem, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.head = layers.linear(self.trunk.features + 2, 1, rngs=rngs)  # float32: the age's last digit is a month

    def __call__(self, image, male, *, rngs=None):
        maps = self.trunk.stages(layers.standardise(image, self.standardise))
        embeddings = layers.global_average_pool(maps[-1])
        sex = jax.nn.one_hot(male.astype(jnp.int32), 2)
        features = jnp.concatenate([self.dropout(embeddings, rngs=rngs), sex], axis=1)
        return self.head(features)[:, 0], {'embeddings': embeddings}
