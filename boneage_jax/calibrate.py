r"""Calibrate a run to a site's own readings, by a straight line for each sex.

    python -m boneage_jax.calibrate --workdir=runs/a --input=images/ --labels=site.csv \
        --output=site.json
    python -m boneage_jax.calibrate --workdir=runs/a --predictions=ages.csv --output=site.json

`predict --calibration=site.json` takes OUTPUT. Beside it `site_images.csv` holds every image before
and after, the latter by the line of all other images. Images come as files with a table of sexes
and ages, or as the CSV of `predict` or `score` with ages in it. Images of a split that this project
reports (holdout, test) are refused: what is calibrated on them cannot be measured on them. A sex
needs 20 images.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.network()
FLAGS.path('output', None, 'the calibration to write, NAME.json', required=True)
FLAGS.path('input', None, "the site's images: a folder or a zip")
FLAGS.path('labels', None, 'CSV or xlsx with the sex and age of each image')
FLAGS.path('predictions', None, 'instead: the CSV of predict or score, with ages')
FLAGS.string('split', 'validation', 'of --predictions with a column split: the images that count')
FLAGS.string('sex', None, 'male or female: of the images whose sex --labels does not give')
FLAGS.boolean('overwrite', False, 'replace an output that exists')
FLAGS.labels()


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.inference import calibrate

    with cli.label_options(values) as options:
        calibrate.calibrate(
            values.workdir,
            values.output,
            place=values.input,
            labels=values.labels,
            predictions=values.predictions,
            split=values.split,
            overwrite=values.overwrite,
            sex=values.sex,
            **options,
        )


if __name__ == '__main__':
    cli.run(main)
