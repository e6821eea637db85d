r"""Export the trained network of a run as one file.

    python -m boneage_jax.export --workdir=runs/a --output=a.safetensors
    python -m boneage_jax.export --workdir=runs/a --output=a.safetensors --dtype=float16 \
        --about=about.json

The file holds the best parameters and the batch statistics under our names, and in its metadata all
that it takes to use the network: it opens like a run. `predict`, `score` and `calibrate` take it as
`--workdir`, a stage takes it as `data.stage_options.STAGE.run`, and `init_from=a.safetensors`
starts another run from it, bit for bit where it is float32. The metadata holds the run's
config.json and task.json, the commit and the version, figures (those of the run's metrics.json, or
FILE of --figures), what --about says, and hashes of the training images' ids, so that a run that
holds out some of these images refuses to start from it. Of absolute paths in the configuration the
last name alone is kept.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.path('workdir', None, 'folder of the run', required=True)
FLAGS.path('output', None, 'file to write, NAME.safetensors', required=True)
FLAGS.choice(
    'dtype',
    'float32',
    ['float32', 'float16'],
    'of the exported parameters; float16 is half as large, what does not fit it stays float32',
)
FLAGS.path('figures', None, "JSON file with figures, instead of those of the run's metrics.json")
FLAGS.path('about', None, 'JSON file with what else is to be known: its data, terms, description')


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.runs import export

    export.export(
        values.workdir,
        values.output,
        dtype=values.dtype,
        figures=values.figures,
        about=values.about,
    )


if __name__ == '__main__':
    cli.run(main)
