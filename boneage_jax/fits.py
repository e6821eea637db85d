"""Whether a run fits an accelerator, compiled for it on a machine that has none.

    python -m boneage_jax.fits --config=configs/prsnet.py --target=h100
    python -m boneage_jax.fits --config=configs/prsnet.py:sharding=fsdp --target=v5e:2x4

Targets: a100-40, a100-80, h100, h200, b200, l4, v5e, v5p, v6e; several as h100:8, v5e:8, v5e:2x4.

XLA's compilers for NVIDIA GPUs and TPUs run without the device. This compiles the run's own
training step, its evaluation step and the prediction of one image, and prints of each: the memory
(what stays, what is given, what is needed meanwhile) beside the device's, whether it fits,
operations, bytes moved, who computes the convolutions and in which type, what is kept in float32,
copies, what is sent between devices, and the least time that the device's limits allow. With up to
four more compiles it finds the largest batch that fits. --output keeps all of it as JSON.

Nothing is run: every figure is a compiler's, or arithmetic on one. A GPU program compiles in about
half a minute on a quiet machine, a TPU program in some minutes. The compilers are wheels of their
own (requirements-aot.lock, Python 3.12 or 3.13), for which this makes an environment:

    launch/run.sh boneage_jax.fits --config=configs/prsnet.py --target=h100
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config()
FLAGS.string('target', None, 'accelerator to compile for, as h100, h100:8, v5e:2x4', required=True)
FLAGS.integer('images', 12611, 'training images that a device would keep', lower_bound=1)
FLAGS.boolean('largest', True, 'look for the largest batch that fits, by up to four more compiles')
FLAGS.path('output', None, 'JSON file to write')
FLAGS.path('hlo', None, "folder for the compiled programs' HLO")


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    import jax

    jax.config.update('jax_platforms', 'cpu')  # no device is asked for, not even one that is here
    from boneage_jax.accelerators import fits, words
    from boneage_jax.runtime import files, setup

    setup.set_up_jax(config)
    figures = fits.fits(
        config,
        values.target,
        images=values.images,
        largest=values.largest,
        hlo_folder=values.hlo,
    )
    print(words.report(figures))
    if values.output:
        files.write_json(values.output, figures)


if __name__ == '__main__':
    cli.run(main)
