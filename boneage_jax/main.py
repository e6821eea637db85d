"""Train, resume and evaluate one run.

    python -m boneage_jax.main --config=configs/prsnet.py:phantom --workdir=runs/first

`--config=FILE[:arg]`: see boneage_jax/config.py for what `arg` may say; `--config.optimizer.learning_rate=0.01` works
too. Running the same command again goes on where it stopped.
"""

from absl import app, flags, logging

from boneage_jax import config as config_lib
from boneage_jax.runtime import log

_CONFIG = flags.DEFINE_string('config', None, 'path of a config, with presets and key=value after a colon')
_WORKDIR = flags.DEFINE_string('workdir', None, 'folder of the run: checkpoints, logs, results')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of the raw data; default: $BONEAGE_DATA')


def main(argv):
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX report every file and backend at INFO
    config = config_lib.from_command_line(_CONFIG.value, argv)
    # Imported here, so that worker processes that re-import this module do not load JAX.
    from boneage_jax.runtime import sharding
    from boneage_jax.training import loop
    sharding.initialize_distributed()
    with sharding.abort_on_error():
        loop.train(config, _WORKDIR.value, _DATA_DIR.value)


if __name__ == '__main__':
    flags.mark_flags_as_required(['config', 'workdir'])
    app.run(log.exit_on_user_error(main), flags_parser=config_lib.parse_flags)
