"""The stages of the hands: images a second on one core, and minutes for 12,611 on two.

    python -m benchmarks.hand_mask --images $BONEAGE_DATA/rsna_native --masks runs/unet \
        --points runs/points

Images are decoded and worked on one after the other in one process; stages run on images in
parallel, so two cores take half the time. Real images are needed: doubtful ones are looked at
twice.
"""

import functools
import time

import numpy as np
from PIL import Image

from benchmarks import image_files, machine, report
from boneage_jax import config
from boneage_jax.preprocess import hand_mask
from boneage_jax.stages import catalog, plan, records
from tfds_rsna.io import decoding

_RSNA = 12_611


def main(argv=None):
    parser = report.parser('hand_mask', __doc__)
    image_files.argument(parser)
    parser.add_argument(
        '--side', type=int, default=512, help='the longer side of the smaller images'
    )
    parser.add_argument(
        '--masks',
        default='',
        help='a finished run of configs/unet.py: the stage unet is measured too',
    )
    parser.add_argument(
        '--points',
        default='',
        help='a finished run of configs/keypoints.py: keypoints and refine too',
    )
    parser.set_defaults(repeats=3)
    arguments = parser.parse_args(argv)
    paths = image_files.find(arguments.images)
    facts = machine.facts()
    encoded = [path.read_bytes() for path in paths]
    native = [decoding.decode(data) for data in encoded]
    small = [_at(example, arguments.side) for example in native]
    masked = [{'image': example, 'hand_mask': np.ones_like(example)} for example in native]

    extraction = _steps('mask,contrast,crop', 'data.stage_options.mask.on_doubt=whole')
    snap = catalog.STAGES['snap'].options

    def extract(data):
        return plan.apply_steps({'image': decoding.decode(data)}, extraction)

    tasks = [
        ('decode, mask, contrast, crop: native', extract, encoded),
        ('mask: native', hand_mask.classical, native),
        (f'mask: {arguments.side} px', hand_mask.classical, small),
        ('contrast: native', functools.partial(_through, _steps('contrast')), masked),
        (
            f'enhancement: {arguments.side} px',
            functools.partial(_through, _steps('enhance')),
            [{'image': example} for example in small],
        ),
        (
            'snap: native',
            lambda example: hand_mask.snapped(example, example > example.mean(), **snap),
            native,
        ),
        (
            'register to 2080x1600: native',
            functools.partial(_through, _steps('register')),
            masked,
        ),
        ('region A, 500x375: native', functools.partial(_through, _steps('region')), masked),
    ]
    tasks += [
        (f'{name}: native', functools.partial(_through, step), masked)
        for name, step in _networks(arguments)
    ]
    return report.finish(
        'hand_mask',
        arguments,
        facts,
        [_row(what, do, given, arguments.repeats) for what, do, given in tasks],
    )


def _steps(stages, *more):
    """The plan of stages with their default options, but for `more`, as 'key=value'."""
    arg = ','.join([f'stages=({stages})', *more])
    return plan.make_plan(config.build(config.base(), arg, {}).data)


def _networks(arguments):
    """(name, [steps]) of the stages whose networks are given; a second look needs the first one's
    points.
    """
    runs = {'unet': arguments.masks, 'keypoints': arguments.points, 'refine': arguments.points}
    for name, run in runs.items():
        if run:
            before = ('keypoints',) if name == 'refine' else ()
            data = config.build(config.base(), f'stages=({",".join((*before, name))},)', {}).data
            with data.unlocked():
                for stage in (*before, name):
                    data.stage_options[stage].run = run
            yield ' and '.join((*before, name)), plan.make_plan(data)


def _through(steps, example):
    return records.apply_stages([example | {'id': 'image'}], steps)


def _at(example, side):
    factor = side / max(example.shape)
    return np.asarray(
        Image.fromarray(example).resize(
            [max(16, round(n * factor)) for n in example.shape[::-1]], Image.Resampling.BILINEAR
        )
    )


def _row(what, do, given, repeats):
    """Images a second by the clock; the note has the processor's time, which other work on the
    machine hardly changes.
    """
    spent = time.process_time()
    values = machine.rates(lambda: [do(one) for one in given], len(given), repeats)
    spent = (time.process_time() - spent) / repeats / len(given)
    return report.row(
        what,
        values,
        'images/s',
        processor_seconds=spent,
        images=len(given),
        note=f'{1000 * spent:.0f} ms of one core; '
        f'{_RSNA * spent / 120:.0f} min for {_RSNA:,} images on 2 cores',
    )


if __name__ == '__main__':
    main()
