r"""Score a finished run on the images of another config.

    python -m boneage_jax.score --workdir=runs/points --config=configs/keypoints.py:annotated \
        --output=scores/points

The images are the config's validation, holdout and test splits. They are prepared as CONFIG says,
at the size that the run was trained at; the network, its task and the numbers fitted on its
training images are the run's. OUTPUT gets predictions.csv, metrics.json and figures, like a run's
own. Nothing is selected here. Images that the run was trained on are refused.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config('path[:arg] of the config whose images to score')
FLAGS.network()
FLAGS.path('output', None, 'folder for the results', required=True)
FLAGS.data_dir()


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    from boneage_jax.analysis import score

    score.score(values.workdir, config, values.output, values.data_dir)


if __name__ == '__main__':
    cli.run(main)
