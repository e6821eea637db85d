"""Look inside a trained network: PRSNet's anchors, relation maps and selected parts, or an
attention map.

    python -m boneage_jax.interpret --workdir=runs/prsnet --output=runs/prsnet/inside

Draws Ji 2019's figure 3 (`anchors.png`) and figure 5 (`parts_res3.png` and so on, one for each
relation map; `parts.png` without relation) for images of a split, evenly spaced by age.
`parts.json` counts over the whole split: how well each part alone predicts the age, how many parts
lie in a corner of the image, where there is no hand, by age, and, on phantoms, whose bones are
known, how many lie on a growth plate or the carpus, beside anchors drawn by chance.

Of a run of configs/attention.py: Castillo 2018's figure 10 (`attention.png`), and `attention.json`
over the whole split: how many places of the map an image uses (the exponential of the entropy of
its shares), and how much of the maps' variance is the same in all images, which is what the locally
connected layer knows without looking.
"""

import itertools
import pathlib

import numpy as np
from flax import nnx

from boneage_jax import figures
from boneage_jax.figures import examples as examples_lib
from boneage_jax.models import parts as parts_lib
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runtime import files, log, setup
from boneage_jax.stages import records
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.anatomy import BONE_NAMES

LEVELS = ('res3', 'res4', 'res5')
CORNER = 0.2  # of each side of the image, on both sides
AGES = (0, 60, 100, 150, 241)  # months
SHARED = 0.5  # a part and a bone meet where half of the smaller one lies in the other (ours)


def interpret(workdir, output, *, split='validation', count=8, data_dir=None):
    """Writes the figures, and parts.json or attention.json; returns its content, None where there
    are relation maps alone.

    Raises UserError for a run that has nothing of all this, or an unknown split.
    """
    output, predictor = pathlib.Path(output), predictor_lib.Predictor(workdir)
    config = predictor.config
    setup.set_up_jax(config)
    opened = records.open_splits(config, data_dir)
    if split not in opened:
        raise UserError(f'--split={split}: expected one of {", ".join(opened)}')
    examples = opened[split]
    images, captions, aux = examples_lib.predict_examples(predictor, examples, count)
    output.mkdir(parents=True, exist_ok=True)
    if 'attention' in aux:
        log.info(str(figures.draw_attention(images, captions, aux, output / 'attention.png')))
        return _measure_attention(predictor, examples, output)
    selects, maps = 'part_boxes' in aux, aux.get('relation_maps', [])
    if not selects and not len(maps):
        raise UserError(
            f'{workdir}: this run selects no parts and has neither relation maps nor attention '
            '(model.selection, model.relation, model.head)'
        )
    boxes = aux['part_boxes'] if selects else np.zeros((len(images), 0, 4))
    valid = aux['part_valid'] if selects else None
    for name, relation in zip(
        [f'parts_{level}' for level in LEVELS] if len(maps) else ['parts'], maps or [None]
    ):
        log.info(
            str(figures.parts(images, relation, boxes, captions, output / f'{name}.png', valid))
        )
    if not selects:
        return None
    candidates, level = candidates_of(config, images.shape[1:3])
    log.info(str(figures.anchors(images[-1], candidates, level, output / 'anchors.png')))
    return _count(predictor, examples, candidates, output)


def candidates_of(config, size):
    """(boxes `[N, 4]`, level `[N]`) of the anchors that a run's network chooses from on images of
    `size`.
    """
    model = nnx.eval_shape(lambda: predictor_lib.build_model(config))
    return parts_lib.anchors(size, strides=model.strides, sizes=model.anchor_sizes)


def on_bones(boxes, bones):
    """Parts `[N, M, 4]` and bones `[N, T, 4]` (NaN: not there) -> bool `[N, M]`: the part meets one
    of the bones.

    They meet where at least half of the smaller box lies in the larger.
    """
    a, b = np.asarray(boxes, np.float64)[:, :, None], np.asarray(bones, np.float64)[:, None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    smaller = np.minimum(*(np.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (a, b)))
    return np.any(common >= SHARED * smaller, axis=-1, where=~np.isnan(smaller))


def in_corner(boxes, size):
    """Parts `[N, M, 4]` on images of `size` (rows, columns) -> bool `[N, M]`: centred within a
    fifth of both borders.
    """
    centre = (np.asarray(boxes)[..., :2] + np.asarray(boxes)[..., 2:]) / 2
    return np.all(np.minimum(centre, np.array(size) - centre) < CORNER * np.array(size), axis=-1)


def _measure_attention(predictor, examples, output):
    """attention.json over the whole split, batch by batch: the multiply layer's output of all
    images would not fit.
    """
    size, gates = predictor.batch_size, []
    for start in range(0, len(examples), size):
        rows = range(start, min(start + size, len(examples)))
        gates.append(
            predictor(examples.arrays(rows)['image'], examples.male[rows.start : rows.stop])[1][
                'attention'
            ]
        )
    gates = np.concatenate(gates).astype(np.float64)
    shares = gates.reshape(len(gates), -1) / gates.sum((1, 2))[:, None]
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)
    variance = gates.var()
    report = {
        'split': examples.name,
        'images': len(examples),
        'places': shares.shape[1],
        **metrics.intervals({'places_used': np.exp(entropy)}),
        'same_in_all_images': float(gates.mean(0).var() / variance) if variance else 1.0,
        'mean_map': gates.mean(0).round(4).tolist(),
    }
    files.write_json(output / 'attention.json', report)
    used = report['places_used']
    log.info(
        f'{examples.name}, {len(examples)} images: of {report["places"]} places an image uses {used["value"]:.1f} '
        f'({used["lower"]:.1f} to {used["upper"]:.1f}); {100 * report["same_in_all_images"]:.0f}% of the variance of the maps '
        'is the same in all images'
    )
    return report


def _count(predictor, examples, candidates, output):
    """parts.json over the whole split: each part's own MAE, the share in corners by age, and the
    share on bones.
    """
    every = range(len(examples))
    images = examples.arrays(every)['image']
    _, aux = predictor(images, examples.male)
    valid, size = aux['part_valid'], images.shape[1:3]
    errors = np.abs(np.asarray(predictor.task.months(aux['part_ages'])) - examples.months[:, None])
    corner = in_corner(aux['part_boxes'], size)

    def share(hits):
        return np.where(valid, hits, False).sum(1) / np.maximum(valid.sum(1), 1)

    report = {
        'split': examples.name,
        'images': len(examples),
        **metrics.intervals({'part_mae': share(errors), 'in_corner': share(corner)}),
    }
    report['in_corner_by_age'] = {
        f'{low} to {high} months': metrics.intervals({'in_corner': share(corner)[chosen]})[
            'in_corner'
        ]
        for low, high in itertools.pairwise(AGES)
        if (chosen := (low <= examples.months) & (examples.months < high)).any()
    }
    if 'bone_boxes' in examples.records[int(examples.positions[0])]:
        plates = [
            i
            for i, name in enumerate(BONE_NAMES)
            if name.endswith('growth_plate') or name == 'carpus'
        ]
        bones = np.stack(
            [examples.records[int(examples.positions[i])]['bone_boxes'][plates] for i in every]
        )
        drawn = np.random.default_rng(0).integers(0, len(candidates), valid.shape)
        report |= metrics.intervals(
            {
                'on_bones': share(on_bones(aux['part_boxes'], bones)),
                'on_bones_by_chance': on_bones(candidates[drawn], bones).mean(1),
            }
        )
    files.write_json(output / 'parts.json', report)
    _say(report)
    return report


def _say(report):
    def percent(value):
        return f'{100 * value["value"]:.1f}% ({100 * value["lower"]:.1f} to {100 * value["upper"]:.1f})'

    mae = report['part_mae']
    log.info(
        f'{report["split"]}, {report["images"]} images: a part alone predicts the age with a MAE of {mae["value"]:.1f} months '
        f'({mae["lower"]:.1f} to {mae["upper"]:.1f}); {percent(report["in_corner"])} of the parts lie in a corner: '
        + ', '.join(
            f'{ages} {percent(value)}' for ages, value in report['in_corner_by_age'].items()
        )
    )
    if 'on_bones' in report:
        log.info(
            f'{percent(report["on_bones"])} of the parts lie on a growth plate or the carpus; drawn by chance '
            f'{percent(report["on_bones_by_chance"])}'
        )
    else:
        log.info(
            'These images do not say where their bones are (phantoms do): no share of parts on bones.'
        )
