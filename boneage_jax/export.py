r"""Export a trained network as one file, or as a folder for a model hub.

    python -m boneage_jax.export --workdir=runs/a --output=a.safetensors
    python -m boneage_jax.export --workdir=bone_age --format=onnx --output=bone_age.onnx
    python -m boneage_jax.export --workdir=runs/a --hub=hub/a
    python -m boneage_jax.export --workdir=runs/a --output=a.safetensors --dtype=float16 \
        --about=about.json --measure_rounding

The file holds the best parameters and the batch statistics under our names, and in its metadata all
that it takes to use the network: it opens like a run. `predict`, `score`, `calibrate`, `interpret`,
`robustness` and `embeddings` take it as `--workdir`, a stage takes it as
`data.stage_options.STAGE.run`, and `init_from=a.safetensors` starts another run from it, bit for
bit where it is float32. The metadata holds the run's config.json and task.json, the commit and the
version, the intervals of its ages, figures (those of the run's metrics.json, or FILE of --figures),
what --about says, and hashes of the training images' ids, so that a run that holds out some of
these images refuses to start from it. Of absolute paths in the configuration the last name alone is
kept. A network that a stage asks must come with the code; one of your own is refused.

Where the run's images are prepared on this machine, a network that predicts ages takes their
reduced embeddings along (at most 1 MB), by which `predict --distance` tells how far an image is
from all of them. --measure_rounding keeps in the figures what float16 costs in months.

`--format=onnx` and `--format=stablehlo` write a network of ages that runs without this package, in
onnxruntime or in JAX alone: from a native grey image and the sex to the age and its interval.
docs/guide.md has what is in the file and what is not. `--hub` writes a folder as model hubs expect:
`init_from=hf:FOLDER` and `predict --workdir=hf:FOLDER` read it.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.path(
    'workdir',
    None,
    'folder of the run; for other formats and a hub also an exported file or a shipped name',
    required=True,
)
FLAGS.path('output', None, 'file to write: NAME.safetensors, NAME.stablehlo or NAME.onnx')
FLAGS.choice(
    'format',
    'safetensors',
    ['safetensors', 'stablehlo', 'onnx'],
    'of what is written; the last two run without this package',
)
FLAGS.path('hub', None, 'folder to write in the place of --output, as a model hub expects it')
FLAGS.choice(
    'dtype',
    'float32',
    ['float32', 'float16'],
    'of the exported parameters; float16 is half as large, what does not fit it stays float32',
)
FLAGS.path('figures', None, "JSON file with figures, instead of those of the run's metrics.json")
FLAGS.path('about', None, 'JSON file with what else is to be known: its data, terms, description')
FLAGS.boolean('embeddings', True, "keep the training images' reduced embeddings; takes a pass")
FLAGS.boolean('measure_rounding', False, 'keep what float16 costs in months; takes a pass')
FLAGS.number('max_megabytes', 0.0, 'refuse to write a larger file; 0 = any size', lower_bound=0.0)
FLAGS.data_dir()


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.inference import export

    export.export(
        values.workdir,
        values.output,
        format_name=values.format,
        hub=values.hub,
        dtype=values.dtype,
        figures=values.figures,
        about=values.about,
        embeddings=values.embeddings,
        measure_rounding=values.measure_rounding,
        max_megabytes=values.max_megabytes,
        data_dir=values.data_dir,
    )


if __name__ == '__main__':
    cli.run(main)
