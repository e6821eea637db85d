"""What a run's embedding knows of age: its t-SNE in colour, and how far distances follow ages (Bae
2018, figure 3).

    python -m boneage_jax.embeddings --workdir=RUN --output=tsne
    python -m boneage_jax.embeddings --workdir=runs/male-plain/seed0,runs/male-triplet/seed0 --output=tsne

One picture, `tsne.png`, a column for each sex, a panel for each run. `orderedness.json`: the
Spearman correlation of the pairwise distances of embeddings with the absolute differences of age,
of all images and of each sex, with a 95% bootstrap interval over images; 0 where embeddings know
nothing of age, 1 where they lie in its order. `tsne.csv` holds the points. Any run whose network
gives embeddings will do, configs/prsnet.py's too. The split is not selected on; the default is what
the runs report.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.strings('workdir', None, 'folders of finished runs, comma-separated', required=True)
FLAGS.string('output', None, 'folder for the picture and the figures', required=True)
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
