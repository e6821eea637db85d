"""A network on the larger copies of images, and on the same images coarse: the paired difference.

    python -m benchmarks.better_copies --data $BONEAGE_DATA --split holdout

The images are those of the network's own configuration that `data.better_copies` has larger copies
of (92 of the holdout with `rsna100` and `rsna_half`). Both are prepared at the network's size:
from the copy, and from the image of 100x100 pixels with its aspect restored.
"""

import copy
import pathlib

import numpy as np

from benchmarks import machine, report
from boneage_jax.analysis import own_images
from boneage_jax.runs.predictor import Predictor
from boneage_jax.tasks import metrics
from tfds_rsna import better_copies
from tfds_rsna.errors import UserError
from tfds_rsna.io.archive import Archive


def main(argv=None):
    parser = report.parser('better_copies', __doc__)
    parser.add_argument('--data', type=pathlib.Path, required=True, help='$BONEAGE_DATA')
    parser.add_argument('--network', default='bone_age', help='workdir, file or shipped name')
    parser.add_argument('--split', default='validation', help='whose images')
    arguments = parser.parse_args(argv)
    predictor = Predictor(arguments.network)
    folders = [arguments.data / name for name in predictor.config.data.better_copies]
    if not folders:
        raise UserError(f'{arguments.network}: its configuration has no data.better_copies')
    with Archive(listing=True) as archive:
        ids = set(better_copies.find(archive, folders))
    fine = _errors(predictor, arguments, predictor.config, ids)
    config = copy.deepcopy(predictor.config)
    with config.unlocked():
        config.data.better_copies = ()
    coarse = _errors(predictor, arguments, config, ids)
    if fine.keys() != coarse.keys():
        raise UserError('the two ways of preparing have other images: is a folder incomplete?')
    of_fine = np.array([fine[image] for image in sorted(fine)])
    of_coarse = np.array([coarse[image] for image in sorted(fine)])
    rows = []
    for name, errors in (('larger copies', of_fine), ('coarse', of_coarse)):
        mean = float(np.abs(errors).mean())
        lower, upper = metrics.bootstrap(np.abs(errors))
        note = f'95% interval {lower:.2f} to {upper:.2f}; {len(errors)} images'
        rows.append(
            report.row(f'MAE, {name}', [mean], 'months', note=note, lower=lower, upper=upper)
        )
    delta, lower, upper = metrics.paired_difference(of_fine, of_coarse)
    note = f'95% interval {lower:+.2f} to {upper:+.2f}'
    rows.append(
        report.row('larger minus coarse', [delta], 'months', note=note, lower=lower, upper=upper)
    )
    return report.finish('better_copies', arguments, machine.facts(), rows)


def _errors(predictor, arguments, config, ids):
    """`{id: months predicted minus months}` of the images of a split that are in `ids`."""
    split = own_images.open_splits(arguments.network, config, str(arguments.data))[arguments.split]
    places = np.array([place for place, name in enumerate(split.ids) if name in ids])
    prediction, _ = predictor.predict_tta(split.arrays(places)['image'], split.male[places])
    errors = np.asarray(predictor.task.months(prediction)) - split.months[places]
    return dict(zip((split.ids[place] for place in places), errors.tolist(), strict=True))


if __name__ == '__main__':
    main()
