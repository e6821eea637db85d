"""The networks by name.

`build('resnet34', ...)` is a whole ImageNet network, `build('prsnet', ...)` an age model.

**Backbones** (resnet18, resnet34, resnet50, vgg16, vgg16_bn, inception_v3, efficientnet_b0 and
-lite0 to -lite2, convnext_tiny) share one interface. With `num_outputs` > 0,
`model(x, rngs=None)` maps images `[B, H, W, channels]` float32 to logits `[B, num_outputs]`; with
`num_outputs=0` to pooled features `[B, features]` float32. As a backbone of an age model:

- `stages(x, rngs=None)`: a list of feature maps `[B, h, w, c]`, finest first. The head pools the
  last one. `strides` and `widths` are tuples with the stride and the channels of each map,
  `features` is `widths[-1]`.
- `first_place(level)`: the pixel, row and column alike, about which the first place of a map looks.
- `smallest_side`: fewer pixels a side are refused when the network is traced, and so are other
  channels.
- Options of all: `num_outputs`, `channels`, `width` (channels of the first stage) and `depth` for
  small networks, `stem` ('imagenet', or 'small' for images of 96 to 112 pixels), `dtype` (of
  computing; parameters stay float32). Options of some: `dropout`, `stochastic_depth`, `aux_logits`.
  What draws at random in training takes its keys from `rngs`.

On a CPU avoid sides that end in maps of 1x1 or 2x2 (docs/design.md).

**An age model** maps `(image [B, H, W, 1] float32 in [0, 1], male [B] bool, rngs=None)` to
`(prediction [B], aux)`. `aux` holds embeddings, maps, parts and scores by name. Options that
several have: `width` (channels of the first stage; `width_factor` is a factor), `hidden_units` (of
the dense layers before the prediction), `use_sex`.
"""

import functools
from collections.abc import Callable

from flax import nnx

from boneage_jax.models import (
    age_classifier,
    age_net,
    attention,
    convnext,
    efficientnet,
    embedding,
    inception,
    keypoint_nets,
    prsnet,
    regional,
    resnet,
    unet,
    vgg,
)
from tfds_rsna.errors import UserError

BACKBONES: dict[str, Callable[..., nnx.Module]] = {
    'resnet18': functools.partial(resnet.build, 'resnet18'),
    'resnet34': functools.partial(resnet.build, 'resnet34'),
    'resnet50': functools.partial(resnet.build, 'resnet50'),
    'vgg16': vgg.VGG,
    'vgg16_bn': functools.partial(vgg.VGG, batch_norm=True),
    'inception_v3': inception.InceptionV3,
    **{name: functools.partial(efficientnet.build, name) for name in efficientnet.VARIANTS},
    'convnext_tiny': convnext.ConvNeXt,
}
MAP_BACKBONES = BACKBONES | {'unet': unet.Encoder}
MODELS = {
    **BACKBONES,
    'prsnet': prsnet.PRSNet,
    'unet': unet.UNet,
    'keypoints': keypoint_nets.keypoint_net,
    'regional': regional.RegionalNet,
    'age_net': functools.partial(age_net.AgeNet, BACKBONES),
    'age_classifier': functools.partial(age_classifier.AgeClassifier, BACKBONES),
    'transfer': functools.partial(attention.Transfer, MAP_BACKBONES),
    'embedding': functools.partial(embedding.EmbeddingNet, BACKBONES),
}
# Options that a configuration says once, outside `config.model`: {model: {option: dotted key}}.
SHARED_OPTIONS = {
    'keypoints': {'size': 'data.size'},
    'regional': {'size': 'data.size'},
    'transfer': {'size': 'data.size'},
    'age_classifier': {'classes': 'task.classes'},
}


def build(name: str, *, seed: int = 0, **options) -> nnx.Module:
    """The network `name` with freshly drawn parameters (float32).

    Raises UserError for unknown names and options.
    """
    if name not in MODELS:
        raise UserError(f'unknown model {name!r}; known: {", ".join(MODELS)}')
    try:
        return MODELS[name](**options, rngs=nnx.Rngs(seed))
    except TypeError as error:
        raise UserError(f'model {name!r}: {error}') from error
