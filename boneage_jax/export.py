"""Export the trained network of a run as one file.

    python -m boneage_jax.export --workdir=runs/a --output=a.safetensors

The file holds the best parameters and the batch statistics under our names.
`--config=...:init_from=a.safetensors` starts another run from it, bit for bit, and
`models.pretrained.load(model, 'a.safetensors')` fills a network of the same configuration. Its
metadata holds `config` and `task` (the run's config.json and task.json), `step`, and `trained_on`:
hashes of the training images' ids, so that a run that holds out some of these images refuses to
start from it.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.path('workdir', None, 'folder of the run', required=True)
FLAGS.path('output', None, 'file to write, NAME.safetensors', required=True)


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.runs import export

    export.export(values.workdir, values.output)


if __name__ == '__main__':
    cli.run(main)
