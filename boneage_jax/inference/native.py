"""A network as one function from a native grey image and the sex to the age: what is exported.

It is what `predict` computes once an image is decoded and judged: the image is resampled to
`data.size`, goes through the network (and its views too, under `flip_tta` and `turn_tta`), and what
comes out becomes months with their interval.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend import core

from boneage_jax.inference import intervals as intervals_lib
from boneage_jax.inference import native_resize
from boneage_jax.models import cpu
from boneage_jax.runs.predictor import Predictor
from tfds_rsna.errors import UserError


class Native:
    """The function of a network, in the parts that a file is made of.

    Args:
        place: the network, as `Predictor` takes it.

    Attributes:
        predictor: of the network, computing in float32.
        intervals: of its ages, None where there are none.
        outputs: names of what `finish` gives.

    Raises:
        UserError: it predicts no ages, or its images go through stages.
    """

    def __init__(self, place):
        self.predictor = Predictor(place, dtype='float32')
        config = self.predictor.config
        if self.predictor.task.months is None:
            raise UserError(f'{place} predicts no ages ({config.task.name}); export one that does')
        if config.data.stages:
            raise UserError(
                f'{place}: its images go through the stages {", ".join(config.data.stages)}, which '
                'run in Python alone; take --format=safetensors, or a network without stages'
            )
        self._size = tuple(config.data.size)
        self._side = max(self._size)
        try:
            self.intervals, _ = intervals_lib.of_network(place)
        except intervals_lib.MissingIntervalsError:
            self.intervals = None
        self.outputs = ['months', 'seen']
        if self.intervals:
            self.outputs = ['months', 'lower', 'upper', 'seen']

    @property
    def sums_shape(self) -> tuple[int, int]:
        """The shape of the blocks' sums that `finish` takes."""
        return (native_resize.MOST * self._side,) * 2

    def factors(self, height: jax.Array, width: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(rows, columns) int64 of the blocks that are averaged first; to be traced in 64 bits."""
        return self._plan(height, width).factor

    def finish(
        self,
        sums: jax.Array,
        height: jax.Array,
        width: jax.Array,
        male: jax.Array,
        *,
        by_platform: bool = False,
    ) -> tuple[jax.Array, ...]:
        """The `outputs`, from the blocks' sums of an image.

        Args:
            sums: float32, see `native_resize.block_sums`.
            height: of the image, int64.
            width: of the image, int64.
            male: bool, a scalar.
            by_platform: convolutions are computed on CPUs as `models/cpu.py` has it; otherwise they
                are convolutions as such, for the runtime to choose their way.

        Returns:
            float32 scalars in months, and what the network sees, uint8 [rows, columns].
        """
        with jax.enable_x64(True):
            plan = self._plan(height, width)
            seen = native_resize.resample(sums, plan, self._size)
        with jax.enable_x64(False):
            return self._ages(seen.astype(jnp.uint8), male, by_platform)

    def __call__(self, image: jax.Array, male: jax.Array) -> tuple[jax.Array, ...]:
        """The `outputs` of an image uint8 [H, W]."""
        with jax.enable_x64(True):
            height, width = (jnp.asarray(side, jnp.int64) for side in image.shape)
            sums = native_resize.block_sums(image, self._plan(height, width), self._side)
        return self.finish(sums, height, width, male, by_platform=True)

    def _plan(self, height, width):
        return native_resize.plan(height, width, self._size, self.predictor.config.data.resize)

    def _ages(self, seen, male, by_platform):
        predictor = self.predictor
        image = seen[None, :, :, None]
        image = jnp.concatenate([image, *predictor.views.of(image)])
        sexes = jnp.broadcast_to(male, (len(image),))
        if by_platform:
            prediction = jax.lax.platform_dependent(
                image, sexes, cpu=self._predicted, default=self._as_such
            )
        else:
            prediction = self._as_such(image, sexes)
        of_views = [prediction[place : place + 1] for place in range(1, len(image))]
        prediction = predictor.task.mean_of_views(
            prediction[:1], of_views, mirrored=predictor.views.flip
        )
        months = predictor.task.months(prediction)[0]
        if self.intervals is None:
            return months, seen
        half = jnp.where(male, self._half('male', prediction), self._half('female', prediction))
        bounds = [jnp.maximum(months + sign * half, 0) for sign in (-1, 1)]
        return months, *bounds, seen

    def _half(self, sex, prediction):
        """Months to either side for the one image of `prediction`, as `Intervals.widths` has it."""
        scaled = self.intervals.scaled
        task = self.predictor.task
        signals = task.signals(prediction) if task.signals else {}
        if scaled is None or any(name not in signals for name in scaled.names()):
            return jnp.float32(self.intervals.half[sex])
        own = {name: values[0] for name, values in signals.items()}
        return scaled.factor[sex] * scaled.scales[sex].product(own, jnp)

    def _predicted(self, image, sexes):
        prediction, _ = self.predictor.apply(image, sexes)
        return prediction

    def _as_such(self, image, sexes):
        with cpu.counting():
            return self._predicted(image, sexes)


def traced(function: Callable, *arguments: tuple[str, tuple]) -> core.ClosedJaxpr:
    """The jaxpr of a function of `(dtype, shape)` arguments, with 64 bits."""
    with jax.enable_x64(True):
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for dtype, shape in arguments]
        return jax.make_jaxpr(function)(*shapes)
