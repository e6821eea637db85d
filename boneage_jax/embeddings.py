r"""Draw a run's embeddings by t-SNE, and measure how they follow age.

    python -m boneage_jax.embeddings --workdir=RUN --output=tsne
    python -m boneage_jax.embeddings --output=tsne \
        --workdir=runs/male-plain/seed0,runs/male-triplet/seed0

Bae 2018, figure 3: one picture, `tsne.png`, a column for each sex, a panel for each run, ages in
colour. `distance_age_correlation.json`: the Spearman correlation of the pairwise distances of
embeddings with the absolute differences of age, of all images and of each sex, with a 95% bootstrap
interval over images. It is 0 where embeddings say nothing of age, and 1 where they are in its
order. `tsne.csv` holds the points. Any run whose network gives embeddings will do, also those of
configs/prsnet.py. The split is not selected on; the default is what the runs report.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.paths('workdir', None, f'one or several, comma-separated: {cli.NETWORK}', required=True)
FLAGS.path('output', None, 'folder for the picture and the figures', required=True)
FLAGS.string('split', '', 'whose images; default: test, or holdout where there is none')
FLAGS.integer('seed', 0, 'of the t-SNE')
FLAGS.data_dir()


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import embeddings

    embeddings.embeddings(
        values.workdir,
        values.output,
        split=values.split,
        seed=values.seed,
        data_dir=values.data_dir,
    )


if __name__ == '__main__':
    cli.run(main)
