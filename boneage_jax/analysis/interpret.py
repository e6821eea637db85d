"""Look inside a trained network: its anchors, selected parts and relation maps, or its attention.

The figures are Ji 2019's 3 and 5 and Castillo 2018's 10, of images of a split evenly spaced by age.
What is counted, parts.json or attention.json, is of the whole split.
"""

import itertools
import pathlib

import ml_collections
import numpy as np
from flax import nnx

from boneage_jax import cli, figures
from boneage_jax.analysis import cross_validation, own_images
from boneage_jax.analysis import joints as joints_lib
from boneage_jax.data.source import Split
from boneage_jax.figures import examples as examples_lib
from boneage_jax.models import parts as parts_lib
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runtime import files, log, setup
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.anatomy import BONE_NAMES

LEVELS = ('res3', 'res4', 'res5')
CORNER = 0.2  # of each side of the image, on both sides
AGES = (0, 60, 100, 150, 241)  # months
SHARED = 0.5  # a part and a bone meet where half of the smaller one is in the other (ours)


def interpret(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    split: str = 'validation',
    count: int = 8,
    joints: str = '',
    data_dir: str | None = None,
) -> dict | None:
    """Writes the figures, and parts.json or attention.json.

    Args:
        workdir: a finished run, an exported file, or the name of a shipped network; or the folder
            of a cross-validation, whose parts are drawn of the first fold and counted over all.
        output: folder for the results.
        split: whose images.
        count: how many images to draw.
        joints: a table of boxes around joints (`joint_boxes.read`), '' for none: how many parts are
            on one is counted on the images that it has.
        data_dir: folder of the raw data.

    Returns:
        The content of the JSON file; None where there are relation maps alone.

    Raises:
        UserError: a run that has nothing of all this, an unknown split, a fold that is missing, or
            a table of joints that is of other images.
    """
    output = pathlib.Path(output)
    opened = [_open(place, split, data_dir) for place in _runs(workdir)]
    predictor, examples = opened[0]
    for result in ('attention.json', 'parts.json'):
        cli.refuse_results(output, result)
    images, captions, aux = examples_lib.predict_examples(predictor, examples, count)
    _refuse_nothing_to_see(workdir, aux)

    output.mkdir(parents=True, exist_ok=True)
    if 'attention' in aux:
        log.info(str(figures.draw_attention(images, captions, aux, output / 'attention.png')))
        return _measure_attention(predictor, examples, output)
    _draw_parts(images, captions, aux, output)
    if 'part_boxes' not in aux:
        return None
    candidates, level = candidates_of(predictor.config, images.shape[1:3])
    log.info(str(figures.anchors(images[-1], candidates, level, output / 'anchors.png')))
    found = []
    for predictor, examples in opened:
        if joints:
            bones = joints_lib.of_split(examples, predictor.config, joints, data_dir)
        else:
            bones = _bones(examples)
        found.append(_measure_parts(predictor, examples, candidates, bones))
    whole = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    report = _report(split, whole)
    files.write_json(output / 'parts.json', report)
    _print(report)
    return report


def _runs(workdir):
    """The folds of a cross-validation in its folder, or what else is named, alone."""
    place = pathlib.Path(workdir)
    folds = sorted(place.glob('fold[0-9]*')) if place.is_dir() else []
    if not folds:
        return [workdir]
    return list(itertools.chain(*cross_validation.members(folds).values())) or [workdir]


def _open(place, split, data_dir):
    """The network of a run and its images of a split."""
    predictor = predictor_lib.Predictor(place)
    setup.set_up_jax(predictor.config)
    opened = own_images.open_splits(place, predictor.config, data_dir)
    if split not in opened:
        raise UserError(f'--split={split}: expected one of {", ".join(opened)}')
    return predictor, opened[split]


def _refuse_nothing_to_see(place, aux):
    if not {'attention', 'part_boxes'} & set(aux) and not len(aux.get('relation_maps', [])):
        raise UserError(
            f'{place}: this run selects no parts and has neither relation maps nor attention '
            '(model.selection, model.relation, model.head)'
        )


def _draw_parts(images, captions, aux, output):
    """Draws the selected parts on the images, once for each relation map, or once without."""
    boxes = aux.get('part_boxes', np.zeros((len(images), 0, 4)))
    valid = aux['part_valid'] if 'part_boxes' in aux else None
    maps = {'parts': None}
    if len(aux.get('relation_maps', [])):
        maps = {f'parts_{level}': of for level, of in zip(LEVELS, aux['relation_maps'])}
    for name, relation in maps.items():
        path = output / f'{name}.png'
        log.info(str(figures.parts(images, relation, boxes, captions, path, valid)))


def candidates_of(
    config: ml_collections.ConfigDict, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(boxes `[N, 4]`, level `[N]`) of the anchors that a run's network chooses from.

    `size` is that of the images: rows, columns.
    """
    model = nnx.eval_shape(lambda: predictor_lib.build_model(config))
    return model.candidates(size)


def on_bones(boxes: np.ndarray, bones: np.ndarray) -> np.ndarray:
    """Whether each part meets one of the bones: bool `[N, M]`.

    They meet where at least half of the smaller box is in the larger. Parts are boxes `[N, M, 4]`,
    bones `[N, T, 4]`, NaN where a bone is not there.
    """
    parts = np.asarray(boxes, np.float64)[:, :, None]
    bones = np.asarray(bones, np.float64)[:, None]
    low = np.maximum(parts[..., :2], bones[..., :2])
    high = np.minimum(parts[..., 2:], bones[..., 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    smaller = np.minimum(_area(parts), _area(bones))
    return np.any(common >= SHARED * smaller, axis=-1, where=~np.isnan(smaller))


def _area(boxes):
    return np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def in_corner(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether each part is centred within a fifth of both borders: bool `[N, M]`.

    Parts are boxes `[N, M, 4]` on images of `size` (rows, columns).
    """
    boxes = np.asarray(boxes)
    size = np.array(size)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    return np.all(np.minimum(centre, size - centre) < CORNER * size, axis=-1)


def _outputs(predictor, examples, names):
    """The auxiliary outputs `names` of all images of a split, `{name: [N, ...]}`.

    Batch by batch: all that a network gives of all images would not fit.
    """
    parts = {name: [] for name in names}
    for _, _, _, aux in predictor.over(examples):
        for name in names:
            parts[name].append(aux[name])
    return {name: np.concatenate(values) for name, values in parts.items()}


def _measure_attention(predictor, examples, output):
    """attention.json over the whole split."""
    gates = _outputs(predictor, examples, ['attention'])['attention'].astype(np.float64)
    shares = gates.reshape(len(gates), -1) / gates.sum((1, 2))[:, None]
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)
    variance = gates.var()
    same = float(gates.mean(0).var() / variance) if variance else 1.0
    report = {
        'split': examples.name,
        'images': len(examples),
        'places': shares.shape[1],
        **metrics.intervals({'places_used': np.exp(entropy)}),
        'same_in_all_images': same,
        'mean_map': gates.mean(0).round(4).tolist(),
    }
    files.write_json(output / 'attention.json', report)
    used = report['places_used']
    log.info(
        f'{examples.name}, {len(examples)} images: of {report["places"]} places an image uses '
        f'{used["value"]:.1f} ({used["lower"]:.1f} to {used["upper"]:.1f}); {100 * same:.0f}% of '
        'the variance of the maps is the same in all images'
    )
    return report


def _measure_parts(predictor, examples, candidates, bones):
    """What parts.json counts, of each image of a split: `{name: [N]}`.

    Shares on bones are NaN for an image whose bones are not known, and left out where no image's
    are (`bones` None).
    """
    aux = _outputs(predictor, examples, ['part_boxes', 'part_valid', 'part_ages'])
    boxes = aux['part_boxes']
    valid = aux['part_valid']
    ages = np.asarray(predictor.task.months(aux['part_ages']))

    def mean_of_parts(values):
        """The mean over each image's valid parts `[N]`."""
        return np.where(valid, values, False).sum(1) / np.maximum(valid.sum(1), 1)

    found = {
        'months': examples.months,
        'part_mae': mean_of_parts(np.abs(ages - examples.months[:, None])),
        'in_corner': mean_of_parts(in_corner(boxes, tuple(predictor.config.data.size))),
    }
    if bones is not None:
        generator = np.random.default_rng(0)
        drawn = generator.integers(0, len(candidates), valid.shape)
        on_hand = _draw_on_hand(generator, examples, candidates, valid.shape[1])
        shares = {
            'on_bones': mean_of_parts(on_bones(boxes, bones)),
            'on_bones_by_chance': on_bones(candidates[drawn], bones).mean(1),
            'on_bones_by_chance_on_hand': on_bones(candidates[on_hand], bones).mean(1),
        }
        unknown = np.isnan(bones).all((1, 2))
        found |= {name: np.where(unknown, np.nan, share) for name, share in shares.items()}
    return found


def _report(split, found):
    """The content of parts.json, from `{name: [N]}` of `_measure_parts`."""
    report = {
        'split': split,
        'images': len(found['months']),
        **metrics.intervals({name: found[name] for name in ('part_mae', 'in_corner')}),
        'in_corner_by_age': _by_age(found['in_corner'], found['months']),
    }
    if 'on_bones' in found:
        known = ~np.isnan(found['on_bones'])
        shares = {name: of[known] for name, of in found.items() if name.startswith('on_bones')}
        report |= {'images_with_bones': int(known.sum()), **metrics.intervals(shares)}
    return report


def _draw_on_hand(generator, examples, candidates, count):
    """`[N, count]` of the anchors by chance, of those that are half or more on what is not black.

    Of an image that has none of these, of all.
    """
    drawn = []
    for i in range(len(examples)):
        seen = examples.arrays([i])['image'][..., 0] > 0
        share = np.asarray(parts_lib.share_inside(seen, candidates))[0]
        chosen = np.flatnonzero(share >= SHARED)
        drawn.append(generator.choice(chosen if len(chosen) else len(candidates), count))
    return np.stack(drawn)


def _by_age(values, months):
    """`{ages: the mean of values [N] with its interval}` of the ages that have images."""
    found = {}
    for low, high in itertools.pairwise(AGES):
        chosen = (low <= months) & (months < high)
        if chosen.any():
            mean = metrics.intervals({'mean': values[chosen]})
            found[f'{low} to {high} months'] = mean['mean']
    return found


def _bones(examples: Split):
    """The growth plates and the carpus `[N, T, 4]` of phantoms; None for other images."""
    if 'bone_boxes' not in examples.records[int(examples.positions[0])]:
        return None
    wanted = []
    for i, name in enumerate(BONE_NAMES):
        if name.endswith('growth_plate') or name == 'carpus':
            wanted.append(i)
    bones = []
    for position in examples.positions:
        bones.append(examples.records[int(position)]['bone_boxes'][wanted])
    return np.stack(bones)


def _print(report):
    mae = report['part_mae']
    by_age = [f'{ages} {_percent(value)}' for ages, value in report['in_corner_by_age'].items()]
    log.info(
        f'{report["split"]}, {report["images"]} images: a part alone predicts the age with a MAE '
        f'of {mae["value"]:.1f} months ({mae["lower"]:.1f} to {mae["upper"]:.1f}); '
        f'{_percent(report["in_corner"])} of the parts are in a corner: {", ".join(by_age)}'
    )
    if 'on_bones' in report:
        log.info(
            f'{_percent(report["on_bones"])} of the parts are on a growth plate, a joint or the '
            f'carpus; drawn by chance {_percent(report["on_bones_by_chance"])}, by chance from the '
            f'hand {_percent(report["on_bones_by_chance_on_hand"])} '
            f'({report["images_with_bones"]} images)'
        )
    else:
        log.info(
            'These images do not say where their bones are (phantoms do, --joints names a table): '
            'no share of parts on bones.'
        )


def _percent(share):
    return f'{100 * share["value"]:.1f}% ({100 * share["lower"]:.1f} to {100 * share["upper"]:.1f})'
