"""Age classes from an image, and from the sex where wanted (Hamrouni, Hassen 2023): a CNN of
theirs, or any backbone.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import cpu, layers
from tfds_rsna.errors import UserError

ACTIVATIONS = {'relu': jax.nn.relu, 'elu': jax.nn.elu}
REGULARISERS = ('norm', 'dropout')
GRID = 4  # side of the map that the CNN's dense layer reads
SEX_UNITS = 32  # of the branch that reads the sex (ours)
# Smaller images are enlarged to this side: Inception's own least, 75, leaves one place of its last
# map (139: 3x3).
COMFORTABLE = {'inception_v3': 139}


class CustomCNN(nnx.Module):
    """The paper's own CNN, which it does not describe; ours: `[B, H, W, channels]` -> `[B, 4
    width]` float32.

    Four blocks of 3x3 convolution, activation, regulariser, 2x2 max-pool, channels from `width`
    doubled at each; then the map averaged to 4x4, a dense layer of 4 `width` units, activation,
    regulariser. That is batch normalisation or dropout ('dropout': `rate` after the dense layer, a
    quarter of it in the blocks), as the paper tries either.
    """

    smallest_side = 16

    def __init__(
        self,
        *,
        channels=1,
        width=32,
        activation='relu',
        regulariser='norm',
        rate=0.5,
        dtype=None,
        rngs,
    ):
        if activation not in ACTIVATIONS:
            raise UserError(
                f'model.activation={activation!r}: expected one of {", ".join(ACTIVATIONS)}'
            )
        if regulariser not in REGULARISERS:
            raise UserError(
                f'model.regulariser={regulariser!r}: expected one of {", ".join(REGULARISERS)}'
            )
        self.channels, self.activation = channels, ACTIVATIONS[activation]
        widths = [channels, *(width << block for block in range(4))]
        self.features = 4 * width

        def regular(features, share):
            return (
                layers.norm(features, dtype=dtype, rngs=rngs)
                if regulariser == 'norm'
                else nnx.Dropout(share)
            )

        self.blocks = nnx.List(
            [
                nnx.List(
                    [
                        layers.conv(inputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs),
                        regular(outputs, rate / 4),
                    ]
                )
                for inputs, outputs in zip(widths, widths[1:])
            ]
        )
        self.dense = layers.linear(GRID * GRID * widths[-1], self.features, dtype=dtype, rngs=rngs)
        self.regular = regular(self.features, rate)

    def __call__(self, x, *, rngs=None):
        layers.require_input(x, self.channels, self.smallest_side, 'custom CNN')
        for conv, regular in self.blocks:
            x = _apply(regular, self.activation(conv(x)), rngs)
            x = cpu.max_pool(x, 2, 2)
        x = layers.average_pool_to(x, GRID).reshape(x.shape[0], -1)
        return _apply(self.regular, self.activation(self.dense(x)), rngs).astype(jnp.float32)


def _apply(regular, x, rngs):
    return regular(x, rngs=rngs) if isinstance(regular, nnx.Dropout) else regular(x)


class AgeClassifier(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(logits [B, classes], {'embeddings': [B,
    F]})`, float32.

    `backbone`: 'custom' or one of `backbones` {name: callable}, at `width` times its own width with
    `depth` blocks a stage (0 = its own; not of the CNN). With `use_sex` a dense layer of 32 units
    reads the sex beside the image and joins the features before the classes. `activation` and
    `regulariser` are the CNN's; `dropout` is the CNN's where its regulariser is 'dropout', else it
    stands before the classes.
    """

    def __init__(
        self,
        backbones,
        *,
        backbone='resnet34',
        classes=3,
        use_sex=False,
        width=1.0,
        depth=0,
        stem='imagenet',
        standardise='image',
        dropout=0.0,
        activation='relu',
        regulariser='norm',
        dtype=None,
        rngs,
    ):
        if backbone != 'custom' and backbone not in backbones:
            raise UserError(
                f'model.backbone={backbone!r}: expected one of custom, {", ".join(backbones)}'
            )
        if not width > 0:
            raise UserError(
                f'model.width={width}: expected a factor above 0; 1 is the full network'
            )
        self.standardise, self.least_side = (
            standardise,
            COMFORTABLE.get(backbone, 0) if stem == 'imagenet' else 0,
        )
        own = {'channels': 1, 'dtype': dtype, 'rngs': rngs}
        if backbone == 'custom':
            self.backbone = CustomCNN(
                width=_scaled(32, width),
                activation=activation,
                regulariser=regulariser,
                rate=dropout,
                **own,
            )
        else:
            full = 64 if backbone.startswith(('resnet', 'vgg')) else 32
            self.backbone = backbones[backbone](
                num_outputs=0, width=_scaled(full, width), depth=depth, stem=stem, **own
            )
        self.dropout = nnx.Dropout(
            0.0 if backbone == 'custom' and regulariser == 'dropout' else dropout
        )
        self.sex = layers.linear(2, SEX_UNITS, rngs=rngs) if use_sex else None
        self.head = layers.linear(
            self.backbone.features + (SEX_UNITS if use_sex else 0), classes, rngs=rngs
        )

    def __call__(self, image, male, *, rngs=None):
        x = layers.standardise(image, self.standardise)
        if min(x.shape[1:3]) < self.least_side:
            factor = self.least_side / min(x.shape[1:3])
            x = jax.image.resize(
                x, (x.shape[0], *(round(side * factor) for side in x.shape[1:3]), 1), 'bilinear'
            )
        embeddings = self.backbone(x, rngs=rngs)
        features = self.dropout(embeddings, rngs=rngs)
        if self.sex is not None:
            branch = jax.nn.relu(self.sex(jax.nn.one_hot(male.astype(jnp.int32), 2)))
            features = jnp.concatenate([features, branch], axis=1)
        return self.head(features), {'embeddings': embeddings}


def _scaled(channels, factor):
    """An even number of channels, as Inception needs."""
    return max(2, 2 * round(channels * factor / 2))
