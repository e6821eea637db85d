"""A frozen backbone under a small head: Model 1 (dense layers) and Model 2 (attention) of Castillo,
Tong, Zhao, Zhu (2018).

Model 1 (figure 7): batch normalisation, global average pool, dense 1024, dense 1024, the age. Model
2 (figure 8): batch normalisation, a gate in (0, 1) for each place of the map, the features times
the gate, averaged with the gate as weight, dropout, dense 1024, dropout, the age. The paper gives
sizes in pictures alone; layers and widths are those that have its 1.5 and 0.5 million parameters:
1,576,961 and 565,058 on VGG16 at 500x500. Rectifiers and initial values are ours where it is
silent.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import grey, layers
from tfds_rsna.errors import UserError

HEADS = ('fc', 'attention')
GATE_UNITS = (64, 16)  # of the 1x1 convolutions before the gate
_LEAST = 1e-6  # of an image's mean gate: an average over nothing has no gradient


class Gate(nnx.Module):
    """`[B, h, w, features]` -> `[B, h, w]` float32 in (0, 1): two 1x1 convolutions, then a locally
    connected one.

    The last has its own 16 weights and bias at every place of the map: it can look at one place and
    not at another, whatever the image. So it knows the map's size.
    """

    def __init__(self, features, size, *, rngs):
        widths = (features, *GATE_UNITS)
        self.convolutions = nnx.List(
            [
                layers.conv(inputs, units, 1, bias=True, rngs=rngs)
                for inputs, units in zip(widths, GATE_UNITS)
            ]
        )
        self.kernel = nnx.Param(
            nnx.initializers.normal(0.05)(rngs.params(), (*size, GATE_UNITS[-1]), jnp.float32)
        )
        self.bias = nnx.Param(jnp.zeros(size, jnp.float32))

    def __call__(self, x):
        for conv in self.convolutions:
            x = jax.nn.relu(conv(x))
        return jax.nn.sigmoid((x * self.kernel[...][None]).sum(-1) + self.bias[...][None])


class Transfer(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool, rngs=None) -> (age [B] float32, aux)`.

    `backbone`: any of `backbones` ({name: constructor}), its map `level` of `stages` (-1: the
    last); `width`, `depth`, `stem` are its options, `channels` 3 repeats the image. `standardise`:
    'image', 'fixed', or 'imagenet', the normalisation that the backbone's ImageNet weights were
    trained with. `size` (rows, columns) is that of the images. `use_sex` (ours) appends the one-hot
    sex to what the dense layers read.

    aux: `embeddings` `[B, C]` (the pooled features); with the attention head `attention` `[B, h,
    w]`, the gate; `masked` `[B, h, w, C]`, the multiply layer's output (figure 10); `map_box` `[B,
    4]`, the rectangle of the image (row0, column0, row1, column1 in pixels) over which the places
    of these maps are spread, each about the centre of what it sees.

    `features(image)` and `from_features(features, male, rngs=None)` are its two halves: features of
    a frozen backbone can be kept. Raises UserError for unknown options and images of another size.
    """

    def __init__(
        self,
        backbones,
        *,
        backbone='vgg16',
        head='attention',
        size=(500, 500),
        level=-1,
        width=0,
        depth=0,
        stem='imagenet',
        channels=1,
        standardise='image',
        units=1024,
        use_sex=False,
        dtype=None,
        rngs,
    ):
        if backbone not in backbones:
            raise UserError(f'model.backbone={backbone!r}: expected one of {", ".join(backbones)}')
        if head not in HEADS:
            raise UserError(f'model.head={head!r}: expected one of {", ".join(HEADS)}')
        if standardise == 'imagenet' and channels != 3:
            raise UserError(
                "model.standardise='imagenet' makes three channels of an image: set model.channels=3"
            )
        own = {'width': width} if width else {}
        self.backbone = backbones[backbone](
            num_outputs=0, channels=channels, depth=depth, stem=stem, dtype=dtype, rngs=rngs, **own
        )
        if not -len(self.backbone.widths) <= level < len(self.backbone.widths):
            raise UserError(f'model.level={level}: {backbone} has {len(self.backbone.widths)} maps')
        self.backbone, self.level, self.size = backbone, level, tuple(size)
        self.channels, self.standardise, self.use_sex = channels, standardise, use_sex
        features = self.backbone.widths[level]
        extra = 2 if use_sex else 0
        self.norm = layers.norm(features, rngs=rngs)
        self.gate = Gate(features, self.map_size(), rngs=rngs) if head == 'attention' else None
        widths = [features + extra, *([units] if self.gate else [units, units])]
        self.dropouts = nnx.List(
            [nnx.Dropout(rate) for rate in ((0.5, 0.25) if self.gate else (0.0, 0.0, 0.0))]
        )
        self.dense = nnx.List(
            [
                layers.linear(inputs, outputs, rngs=rngs)
                for inputs, outputs in zip(widths, widths[1:])
            ]
        )
        self.head = layers.linear(units, 1, rngs=rngs)

    def map_size(self):
        """(h, w) of the features of an image."""
        backbone, shape = self.backbone, (1, *self.size, self.channels)

        def last(backbone, x):
            backbone.eval()
            return backbone.stages(x)[self.level]

        return nnx.eval_shape(last, backbone, jax.ShapeDtypeStruct(shape, jnp.float32)).shape[1:3]

    def features(self, image):
        """`[B, H, W, 1]` in [0, 1] -> `[B, h, w, C]` in the backbone's compute type."""
        if tuple(image.shape[1:3]) != self.size:
            raise UserError(
                f'images of {image.shape[1]}x{image.shape[2]}, but this network was built for data.size={self.size}'
            )
        if self.standardise == 'imagenet':
            x = grey.as_colours(image, self.backbone)
        else:
            x = jnp.repeat(layers.standardise(image, self.standardise), self.channels, axis=-1)
        return self.backbone.stages(x)[self.level]

    def from_features(self, features, male, *, rngs=None):
        """What `__call__` returns, from `features`."""
        x, aux = self.norm(features.astype(jnp.float32)), {}
        if self.gate is None:
            x = layers.global_average_pool(x)
            activation = jax.nn.relu
        else:
            gate = self.gate(x)
            masked = x * gate[..., None]
            box = jnp.asarray(self._map_box(gate.shape[1:]), jnp.float32)
            aux = {
                'attention': gate,
                'masked': masked,
                'map_box': jnp.broadcast_to(box[None], (x.shape[0], 4)),
            }
            x = masked.mean((1, 2)) / jnp.maximum(gate.mean((1, 2)), _LEAST)[:, None]
            activation = jax.nn.elu
        aux['embeddings'] = x
        if self.use_sex:
            x = jnp.concatenate([x, jax.nn.one_hot(male.astype(jnp.int32), 2)], axis=-1)
        for dropout, layer in zip(self.dropouts, self.dense):
            x = activation(layer(dropout(x, rngs=rngs)))
        return self.head(self.dropouts[-1](x, rngs=rngs))[:, 0], aux

    def __call__(self, image, male, *, rngs=None):
        return self.from_features(self.features(image), male, rngs=rngs)

    def _map_box(self, size):
        """Where the map's places lie: `stride` apart, the first about `backbone.first_place`."""
        stride, first = self.backbone.strides[self.level], self.backbone.first_place(self.level)
        start = first + 0.5 - stride / 2
        return start, start, start + stride * size[0], start + stride * size[1]
