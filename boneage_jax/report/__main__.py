"""One self-contained HTML page over any set of runs.

    python -m boneage_jax.report --workdir=runs/prsnet --output=report.html
    python -m boneage_jax.report --workdir=runs/prsnet,runs/masks --output=report.html --title=Ours
    python -m boneage_jax.report --workdir=ages.csv --output=report.html

It shows tables, curves, errors by group, the worst images and how the runs were made. It takes
workdirs of any task, folders of sweeps, ensembles, scores, and what `interpret`, `embeddings`,
`robustness` and `compare_classes` left, however deep below the folders. Of a table that `predict`
wrote it shows the flags, the images without an age, and the interval of each image. Figures come
from metrics.json, predictions.csv and table.csv. What an older release left out is computed by the
same functions, and the page says so. It opens from disk without a network and prints.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.paths(
    'workdir',
    None,
    'folders of runs, sweeps and results, tables of predict; comma-separated, globs are expanded',
    required=True,
)
FLAGS.path('output', None, 'the page to write, NAME.html', required=True)
FLAGS.string('title', '', 'heading of the page')
FLAGS.boolean('images', True, 'pictures of the images that went worst (their terms of use apply)')
FLAGS.data_dir()


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import ensemble
    from boneage_jax.report import page

    page.write(
        ensemble.expand(values.workdir),
        values.output,
        title=values.title,
        data_dir=values.data_dir,
        images=values.images,
    )


if __name__ == '__main__':
    cli.run(main)
