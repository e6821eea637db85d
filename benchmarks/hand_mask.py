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
from boneage_jax.preprocess import contrast, enhance, hand_mask, regions, register
from boneage_jax.stages import plan, records
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

    def extract(data):
        example = hand_mask.mask_stage({'image': decoding.decode(data)}, on_doubt='whole')
        return hand_mask.crop_stage(contrast.contrast_stage(example))

    tasks = [
        ('decode, mask, contrast, crop: native', extract, encoded),
        ('mask: native', hand_mask.classical, native),
        (f'mask: {arguments.side} px', hand_mask.classical, small),
        ('contrast: native', contrast.contrast_stage, masked),
        (f'enhancement: {arguments.side} px', enhance.enhance, small),
        (
            'snap: native',
            lambda example: hand_mask.snapped(example, example > example.mean()),
            native,
        ),
        ('register to 2080x1600: native', register.register_stage, masked),
        (
            'region A, 500x375: native',
            lambda example: regions.region_stage(example, region='A'),
            masked,
        ),
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
