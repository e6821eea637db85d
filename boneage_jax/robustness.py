r"""Measure how the error grows on turned, darker, marked or coarser images.

    python -m boneage_jax.robustness --workdir=runs/a --output=runs/a/robustness
    python -m boneage_jax.robustness --workdir=runs/a --output=runs/a/robustness --images=300 \
        --split=holdout

Images are turned, mirrored, made darker, flatter, inverted, marked, coarser and saved as JPEG. Each
disturbance is done to the prepared images, as the network sees them, and rounded to 8 bits as a
file would be: what `data.stages` would have mended before (a mask, a registration) is not tried.
`robustness.csv` holds, for each kind and strength, the MAE and its paired difference to the
untouched images, with 95% intervals; `robustness.png` draws them. Nothing is random. The default is
the validation split; holdout and test are for a figure that is reported once.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.network()
FLAGS.path('output', None, 'folder for the results', required=True)
FLAGS.string('split', 'validation', 'whose images')
FLAGS.integer('images', 0, 'how many images, evenly spaced by age; 0 = all', lower_bound=0)
FLAGS.data_dir()


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import robustness

    robustness.measure_robustness(
        values.workdir,
        values.output,
        split=values.split,
        count=values.images,
        data_dir=values.data_dir,
    )


if __name__ == '__main__':
    cli.run(main)
