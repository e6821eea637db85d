"""Masks, key points and registration compared with hands that people annotated."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Sequence

import ml_collections
import numpy as np
from scipy import ndimage

from boneage_jax import cli, figures
from boneage_jax.analysis import own_images
from boneage_jax.data import id_spaces, splits
from boneage_jax.errors import ConfigError
from boneage_jax.preprocess import hand_mask, keypoints, mask_checks, register, resize
from boneage_jax.preprocess import transform as transforms
from boneage_jax.runs import training_ids, workdir
from boneage_jax.runtime import files, log
from boneage_jax.stages import annotations, id_files, plan, records, registration
from boneage_jax.tasks import metrics
from tfds_rsna.annotations import mask_files

# Pixels of the registered image of 2080x1600.
TIP_WITHIN = 25
CAPITATE_WITHIN = 40
NEAR = 0.01  # of the hand's length, by which a point may be outside a mask and still `near` it
TIP_NEAR = 0.02  # of it, by which a fingertip may be outside a mask that `holds` the hand


def evaluate_hands(
    config: ml_collections.ConfigDict,
    truth: Sequence[str],
    output,
    data_dir=None,
    *,
    ids: str = '',
) -> dict:
    """Compares what `config`'s stages find with annotated hands; returns the metrics.

    Every image of the source that `truth` has goes through the stages at its own size, as far as
    they leave its pixels where they are. Images that a network of the stages has seen are left out.

    Args:
        config: whose source and stages to evaluate.
        truth: COCO JSON, three-point or landmark CSV files, here or below `data_dir`; or one folder
            of drawn masks (see `tfds_rsna.annotations.mask_files.read`).
        output: the folder for hands.csv, metrics.json and sheet.png.
        data_dir: where raw data is (default: $BONEAGE_DATA).
        ids: file of one id a line: these images alone; '' for all.

    Raises:
        ConfigError: there is nothing to compare, or `output` has results already.
        UserError: truth that cannot be read.
    """
    output = pathlib.Path(output)
    cli.refuse_results(output, 'metrics.json')
    steps, _ = plan.in_place(plan.make_plan(config.data, data_dir))
    known = _truth(truth, data_dir)
    wanted = set(known.names)
    if ids:
        named = id_files.read(ids, data_dir, '--ids')
        wanted &= named
        log.info(f'--ids: {len(wanted):,} of its {len(named):,} ids are annotated.')
    seen = []
    for step in steps:
        if 'run' in step.options:
            seen.append(seen_by(step.options['run']))
    space = id_spaces.of(config.data)
    rows = []
    shown = []
    left_out = 0
    for chunk in own_images.native_chunks(config.data, wanted, data_dir):
        names = [str(example['id']) for example in chunk]
        learned = set()
        for network in seen:
            learned.update(network.among(names, space))
        unseen = [example for example in chunk if str(example['id']) not in learned]
        left_out += len(learned)
        for example in records.apply_stages(unseen, steps):
            if example is not None:
                found = known.find(str(example['id']), example['image'].shape[:2])
                rows.append(measure(example, found))
                shown.append(_picture(example, found))
    if not rows:
        raise ConfigError(
            f'none of the {len(wanted)} images of {", ".join(map(str, truth))} is to be checked in '
            f'the source ({left_out} were seen in training); look at data.source and data.folder'
        )
    if len(rows[0]) == 1:
        raise ConfigError(
            f'data.stages={tuple(config.data.stages)}: nothing in them finds a mask or key points'
        )
    report = {
        'images': len(rows),
        'left_out_as_seen': left_out,
        'stages': [step.described for step in steps],
        'truth': [str(file) for file in truth],
        'overall': summary(rows),
        **workdir.provenance(),
    }
    output.mkdir(parents=True, exist_ok=True)
    files.write_rows(output / 'hands.csv', list(rows[0]), rows)
    figures.hands([row['id'] for row in rows], shown, _badness(rows), output / 'sheet.png')
    files.write_json(output / 'metrics.json', report)
    _log(report, output)
    return report


@dataclasses.dataclass(frozen=True)
class _Truth:
    """The ids that are annotated, and `find(id, shape of the image) -> what is known of it`."""

    names: Collection[str]
    find: Callable[[str, tuple[int, int]], dict]


def _truth(truth, data_dir):
    places = [plan.find_path(place, data_dir, '--truth') for place in truth]
    if len(places) == 1 and places[0].is_dir():
        drawn = mask_files.read(places[0])

        def find_mask(name, shape):
            return {'hand_mask': resize.resize_mask(drawn[name](), shape)}

        return _Truth(drawn, find_mask)

    def find_points(name, shape):
        return annotations.annotation(name, shape, places)

    return _Truth(annotations.names(places), find_points)


def _log(report, output):
    log.info(
        f'{report["images"]} images ({report["left_out_as_seen"]} left out: seen in training); '
        'means, 95% intervals:'
    )
    for name, found in report['overall'].items():
        line = f'  {name:28} {found["value"]:8.3f}  ({found["lower"]:.3f} to {found["upper"]:.3f})'
        if 'median' in found:
            line += f'; median {found["median"]:.2f}, 90% {found["p90"]:.2f}'
        log.info(line)
    log.info(f'{output}/sheet.png: the worst and a sample')


def seen_by(place: pathlib.Path | str) -> id_spaces.IdSet | training_ids.ExportedIds:
    """The images that a network was trained on or selected by.

    Args:
        place: the network: a workdir, an exported file, or the name of a shipped one.
    """
    return training_ids.of(place, ('train', splits.SELECTING))


def _picture(example, truth):
    return figures.hand(
        example['image'],
        example.get('hand_mask'),
        example.get('keypoints'),
        truth.get('keypoints'),
    )


def measure(example: dict, truth: dict) -> dict:
    """One image's figures, `{'id', ...}`. Lengths in % are of the true hand's.

    Args:
        example: with `image`, `id` and what the stages found.
        truth: as `annotations.annotation` gives it, or `hand_mask` [H, W] alone.

    Returns:
        Where a mask is the truth: `iou`, `dice` and `agreeable` (to the rules of `mask_checks`).
        Else with a mask: `inside`, `near` (all annotated points in it, or within 1%), `tip_beyond`
        and `thumb_beyond` (how far the tips are outside it, below 0 inside), `holds` (the capitate
        in it, both tips in it or within 2%), `points_outside`, `area`, `box_iou` where a
        box was annotated, `agreeable`.
        With key points: `error_percent` and its parts, `error_pixels` of 2080x1600. With either:
        where the registration takes the true points (`tip_off`, `capitate_off` in registered
        pixels, `within`), `registered` (by what), `doubts`, `flags`.
    """
    row = {'id': str(example['id'])}
    if 'hand_mask' in truth:
        if 'hand_mask' not in example:
            return row
        return row | _overlap(example['hand_mask'] > 0, truth['hand_mask'] > 0)
    points = np.asarray(truth['points'], np.float64)
    points = points[np.isfinite(points).all(1)]
    tip, _, capitate = np.asarray(truth['keypoints'], np.float64)
    length = np.hypot(*(tip - capitate))
    if 'hand_mask' in example:
        mask = example['hand_mask'] > 0
        row |= _mask_figures(mask, points, truth['box'], NEAR * length)
        row |= _points_at_skin(mask, truth['keypoints'], length)
    if 'keypoints' in example:
        row |= _point_figures(example, truth['keypoints'])
    if len(row) > 1:
        transform, found = registration.find_transform(example)
        tip_off = np.hypot(*(transforms.apply(transform, tip) - np.array(register.TIP)))
        capitate_off = np.hypot(
            *(transforms.apply(transform, capitate) - np.array(register.CAPITATE))
        )
        row['tip_off'] = float(tip_off)
        row['capitate_off'] = float(capitate_off)
        row['within'] = row['tip_off'] <= TIP_WITHIN and row['capitate_off'] <= CAPITATE_WITHIN
        row['registered'] = found['registered']
        row['doubts'] = found['doubts']
        row['flags'] = str(example.get('flags', ''))
    return row


def _mask_figures(mask, points, box, near):
    """The figures of a mask, bool [H, W]; `near` in pixels."""
    places = np.clip(np.round(points).astype(int), 0, np.array(mask.shape) - 1)
    inside = mask[places[:, 0], places[:, 1]]
    pixels = np.argwhere(mask)
    row = {
        'inside': bool(inside.all()),
        'near': all(_distance(pixels, point) <= near + 0.5 for point in points[~inside]),
        'points_outside': int((~inside).sum()),
        'area': float(mask.mean()),
    }
    if box is not None:
        row['box_iou'] = _box_iou(hand_mask.bounds(mask), box) if len(pixels) else 0.0
    row['agreeable'] = not mask_checks.violations(mask)
    return row


def _overlap(mask, drawn):
    """The figures of a mask, bool [H, W], beside a drawn one."""
    iou = mask_checks.iou(mask, drawn)
    return {
        'iou': iou,
        'dice': 2 * iou / (1 + iou),
        'agreeable': not mask_checks.violations(mask),
    }


def _points_at_skin(mask, keypoints, length):
    """How far the tips are outside the mask, in % of the hand's length, and whether it `holds`.

    Inside they are below 0. Half a pixel is given, for a point is in a pixel's middle at best.
    """
    if not mask.any():
        return {'tip_beyond': 100.0, 'thumb_beyond': 100.0, 'holds': False}
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    signed = np.where(mask, 0.5 - inside, outside - 0.5)
    places = np.asarray(keypoints, np.float64).T
    tip, thumb, capitate = ndimage.map_coordinates(signed, places, order=1, mode='nearest')
    tip_beyond = 100 * tip / length
    thumb_beyond = 100 * thumb / length
    limit = 100 * (TIP_NEAR + 0.5 / length)
    return {
        'tip_beyond': float(tip_beyond),
        'thumb_beyond': float(thumb_beyond),
        'holds': bool(max(tip_beyond, thumb_beyond) <= limit and capitate <= 0),
    }


def _distance(pixels, point):
    """From a point to the nearest of the pixels [N, 2]; infinite where there are none."""
    if not len(pixels):
        return np.inf
    return np.sqrt(np.square(pixels - point).sum(1).min())


def _box_iou(a, b):
    low = np.maximum(a[:2], b[:2])
    high = np.minimum(a[2:], b[2:])
    both = np.prod(np.maximum(np.subtract(high, low), 0))
    areas = [np.prod(np.subtract(box[2:], box[:2])) for box in (a, b)]
    return float(both / (sum(areas) - both))


def _point_figures(example, truth):
    """The errors of three key points; one that was not found misses by the hand's length."""
    errors = keypoints.errors(example['keypoints'], truth, example['image'].shape[:2])
    percent = np.nan_to_num(np.asarray(errors['percent']), nan=100.0)
    pixels = np.nan_to_num(np.asarray(errors['pixels']), nan=min(keypoints.PADDED) / 2)
    row = {'error_percent': float(percent.mean()), 'error_pixels': float(pixels.mean())}
    for name, value in zip(keypoints.NAMES, percent):
        row[f'error_percent_{name}'] = float(value)
    return row


def summary(rows: list[dict]) -> dict[str, dict]:
    """Means of every numeric column with intervals, and how images were registered.

    Errors and offsets have their medians and 90th percentiles too.
    """
    columns = {}
    for name, value in rows[0].items():
        if isinstance(value, (bool, int, float)):
            columns[name] = np.array([row[name] for row in rows], np.float64)
    numeric = list(columns)
    for way in sorted({row['registered'] for row in rows if 'registered' in row}):
        by = np.array([row['registered'] == way for row in rows], np.float64)
        columns[f'registered_by_{way}'] = by
    if 'tip_off' in numeric:
        columns[f'tip_within_{TIP_WITHIN}'] = columns['tip_off'] <= TIP_WITHIN
        columns[f'capitate_within_{CAPITATE_WITHIN}'] = columns['capitate_off'] <= CAPITATE_WITHIN
    report = metrics.intervals(columns)
    for name in numeric:
        if name.startswith('error') or name.endswith(('_off', '_beyond')):
            report[name]['median'] = float(np.median(columns[name]))
            report[name]['p90'] = float(np.percentile(columns[name], 90))
    return report


def _badness(rows):
    """What the sheet sorts by: how wrong each image came out."""
    bad = []
    for row in rows:
        error = row.get('error_percent', 0) + 100 * (1 - row.get('iou', 1))
        bad.append(error + 10 * row.get('points_outside', 0) + row.get('tip_off', 0) / 15)
    return bad
