"""How the error grows when images are worse than in training: turned, mirrored, darker, flatter,
inverted, marked, coarser.

    python -m boneage_jax.robustness --workdir=runs/a --output=runs/a/stress
    python -m boneage_jax.robustness --workdir=runs/a --output=runs/a/stress --images=300 --split=holdout

Each disturbance is done to the prepared images, as the network sees them, and rounded to 8 bits as
a file would be: what `data.stages` would have mended before (a mask, a registration) is not tried.
`stress.csv` holds, for each kind and strength, the MAE and its paired difference to the untouched
images, with 95% intervals; `stress.png` draws them. Nothing is random. The default is the
validation split; holdout and test are for a figure that is reported once.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from boneage_jax.data import augment
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures import robustness
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runtime import files, log, setup
from boneage_jax.stages import records
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom import marker

COLUMNS = (
    'kind',
    'strength',
    'images',
    'mae',
    'lower',
    'upper',
    'delta',
    'delta_lower',
    'delta_upper',
    'bias',
)
# kind: (strengths, the strength that changes nothing, what it is).
KINDS = {
    'rotation': (
        (-30.0, -20.0, -10.0, 10.0, 20.0, 30.0),
        0.0,
        'degrees, counter-clockwise; the corners become black',
    ),
    'flip': ((1.0,), 0.0, 'mirrored left to right'),
    'brightness': ((-0.3, -0.2, -0.1, 0.1, 0.2, 0.3), 0.0, 'grey added, share of the full range'),
    'contrast': ((0.25, 0.5, 0.75, 1.5, 2.0), 1.0, "factor on the distance to the image's mean"),
    'inversion': ((1.0,), 0.0, 'white bones become black'),
    'marker removed': (
        (0.1, 0.2, 0.25),
        0.0,
        "corner squares, share of the side, filled with the border's median: where lead "
        'markers mostly lie (no marker is looked for)',
    ),
    'marker added': (
        (0.08, 0.12, 0.2),
        0.0,
        'a white L in the upper left corner, share of the side',
    ),
    'resolution': ((1.5, 2.0, 3.0, 4.0), 1.0, 'shrunk by this factor, and enlarged again'),
}


def measure_robustness(workdir, output, *, split=splits_lib.SELECTING, count=0, data_dir=None):
    """Writes stress.csv and stress.png into `output`; returns the lines as dicts. `count` images,
    evenly spaced by age; 0 = all. UserError for a run that predicts no ages, an unknown split, or
    an output that holds results.
    """
    output, predictor = pathlib.Path(output), predictor_lib.Predictor(workdir)
    if (output / 'stress.csv').exists():
        raise UserError(f'{output} holds results already; delete it or choose another --output')
    if predictor.task.months is None:
        raise UserError(
            f'{workdir} holds a run of the task {predictor.config.task.name!r}, which predicts no ages'
        )
    setup.set_up_jax(predictor.config)
    opened = records.open_splits(predictor.config, data_dir)
    if split not in opened or split == 'train':
        raise UserError(
            f'--split={split}: expected one of {", ".join(name for name in opened if name != "train")}'
        )
    examples = opened[split]
    chosen = np.argsort(examples.months, kind='stable')
    if count:
        chosen = chosen[np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)]
    images, male, age = (
        examples.arrays(chosen)['image'],
        examples.male[chosen],
        examples.months[chosen],
    )

    def errors(seen):
        return np.asarray(predictor.task.months(predictor.predict_tta(seen, male)[0])) - age

    untouched, lines = errors(images), []
    for kind, (strengths, neutral, _) in KINDS.items():
        for strength in sorted((*strengths, neutral)):
            found = untouched if strength == neutral else errors(disturb(images, kind, strength))
            lines.append(
                dict(
                    zip(
                        COLUMNS,
                        (
                            kind,
                            strength,
                            len(age),
                            *_mae(found),
                            *metrics.paired_difference(found, untouched),
                            float(found.mean()),
                        ),
                    )
                )
            )
        worst = max(
            (line for line in lines if line['kind'] == kind), key=lambda line: line['delta']
        )
        log.info(
            f'{kind}: MAE {np.abs(untouched).mean():.2f} untouched, {worst["mae"]:.2f} at {worst["strength"]:g} '
            f'({worst["delta"]:+.2f}, {worst["delta_lower"]:+.2f} to {worst["delta_upper"]:+.2f} months)'
        )
    output.mkdir(parents=True, exist_ok=True)
    robustness.draw(lines, KINDS, f'{split}, {len(age):,} images', output / 'stress.png')
    files.write_rows(output / 'stress.csv', COLUMNS, lines, exact=('strength',))
    return lines


def disturb(images, kind, strength):
    """Images uint8 `[N, H, W, 1]` -> the same disturbed by `kind` of KINDS at `strength`, uint8."""
    if kind not in KINDS:
        raise UserError(f'kind {kind!r}: expected one of {", ".join(KINDS)}')
    if kind == 'resolution':  # sizes are shapes: one small program for each
        return np.concatenate(
            [np.asarray(_coarser(part, float(strength))) for part in _chunks(images)]
        )
    return np.concatenate(
        [np.asarray(_DO[kind](part, jnp.float32(strength))) for part in _chunks(images)]
    )


def _chunks(images, size=64):
    return [images[start : start + size] for start in range(0, len(images), size)]


def _mae(errors):
    size = np.abs(errors)
    return (float(size.mean()), *metrics.bootstrap(size))


def _bytes(image):
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255).astype(jnp.uint8)


def _on_unit(do):
    """`do(image [N, H, W, 1] in 0..1, strength) -> the same` as a jitted function of bytes."""
    return jax.jit(
        lambda image, strength: _bytes(do(augment.to_float({'image': image})['image'], strength))
    )


@jax.jit
def _rotated(image, degrees):
    angle, count = jnp.deg2rad(degrees), image.shape[0]
    cos, sin = (jnp.full((count,), of(angle)) for of in (jnp.cos, jnp.sin))
    return _bytes(
        augment.warp({'image': image}, ((cos, -sin), (sin, cos)), jnp.zeros((count, 2)), 'zero')[
            'image'
        ]
    )


def _contrast(image, factor):
    mean = image.mean((1, 2, 3), keepdims=True)
    return mean + (image - mean) * factor


def _covered(image, share):
    rows, columns = (
        jnp.minimum(jnp.arange(n), n - 1 - jnp.arange(n)) < share * n for n in image.shape[1:3]
    )
    border = jnp.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    return jnp.where(
        (rows[:, None] & columns[None])[None, :, :, None],
        jnp.median(border, axis=1)[:, None, None],
        image,
    )


def _marked(image, share):
    """An L of strokes a sixth of its height wide, a twentieth of the image from its corner."""
    height, width = image.shape[1:3]
    side = min(height, width)
    y, x = (
        (jnp.arange(n, dtype=jnp.float32) - 0.05 * side) / (share * side) for n in (height, width)
    )
    distance = jnp.inf
    for (x0, y0), (x1, y1) in np.asarray(marker.strokes('L')) * (0.55, 1.0):
        along = np.array([x1 - x0, y1 - y0])
        where = jnp.clip(
            ((x - x0)[None] * along[0] + (y - y0)[:, None] * along[1]) / (along**2).sum(), 0, 1
        )
        distance = jnp.minimum(
            distance,
            jnp.hypot((x - x0)[None] - where * along[0], (y - y0)[:, None] - where * along[1]),
        )
    return jnp.where((distance < 1 / 12)[None, :, :, None], 1.0, image)


def _coarser(image, factor):
    return _resample(image, *(max(1, round(n / factor)) for n in image.shape[1:3]))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resample(image, rows, columns):
    small = jax.image.resize(
        augment.to_float({'image': image})['image'], (len(image), rows, columns, 1), 'linear'
    )
    return _bytes(jax.image.resize(small, image.shape, 'linear'))


_DO = {
    'rotation': _rotated,
    'flip': lambda image, strength: image[:, :, ::-1],
    'brightness': _on_unit(lambda image, strength: image + strength),
    'contrast': _on_unit(_contrast),
    'inversion': _on_unit(lambda image, strength: 1.0 - image),
    'marker removed': _on_unit(_covered),
    'marker added': _on_unit(_marked),
}
