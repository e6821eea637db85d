r"""Average the predictions of several finished runs, image by image.

    python -m boneage_jax.ensemble --workdirs=runs/full/seed0,runs/full/seed1 \
        --output=runs/full_mean
    python -m boneage_jax.ensemble --workdirs='runs/full/seed*' --output=runs/full_mean

OUTPUT reads like a run's workdir: predictions.csv, metrics.json (with the members, and the label
fingerprints and the leak check on which they agree), splits.json, figures/. Beside them is the
correlation of the members' errors on each reported split (CSV and figure): where it is high,
averaging gains little. Members count alike. No weight is fitted, so none can be fitted on images
that are reported. Networks of one sex (`data.sex`) join: an image gets the mean of the members that
predict it, and all members of a sex must predict the same images of it. Members that predict other
images, or were trained on images reported here, are refused.

The runs of all folds of a cross-validation (`data.folds`) become one: OUTPUT has each image of the
split `fold` as the runs that held it out predict it, and the mean of all on holdout or test.
"""

import pathlib

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.paths(
    'workdirs',
    None,
    'workdirs of finished runs, comma-separated; globs are expanded',
    required=True,
)
FLAGS.path('output', None, 'folder of the ensemble, made where it is missing', required=True)
FLAGS.boolean('overwrite', False, 'replace an ensemble that is there')


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import cross_validation, ensemble

    cli.refuse_results(
        pathlib.Path(values.output),
        'metrics.json',
        'predictions.csv',
        'splits.json',
        overwrite=values.overwrite,
    )
    workdirs = ensemble.expand(values.workdirs)
    if cross_validation.members(workdirs):
        cross_validation.write(workdirs, values.output)
    else:
        ensemble.write(workdirs, values.output)


if __name__ == '__main__':
    cli.run(main)
