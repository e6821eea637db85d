r"""Predict the ages of image files, with 90% intervals and pictures.

    python -m boneage_jax.predict --input=hand.png --sex=female
    python -m boneage_jax.predict --workdir=runs/a --input=images/ --labels=images.csv \
        --output=ages.csv --overlays=ages/
    python -m boneage_jax.predict --workdir=runs/a --input=1377.png --sex=female --output=1377.csv

Without --workdir the network that comes with the code predicts (docs/model_card.md), for research;
it is no medical device. Without --output ages are printed alone.

Images (PNG, JPEG, TIFF, BMP, DICOM; a file, a folder, a zip) are prepared as the run's own were.
OUTPUT holds `id,file,male,prediction,years,lower,upper,status,flags[,age]` with ages in months; of
a classifier also the class, its months and the probabilities; of a network that predicts a
distribution its deviation `spread`, with which intervals may grow; with --distance also
`distance_quantile`, how far the image is from the training images: 1 is farther than each of these
is from the others, and such an age means little. `flags` names what is doubtful about
an image: how it was decoded (`window_ignored`) or prepared (`mask_doubtful`), and what was put
right (`inverted`: bones were dark; `turned_90`, `turned_180`, `turned_270`: degrees against the
clock).
What shows no hand is refused: its row has `status` refused and no age; --accept_all predicts it all
the same. An image that cannot be read, is blank or that a stage refuses has no row. Neither stops
the others: they are listed in `..._rejected.csv` beside OUTPUT, and the exit status is 1.

Several workdirs give the mean of their ages, as `--workdir='runs/cv/full/seed0/fold*'` for the
folds of a cross-validation. Intervals are then from the errors of all folds' unseen images.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.networks()
FLAGS.path('input', None, 'an image, a folder of images, or a zip of them', required=True)
FLAGS.path('output', None, 'CSV to write; without it ages are printed alone')
FLAGS.path('labels', None, 'CSV or xlsx with the sex and, where known, the age of each image')
FLAGS.string('sex', None, 'male or female: of the images whose sex --labels does not give')
FLAGS.path(
    'overlays',
    None,
    'folder for a picture of each image with its age, parts, relation or attention maps',
)
FLAGS.path('calibration', None, "a site's calibration, as boneage_jax.calibrate writes it")
FLAGS.boolean('distance', False, 'a column with how far each image is from the training images')
FLAGS.boolean('accept_all', False, 'predict what shows no hand too')
FLAGS.boolean('overwrite', False, 'replace an output that exists')
FLAGS.integer('batch_size', 0, 'images at once; 0 = as in training', lower_bound=0)
FLAGS.labels()


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import ensemble
    from boneage_jax.inference import predict

    with cli.label_options(values) as options:
        predict.predict(
            ensemble.expand(values.workdir) if values.workdir else None,
            values.input,
            values.output,
            labels=values.labels,
            sex=values.sex,
            overlays=values.overlays,
            overwrite=values.overwrite,
            batch_size=values.batch_size,
            calibration=values.calibration,
            distance=values.distance,
            accept_all=values.accept_all,
            **options,
        )


if __name__ == '__main__':
    cli.run(main)
