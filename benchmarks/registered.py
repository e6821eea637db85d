"""Hands that others registered: where our key points lie on them, beside where they belong.

    python -m benchmarks.registered --images $BONEAGE_DATA/rsna_registered

Iglovikov's team put the middle fingertip at row 100 and the capitate at row 1,600 of images of
2080x1600, both in column 800. The network that comes with the code looks for both on these images.
Distances to where they belong are in pixels of 2080x1600: the nearest image and the median. The
last line is the angle of the line between both to the column.
"""

import numpy as np

from benchmarks import image_files, machine, report
from boneage_jax import config
from boneage_jax.preprocess import register, transform
from boneage_jax.stages import plan, records
from tfds_rsna.io import decoding

_WANTED = {'middle fingertip': (0, register.TIP), 'capitate': (2, register.CAPITATE)}


def main(argv=None):
    parser = report.parser('registered', __doc__)
    image_files.argument(parser)
    arguments = parser.parse_args(argv)
    paths = image_files.find(arguments.images)
    facts = machine.facts()
    _, settings = config.load('configs/regions.py')
    settings.data.stages = ('keypoints',)
    examples = []
    for path in paths:
        examples.append({'id': path.stem, 'image': decoding.decode(path.read_bytes())})
    found = []
    for example in records.apply_stages(examples, plan.make_plan(settings.data)):
        onto = transform.fit(example['image'].shape[:2], register.SIZE)
        found.append(transform.apply(onto, example['keypoints']))
    points = np.stack(found).astype(np.float64)
    seen = ~np.isnan(points).any((1, 2))
    points = points[seen]
    rows = []
    for name, (index, wanted) in _WANTED.items():
        apart = points[:, index] - np.array(wanted)
        distance = np.hypot(*apart.T)
        down, right = np.median(apart, axis=0)
        note = f'median {down:+.1f} rows, {right:+.1f} columns; farthest {distance.max():.0f}'
        rows.append(report.row(name, distance, 'pixels', note=note, smaller=True))
    axis = points[:, 2] - points[:, 0]
    turned = np.abs(np.degrees(np.arctan2(axis[:, 1], axis[:, 0])))
    note = f'points found on {seen.sum()} of {len(seen)} images'
    rows.append(report.row('turned', turned, 'degrees', note=note, smaller=True))
    return report.finish('registered', arguments, facts, rows)


if __name__ == '__main__':
    main()
