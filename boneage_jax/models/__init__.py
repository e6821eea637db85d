"""The networks by name: `build('resnet34', ...)` is a whole ImageNet network, `build('prsnet', ...)` an age model.

A backbone maps images `[B, H, W, C]` float32 to logits `[B, num_outputs]`. An age model maps
`(image [B, H, W, 1] float32 in [0, 1], male [B] bool, rngs=None)` to `(prediction [B], aux)`, `aux` holding
embeddings, maps, parts and scores by name.
"""

import functools

from flax import nnx

from boneage_jax.models import prsnet, resnet
from tfds_rsna.errors import UserError

MODELS = {
    'resnet18': functools.partial(resnet.ResNet, resnet.BLOCKS['resnet18']),
    'resnet34': functools.partial(resnet.ResNet, resnet.BLOCKS['resnet34']),
    'prsnet': prsnet.PRSNet,
}


def build(name, *, seed=0, **options):
    """The network `name` with freshly drawn parameters (float32). Raises UserError for unknown names and options."""
    if name not in MODELS:
        raise UserError(f'unknown model {name!r}; known: {", ".join(MODELS)}')
    try:
        return MODELS[name](**options, rngs=nnx.Rngs(seed))
    except TypeError as error:
        raise UserError(f'model {name!r}: {error}') from error
