"""A frozen backbone under a small head: Models 1 and 2 of Castillo, Tong, Zhao, Zhu (2018).

Model 1 (figure 7): batch normalisation, global average pool, dense 1024, dense 1024, the age. Model
2 (figure 8): batch normalisation, a gate in (0, 1) for each place of the map, the features times
the gate, averaged with the gate as weight, dropout, dense 1024, dropout, the age.

The paper gives sizes in pictures alone. Layers and widths here are those that have its 1.5 and 0.5
million parameters: 1,576,961 and 565,058 on VGG16 at 500x500. Rectifiers and initial values are
ours where it is silent.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from boneage_jax.models import grey, layers
from tfds_rsna.errors import UserError

HEADS = ('fc', 'attention')
GATE_UNITS = (64, 16)  # of the 1x1 convolutions before the gate
_LEAST = 1e-6  # of an image's mean gate: an average over nothing has no gradient


class Gate(nnx.Module):
    """`[B, h, w, features]` -> `[B, h, w]` float32 in (0, 1).

    Two 1x1 convolutions, then a locally connected one, which has its own 16 weights and bias at
    every place of the map. It can look at one place and not at another, whatever the image, so
    its parameters fit one `size` (h, w) only.
    """

    def __init__(self, features: int, size: tuple[int, int], *, rngs: nnx.Rngs):
        self.convolutions = nnx.List()
        inputs = features
        for units in GATE_UNITS:
            self.convolutions.append(layers.conv(inputs, units, 1, bias=True, rngs=rngs))
            inputs = units
        draw = nnx.initializers.normal(0.05)
        self.kernel = nnx.Param(draw(rngs.params(), (*size, inputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(size, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convolutions:
            x = jax.nn.relu(conv(x))
        return jax.nn.sigmoid((x * self.kernel[...][None]).sum(-1) + self.bias[...][None])


class Transfer(nnx.Module):
    """`(image [B, H, W, 1] in [0, 1], male [B] bool)` -> `(age [B] float32, aux)`.

    aux: `embeddings` `[B, C]`, the pooled features. With the attention head also `attention` `[B,
    h, w]`, the gate; `masked` `[B, h, w, C]`, the multiply layer's output (figure 10); `map_box`
    `[B, 4]`, the rectangle of the image (row0, column0, row1, column1 in pixels) over which the
    places of these maps are spread, each about the centre of what it sees.

    `features(image)` and `from_features(features, male, rngs=None)` are its two halves, so that
    features of a frozen backbone can be kept.

    Args:
        backbones: `{name: constructor}`.
        backbone: one of `backbones`.
        head: 'fc' (Model 1) or 'attention' (Model 2).
        size: (rows, columns) of the images.
        level: which map of the backbone's `stages` the head reads; -1 is the last.
        width: channels of the backbone's first stage, 0 = its own.
        depth: blocks a stage, 0 = the backbone's own.
        stem: the backbone's, 'imagenet' or 'small'.
        channels: that the backbone reads; 3 repeats the image.
        standardise: 'image', 'fixed', or 'imagenet', the normalisation that the backbone's
            ImageNet weights were trained with.
        hidden_units: of each dense layer, two in Model 1 and one in Model 2.
        use_sex: appends the one-hot sex to what the dense layers read (ours).
        dtype: the backbone's type of computing.
        rngs: where the parameters are drawn from.

    Raises:
        UserError: unknown options; when called, images of another size.
    """

    def __init__(
        self,
        backbones: Mapping[str, Callable],
        *,
        backbone: str = 'vgg16',
        head: str = 'attention',
        size: tuple[int, int] = (500, 500),
        level: int = -1,
        width: int = 0,
        depth: int = 0,
        stem: str = 'imagenet',
        channels: int = 1,
        standardise: str = 'image',
        hidden_units: int = 1024,
        use_sex: bool = False,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if backbone not in backbones:
            raise UserError(f'model.backbone={backbone!r}: expected one of {", ".join(backbones)}')
        if head not in HEADS:
            raise UserError(f'model.head={head!r}: expected one of {", ".join(HEADS)}')
        if standardise == 'imagenet' and channels != 3:
            raise UserError(
                "model.standardise='imagenet' makes three channels of an image: "
                'set model.channels=3'
            )
        own = {'width': width} if width else {}
        self.backbone = backbones[backbone](
            num_outputs=0, channels=channels, depth=depth, stem=stem, dtype=dtype, rngs=rngs, **own
        )
        levels = len(self.backbone.widths)
        if not -levels <= level < levels:
            raise UserError(f'model.level={level}: {backbone} has {levels} maps')
        self.backbone_name = backbone
        self.level = level
        self.size = tuple(size)
        self.channels = channels
        self.standardise = standardise
        self.use_sex = use_sex
        features = self.backbone.widths[level]
        self.norm = layers.norm(features, rngs=rngs)
        gate = None
        if head == 'attention':
            gate = Gate(features, self.map_size(), rngs=rngs)
        self.gate = gate
        # One rate before each dense layer, the last of them before the age.
        rates = (0.5, 0.25) if self.gate else (0.0, 0.0, 0.0)
        self.dropouts = nnx.List([nnx.Dropout(rate) for rate in rates])
        inputs = features
        if use_sex:
            inputs += layers.SEX_FEATURES
        self.dense = nnx.List()
        for _ in rates[1:]:
            self.dense.append(layers.linear(inputs, hidden_units, rngs=rngs))
            inputs = hidden_units
        self.head = layers.linear(inputs, 1, rngs=rngs)

    def map_size(self) -> tuple[int, int]:
        """(h, w) of the features of an image."""
        images = jax.ShapeDtypeStruct((1, *self.size, self.channels), jnp.float32)

        def read_map(backbone, x):
            backbone.eval()
            return backbone.stages(x)[self.level]

        return nnx.eval_shape(read_map, self.backbone, images).shape[1:3]

    def features(self, image: jax.Array) -> jax.Array:
        """`[B, H, W, 1]` in [0, 1] -> `[B, h, w, C]` in the backbone's compute type."""
        if tuple(image.shape[1:3]) != self.size:
            raise UserError(
                f'images of {image.shape[1]}x{image.shape[2]}, but this network was built for '
                f'data.size={self.size}'
            )
        if self.standardise == 'imagenet':
            x = grey.as_colours(image, self.backbone_name)
        else:
            x = jnp.repeat(layers.standardise(image, self.standardise), self.channels, axis=-1)
        return self.backbone.stages(x)[self.level]

    def from_features(
        self, features: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What `__call__` returns, from `features` `[B, h, w, C]`."""
        x = self.norm(features.astype(jnp.float32))
        if self.gate is None:
            x = layers.global_average_pool(x)
            aux = {}
            activation = jax.nn.relu
        else:
            x, aux = self._attend(x)
            activation = jax.nn.elu
        aux['embeddings'] = x
        if self.use_sex:
            x = jnp.concatenate([x, layers.one_hot_sex(male)], axis=-1)
        *before, last = self.dropouts
        for dropout, layer in zip(before, self.dense, strict=True):
            x = activation(layer(dropout(x, rngs=rngs)))
        return self.head(last(x, rngs=rngs))[:, 0], aux

    def __call__(
        self, image: jax.Array, male: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self.from_features(self.features(image), male, rngs=rngs)

    def _attend(self, x):
        """`[B, h, w, C]` -> their average with the gate as weight `[B, C]`, and aux."""
        gate = self.gate(x)
        masked = x * gate[..., None]
        box = jnp.asarray(self._map_box(gate.shape[1:]), jnp.float32)
        aux = {
            'attention': gate,
            'masked': masked,
            'map_box': jnp.broadcast_to(box[None], (x.shape[0], 4)),
        }
        return masked.mean((1, 2)) / jnp.maximum(gate.mean((1, 2)), _LEAST)[:, None], aux

    def _map_box(self, size):
        """The rectangle of a map's places: `stride` apart, the first about `first_place`."""
        stride = self.backbone.strides[self.level]
        start = self.backbone.first_place(self.level) + 0.5 - stride / 2
        return start, start, start + stride * size[0], start + stride * size[1]
