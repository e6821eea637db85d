"""Age classes from an image and, where wanted, the sex (Hamrouni, Hassen 2023).

The network is a CNN of theirs or any backbone.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers
from tfds_rsna.errors import UserError

ACTIVATIONS = {'relu': jax.nn.relu, 'elu': jax.nn.elu}
REGULARISERS = ('norm', 'dropout')
GRID = 4  # side of the map that the CNN's dense layer reads
SEX_UNITS = 32  # of the branch that reads the sex (ours)
# Channels of a backbone's first stage; 32 of those that are not named.
FULL_WIDTHS = {'resnet': 64, 'vgg': 64, 'convnext': 96}
# Smaller images are enlarged to this side: Inception's own least, 75, leaves one place of its last
# map (139: 3x3).
COMFORTABLE = {'inception_v3': 139}


class CustomCNN(nnx.Module):
    """The paper's own CNN: `[B, H, W, channels]` -> `[B, 4 width]` float32.

    The paper does not describe it; ours has four blocks of 3x3 convolution, activation,
    regulariser and 2x2 max-pool, with `width` channels in the first, doubled at each. Then the map
    is averaged to 4x4, and a dense layer of 4 `width` units, activation and regulariser follow.

    The paper tries two regularisers: 'norm' is batch normalisation, 'dropout' drops `rate` after
    the dense layer and a quarter of it in the blocks.
    """

    smallest_side = 16

    def __init__(
        self,
        *,
        channels: int = 1,
        width: int = 32,
        activation: str = 'relu',
        regulariser: str = 'norm',
        rate: float = 0.5,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if activation not in ACTIVATIONS:
            raise UserError(
                f'model.activation={activation!r}: expected one of {", ".join(ACTIVATIONS)}'
            )
        if regulariser not in REGULARISERS:
            raise UserError(
                f'model.regulariser={regulariser!r}: expected one of {", ".join(REGULARISERS)}'
            )
        self.channels = channels
        self.activation = ACTIVATIONS[activation]
        self.features = 4 * width

        def regular(features, share):
            if regulariser == 'norm':
                return layers.norm(features, dtype=dtype, rngs=rngs)
            return nnx.Dropout(share)

        self.blocks = nnx.List()
        inputs = channels
        for block in range(4):
            outputs = width << block
            conv = layers.conv(inputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs)
            self.blocks.append(nnx.List([conv, regular(outputs, rate / 4)]))
            inputs = outputs
        self.dense = layers.linear(GRID * GRID * inputs, self.features, dtype=dtype, rngs=rngs)
        self.regular = regular(self.features, rate)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        layers.require_input(x, self.channels, self.smallest_side, 'custom CNN')
        for conv, regular in self.blocks:
            x = _apply(regular, self.activation(conv(x)), rngs)
            x = cpu.max_pool(x, 2, 2)
        x = layers.average_pool_to(x, GRID).reshape(x.shape[0], -1)
        return _apply(self.regular, self.activation(self.dense(x)), rngs).astype(jnp.float32)


def _apply(regular, x, rngs):
    return regular(x, rngs=rngs) if isinstance(regular, nnx.Dropout) else regular(x)


class AgeClassifier(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(logits [B, classes], aux)`, float32.

    aux: `embeddings` `[B, F]`, the backbone's features.

    Args:
        backbones: `{name: constructor}`.
        backbone: 'custom' or one of `backbones`.
        classes: their number.
        use_sex: a dense layer of 32 units reads the sex beside the image and joins the features
            before the classes.
        width_factor: the backbone has so many times its own channels.
        depth: blocks a stage, 0 = the backbone's own; the CNN has no such option.
        stem: the backbone's, 'imagenet' or 'small'.
        standardise: see `layers.standardise`.
        dropout: the CNN's where its regulariser is 'dropout', else before the classes.
        activation: of the CNN, 'relu' or 'elu'.
        regulariser: of the CNN, 'norm' or 'dropout'.
        dtype: of computing.
        rngs: where the parameters are drawn from.
    """

    def __init__(
        self,
        backbones: Mapping[str, Callable],
        *,
        backbone: str = 'resnet34',
        classes: int = 3,
        use_sex: bool = False,
        width_factor: float = 1.0,
        depth: int = 0,
        stem: str = 'imagenet',
        standardise: str = 'image',
        dropout: float = 0.0,
        activation: str = 'relu',
        regulariser: str = 'norm',
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if backbone != 'custom' and backbone not in backbones:
            raise UserError(
                f'model.backbone={backbone!r}: expected one of custom, {", ".join(backbones)}'
            )
        self.standardise = standardise
        self.least_side = COMFORTABLE.get(backbone, 0) if stem == 'imagenet' else 0
        own = {'channels': 1, 'dtype': dtype, 'rngs': rngs}
        if backbone == 'custom':
            self.backbone = CustomCNN(
                width=_scaled(32, width_factor),
                activation=activation,
                regulariser=regulariser,
                rate=dropout,
                **own,
            )
        else:
            self.backbone = build_backbone(
                backbones, backbone, width_factor, num_outputs=0, depth=depth, stem=stem, **own
            )
        cnn_drops = backbone == 'custom' and regulariser == 'dropout'
        self.dropout = nnx.Dropout(0.0 if cnn_drops else dropout)
        features = self.backbone.features
        sex = None
        if use_sex:
            sex = layers.linear(layers.SEX_FEATURES, SEX_UNITS, rngs=rngs)
            features += SEX_UNITS
        self.sex = sex
        self.head = layers.linear(features, classes, rngs=rngs)

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = _enlarged(layers.standardise(image, self.standardise), self.least_side)
        embeddings = self.backbone(x, rngs=rngs)
        features = self.dropout(embeddings, rngs=rngs)
        return self.head(layers.join_sex(features, self.sex, male)), {'embeddings': embeddings}


def build_backbone(
    backbones: Mapping[str, Callable], name: str, width_factor: float, **options
) -> nnx.Module:
    """The backbone `name` with `width_factor` times its own channels; `options` are its own.

    Raises UserError for an unknown name and for a factor that leaves nothing.
    """
    if name not in backbones:
        raise UserError(f'model.backbone={name!r}: expected one of {", ".join(backbones)}')
    full = 32
    for prefix, width in FULL_WIDTHS.items():
        if name.startswith(prefix):
            full = width
    return backbones[name](width=_scaled(full, width_factor), **options)


def _enlarged(x, least_side):
    """Images `[B, H, W, 1]` whose shorter side has `least_side` pixels or more."""
    batch, height, width, _ = x.shape
    shorter = min(height, width)
    if shorter >= least_side:
        return x
    factor = least_side / shorter
    shape = (batch, round(height * factor), round(width * factor), 1)
    return jax.image.resize(x, shape, 'bilinear')


def _scaled(channels, factor):
    """An even number of channels, as Inception needs."""
    if not factor > 0:
        raise UserError(
            f'model.width_factor={factor}: expected a factor above 0; 1 is the full network'
        )
    return max(2, 2 * round(channels * factor / 2))
