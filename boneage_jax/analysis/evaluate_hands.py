"""Check masks, key points and registration against hands that people annotated.

    python -m boneage_jax.evaluate_hands --truth=annotations/rsna_hand_keypoints_val.json --output=checks/masks \
        --config=configs/prsnet.py:rsna100,stages=(mask)
    python -m boneage_jax.evaluate_hands --truth=dha/landmarks.csv --output=checks/dha --config=configs/prsnet.py:source=image_folder,\
images=dha,labels=dha/labels.csv,months_column=boneage_months,stages=(mask,keypoints,refine),data.stage_options.keypoints.run=RUN,...

Every image of the config's source that TRUTH knows goes through the config's stages, as far as they leave the image as it is
(up to `crop`, `register`, `region` or `resize`), at its own size. TRUTH: COCO JSON of 21 points and a box a hand, or the
DHA's CSV of 37 landmarks, here or below $BONEAGE_DATA. Images that a network of the stages was trained on, or that selected
its checkpoint, are left out and counted. OUTPUT gets hands.csv (a line an image), metrics.json (means with 95% bootstrap
intervals over images) and sheet.png (the worst images and a sample: mask, points found and true).
"""

import json
import pathlib

import numpy as np

from boneage_jax import figures
from boneage_jax.errors import ConfigError
from boneage_jax.preprocess import hand_mask, keypoints, mask_checks, register
from boneage_jax.preprocess import transform as transforms
from boneage_jax.runs import workdir
from boneage_jax.runtime import files as files_lib
from boneage_jax.stages import annotations, plan, records
from boneage_jax.tasks import metrics

TIP_WITHIN, CAPITATE_WITHIN = 25, 40  # pixels of the registered image of 2080x1600
NEAR = 0.01  # of the hand's length, by which a point may lie outside a mask and still be `near` it
CHUNK = 16  # images that go through the stages together


def evaluate_hands(config, truth, output, data_dir=None):
    """Writes the check of `config`'s stages against the files `truth` into the folder `output`;
    returns its metrics.

    Raises ConfigError where there is nothing to check, UserError for unreadable truth.
    """
    output = pathlib.Path(output)
    if (output / 'metrics.json').exists():
        raise ConfigError(f'{output} holds results already; delete it or choose another --output')
    names = list(config.data.stages)
    steps = []
    for step in plan.make_plan(config.data, data_dir):
        if step.stage.moves_pixels:
            break
        steps.append(step)
    files = [plan.find_file(file, data_dir, '--truth') for file in truth]
    seen = set().union(*(seen_by(step.options['run']) for step in steps if 'run' in step.options))
    wanted = set(annotations.names(files))
    rows, shown, left_out = [], [], 0
    for examples in _chunks(config.data, data_dir, wanted):
        left_out += sum(str(example['id']) in seen for example in examples)
        examples = [example for example in examples if str(example['id']) not in seen]
        for example in records.apply_stages(examples, steps):
            if example is not None:
                found = annotations.annotation(
                    str(example['id']), example['image'].shape[:2], files
                )
                rows.append(measure(example, found))
                shown.append(
                    figures.hand(
                        example['image'],
                        example.get('hand_mask'),
                        example.get('keypoints'),
                        found['keypoints'],
                    )
                )
    if not rows:
        raise ConfigError(
            f'none of the {len(wanted)} images of {", ".join(map(str, truth))} is to be checked in '
            f'the source ({left_out} were seen in training); look at data.source and data.folder'
        )
    if not len(rows[0]) > 1:
        raise ConfigError(f'data.stages={tuple(names)}: nothing in them finds a mask or key points')
    report = {
        'images': len(rows),
        'left_out_as_seen': left_out,
        'stages': [step.described for step in steps],
        'truth': [str(file) for file in truth],
        'overall': summary(rows),
        **workdir.provenance(),
    }
    output.mkdir(parents=True, exist_ok=True)
    files_lib.write_rows(output / 'hands.csv', list(rows[0]), rows)
    figures.hands([row['id'] for row in rows], shown, _badness(rows), output / 'sheet.png')
    files_lib.write_json(output / 'metrics.json', report)
    return report


def seen_by(run):
    """The ids of the images that a run was trained on or selected by; phantoms are none, and mined
    images are theirs.
    """
    run = pathlib.Path(run).expanduser()
    config, splits = (
        json.loads((run / name).read_text()) for name in ('config.json', 'splits.json')
    )
    ids = {name for split in ('train', 'validation') for name in splits.get(split, ())}
    mined = {name.removeprefix('mined-') for name in ids if name.startswith('mined-')}
    return mined if config['data']['source'] == 'hand_phantom' else mined | ids


def _chunks(data, data_dir, wanted):
    """Lists of the source's images that are `wanted` (ids), decoded."""
    builder, examples = records.build_source(data, data_dir), []
    for split in builder.info.splits:
        for record in builder.as_data_source(split):
            if str(record['id']) in wanted:
                examples.append(records.decode_record(record))
            if len(examples) == CHUNK:
                yield examples
                examples = []
    if examples:
        yield examples


def measure(example, truth):
    """One image's figures, `{'id', ...}`; `truth` as `annotated.annotation` gives it. Lengths in %
    are of the true hand's.

    With a mask: `inside`, `near` (all annotated points in it, or within 1%), `area`, `box_iou`
    where a box was annotated, `flags`. With key points: `error_percent` and its parts,
    `error_pixels` of 2080x1600, and where the registration by them takes the true points:
    `tip_off`, `capitate_off` in registered pixels, `registered` (by what).
    """
    row, points = {'id': str(example['id'])}, np.asarray(truth['points'], np.float64)
    points = points[np.isfinite(points).all(1)]
    tip, _, capitate = np.asarray(truth['keypoints'], np.float64)
    length = np.hypot(*(tip - capitate))
    if 'hand_mask' in example:
        row |= _mask_figures(example['hand_mask'] > 0, points, truth['box'], NEAR * length)
    if 'keypoints' in example:
        shape = example['image'].shape[:2]
        errors = keypoints.errors(example['keypoints'], truth['keypoints'], shape)
        percent = np.nan_to_num(
            np.asarray(errors['percent']), nan=100.0
        )  # not found: missed by the hand's length
        row |= {
            'error_percent': float(percent.mean()),
            'error_pixels': float(
                np.nan_to_num(np.asarray(errors['pixels']), nan=min(keypoints.PADDED) / 2).mean()
            ),
        }
        row |= {
            f'error_percent_{name}': float(value) for name, value in zip(keypoints.NAMES, percent)
        }
    if len(row) > 1:
        transform, found = register.register_example(example)
        off = [
            float(np.hypot(*(transforms.apply(transform, point) - np.array(target))))
            for point, target in ((tip, register.TIP), (capitate, register.CAPITATE))
        ]
        row |= {
            'tip_off': off[0],
            'capitate_off': off[1],
            'within': off[0] <= TIP_WITHIN and off[1] <= CAPITATE_WITHIN,
            'registered': found['registered'],
            'doubts': found['doubts'],
            'flags': str(example.get('flags', '')),
        }
    return row


def _mask_figures(mask, points, box, near):
    places = np.clip(np.round(points).astype(int), 0, np.array(mask.shape) - 1)
    inside = mask[places[:, 0], places[:, 1]]
    pixels = np.argwhere(mask)
    away = [
        np.sqrt(np.square(pixels - point).sum(1).min()) if len(pixels) else np.inf
        for point in points[~inside]
    ]
    row = {
        'inside': bool(inside.all()),
        'near': all(each <= near + 0.5 for each in away),
        'points_outside': int((~inside).sum()),
        'area': float(mask.mean()),
    }
    if box is not None:
        row['box_iou'] = _box_iou(hand_mask.bounds(mask), box) if len(pixels) else 0.0
    return row | {'agreeable': not mask_checks.violations(mask)}


def _box_iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.maximum(np.subtract(high, low), 0))
    return float(both / (sum(np.prod(np.subtract(box[2:], box[:2])) for box in (a, b)) - both))


def summary(rows):
    """`metrics.intervals` of every numeric column, the medians and 90th percentiles of the offsets,
    and how images were registered.
    """
    numeric = {
        name: np.array([row[name] for row in rows], np.float64)
        for name, value in rows[0].items()
        if isinstance(value, (bool, int, float))
    }
    ways = {
        f'registered_by_{way}': np.array([row['registered'] == way for row in rows], np.float64)
        for way in sorted({row['registered'] for row in rows})
    }
    if 'tip_off' in numeric:
        ways |= {
            f'tip_within_{TIP_WITHIN}': numeric['tip_off'] <= TIP_WITHIN,
            f'capitate_within_{CAPITATE_WITHIN}': numeric['capitate_off'] <= CAPITATE_WITHIN,
        }
    report = metrics.intervals(numeric | ways)
    for name in numeric:
        if name.startswith('error') or name.endswith('_off'):
            report[name] |= {
                'median': float(np.median(numeric[name])),
                'p90': float(np.percentile(numeric[name], 90)),
            }
    return report


def _badness(rows):
    """What the sheet sorts by: how wrong each image came out."""
    return [
        row.get('error_percent', 0) + 10 * row.get('points_outside', 0) + row['tip_off'] / 15
        for row in rows
    ]
