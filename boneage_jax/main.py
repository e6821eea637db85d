"""Train, resume and evaluate one run.

    python -m boneage_jax.main --config=configs/prsnet.py:phantom --workdir=runs/first

`--config=FILE[:arg]`: boneage_jax/config.py says what `arg` may hold;
`--config.optimizer.learning_rate=0.01` works too. The same command again resumes the run where it
stopped.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config()
FLAGS.path('workdir', None, 'folder of the run: checkpoints, logs, results', required=True)
FLAGS.data_dir()


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    # Imported here, so that worker processes that re-import this module do not load JAX.
    from boneage_jax.runtime import sharding
    from boneage_jax.training import loop

    sharding.initialize_distributed()
    with sharding.abort_on_error():
        loop.train(config, values.workdir, values.data_dir)


if __name__ == '__main__':
    cli.run(main)
