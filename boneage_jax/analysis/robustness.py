"""How the error of a run grows when its images are worse than in training.

Each disturbance of KINDS is done to the prepared images, as the network sees them, and rounded to 8
bits as a file would be. Nothing is random.
"""

import io
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from boneage_jax import cli
from boneage_jax.analysis import own_images
from boneage_jax.data import augment, degrade, views
from boneage_jax.data import splits as splits_lib
from boneage_jax.data.source import Split
from boneage_jax.figures import robustness
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runtime import files, log, setup
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom import marker

RESULT = 'robustness.csv'
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
_CHUNK = 64  # images disturbed at once


class Kind(NamedTuple):
    """A disturbance: the strengths to try, the one that changes nothing, and what it is."""

    strengths: tuple[float, ...]
    neutral: float
    about: str


KINDS = {
    'rotation': Kind(
        (-30.0, -20.0, -10.0, 10.0, 20.0, 30.0),
        0.0,
        'degrees, counter-clockwise; the corners become black',
    ),
    'flip': Kind((1.0,), 0.0, 'mirrored left to right'),
    'brightness': Kind(
        (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3), 0.0, 'grey added, share of the full range'
    ),
    'contrast': Kind(
        (0.25, 0.5, 0.75, 1.5, 2.0), 1.0, "factor on the distance to the image's mean"
    ),
    'inversion': Kind((1.0,), 0.0, 'white bones become black'),
    'marker removed': Kind(
        (0.1, 0.2, 0.25),
        0.0,
        "corner squares, share of the side, filled with the border's median: where lead "
        'markers mostly lie (no marker is looked for)',
    ),
    'marker added': Kind(
        (0.08, 0.12, 0.2),
        0.0,
        'a white L in the upper left corner, share of the side',
    ),
    'resolution': Kind((1.5, 2.0, 3.0, 4.0), 1.0, 'shrunk by this factor, and enlarged again'),
    'jpeg': Kind(
        (10.0, 20.0, 30.0, 50.0, 75.0), 100.0, 'saved as JPEG of this quality; 100: not saved'
    ),
}


def measure_robustness(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    split: str = splits_lib.SELECTING,
    count: int = 0,
    data_dir: str | None = None,
) -> list[dict]:
    """Writes robustness.csv and robustness.png into `output`; returns the lines.

    Args:
        workdir: a finished run, an exported file, or the name of a shipped network.
        output: folder for the results.
        split: whose images.
        count: how many images, evenly spaced by age; 0 = all.
        data_dir: folder of the raw data.

    Raises:
        UserError: a run that predicts no ages, an unknown split, or an output that holds results.
    """
    output = pathlib.Path(output)
    predictor = predictor_lib.Predictor(workdir)
    cli.refuse_results(output, RESULT)
    task = predictor.task
    if task.months is None:
        raise UserError(
            f'{workdir} holds a run of the task {predictor.config.task.name!r}, which predicts no '
            'ages'
        )
    setup.set_up_jax(predictor.config)
    examples = _examples(workdir, predictor, split, data_dir)
    chosen = _evenly_by_age(examples, count)
    images = examples.arrays(chosen)['image']
    male = examples.male[chosen]
    age = examples.months[chosen]

    def errors(seen):
        prediction, _ = predictor.predict_tta(seen, male)
        return np.asarray(task.months(prediction)) - age

    untouched = errors(images)
    lines = []
    for name, kind in KINDS.items():
        of_kind = []
        for strength in sorted((*kind.strengths, kind.neutral)):
            if strength == kind.neutral:
                found = untouched
            else:
                found = errors(disturb(images, name, strength))
            of_kind.append(_line(name, strength, found, untouched))
        _print(name, of_kind, untouched)
        lines += of_kind
    output.mkdir(parents=True, exist_ok=True)
    picture = output / 'robustness.png'
    robustness.draw(lines, KINDS, f'{split}, {len(age):,} images', picture)
    files.write_rows(output / RESULT, COLUMNS, lines, exact=('strength',))
    log.info(f'{output / RESULT} and {picture.name} beside it')
    return lines


def _examples(workdir, predictor, split, data_dir) -> Split:
    opened = own_images.open_splits(workdir, predictor.config, data_dir)
    known = [name for name in opened if name != 'train']
    if split not in known:
        raise UserError(f'--split={split}: expected one of {", ".join(known)}')
    return opened[split]


def _evenly_by_age(examples, count):
    """Places of `count` images of a split, evenly spaced in the order of age; 0 = all."""
    by_age = np.argsort(examples.months, kind='stable')
    if not count:
        return by_age
    places = np.linspace(0, len(examples) - 1, min(count, len(examples)))
    return by_age[places.astype(int)]


def _line(kind, strength, errors, untouched):
    """A line of robustness.csv, from errors `[N]` in months with and without the disturbance."""
    sizes = np.abs(errors)
    lower, upper = metrics.bootstrap(sizes)
    delta, delta_lower, delta_upper = metrics.paired_difference(errors, untouched)
    return {
        'kind': kind,
        'strength': strength,
        'images': len(errors),
        'mae': float(sizes.mean()),
        'lower': lower,
        'upper': upper,
        'delta': delta,
        'delta_lower': delta_lower,
        'delta_upper': delta_upper,
        'bias': float(errors.mean()),
    }


def _print(kind, lines, untouched):
    worst = max(lines, key=lambda line: line['delta'])
    log.info(
        f'{kind}: MAE {np.abs(untouched).mean():.2f} untouched, {worst["mae"]:.2f} at '
        f'{worst["strength"]:g} ({worst["delta"]:+.2f}, {worst["delta_lower"]:+.2f} to '
        f'{worst["delta_upper"]:+.2f} months)'
    )


def disturb(images: np.ndarray, kind: str, strength: float) -> np.ndarray:
    """Images uint8 `[N, H, W, 1]` -> the same disturbed by `kind` of KINDS at `strength`, uint8."""
    if kind not in KINDS:
        raise UserError(f'kind {kind!r}: expected one of {", ".join(KINDS)}')
    parts = []
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        parts.append(np.asarray(_DISTURBANCES[kind](part, jnp.float32(strength))))
    return np.concatenate(parts)


def _bytes(image):
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255).astype(jnp.uint8)


def _unit(image):
    return augment.to_float({'image': image})['image']


def _on_unit(disturb_unit):
    """`disturb_unit(image [N, H, W, 1] in 0..1, strength)` as a jitted function of bytes."""

    def disturb_bytes(image, strength):
        return _bytes(disturb_unit(_unit(image), strength))

    return jax.jit(disturb_bytes)


def _rotated(image, degrees):
    return views.turned(image, float(degrees))


def _mirrored(image, strength):
    del strength
    return image[:, :, ::-1]


def _brighter(image, added):
    return image + added


def _contrast(image, factor):
    mean = image.mean((1, 2, 3), keepdims=True)
    return mean + (image - mean) * factor


def _inverted(image, strength):
    del strength
    return degrade.invert(image)


def _covered(image, share):
    """Squares of that share of the side in all corners, filled with the median of the border."""
    rows = _near_an_end(image.shape[1], share)
    columns = _near_an_end(image.shape[2], share)
    corners = rows[:, None] & columns[None]
    border = jnp.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    median = jnp.median(border, axis=1)[:, None, None]
    return jnp.where(corners[None, :, :, None], median, image)


def _near_an_end(length, share):
    places = jnp.arange(length)
    return jnp.minimum(places, length - 1 - places) < share * length


def _marked(image, share):
    """An L of strokes a sixth of its height wide, a twentieth of the image from its corner."""
    height, width = image.shape[1:3]
    side = min(height, width)
    # Places of the pixels in units of the letter's height, from the letter's own corner.
    y = ((jnp.arange(height, dtype=jnp.float32) - 0.05 * side) / (share * side))[:, None]
    x = ((jnp.arange(width, dtype=jnp.float32) - 0.05 * side) / (share * side))[None]
    distance = jnp.inf
    for start, end in np.asarray(marker.strokes('L')) * (0.55, 1.0):
        distance = jnp.minimum(distance, _distance_to_stroke(x, y, start, end))
    return jnp.where((distance < 1 / 12)[None, :, :, None], 1.0, image)


def _distance_to_stroke(x, y, start, end):
    """How far pixels at `x` [1, W], `y` [H, 1] are from the line from `start` to `end` (x, y)."""
    along_x, along_y = end - start
    from_x = x - start[0]
    from_y = y - start[1]
    # The nearest point of the line, as a share of its length.
    share = (from_x * along_x + from_y * along_y) / (along_x**2 + along_y**2)
    share = jnp.clip(share, 0, 1)
    return jnp.hypot(from_x - share * along_x, from_y - share * along_y)


def _coarser(image, factor):
    return degrade.coarsen(image, jnp.full(image.shape[:1], factor))


def _saved_as_jpeg(image, quality):
    """Bytes [N, H, W, 1] after a JPEG file, written and read by Pillow."""
    read = []
    for pixels in np.asarray(image)[..., 0]:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, 'JPEG', quality=int(quality))
        read.append(np.asarray(Image.open(file)))
    return np.stack(read)[..., None]


_DISTURBANCES = {
    'rotation': _rotated,
    'flip': _mirrored,
    'brightness': _on_unit(_brighter),
    'contrast': _on_unit(_contrast),
    'inversion': _on_unit(_inverted),
    'marker removed': _on_unit(_covered),
    'marker added': _on_unit(_marked),
    'resolution': _on_unit(_coarser),
    'jpeg': _saved_as_jpeg,
}
