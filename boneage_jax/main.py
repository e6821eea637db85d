"""Train, resume and evaluate one run.

    python -m boneage_jax.main --config=configs/prsnet.py:phantom --workdir=runs/first

`--config=FILE[:arg]`: see boneage_jax/config.py for what `arg` may say; `--config.optimizer.learning_rate=0.01` works
too. Running the same command again goes on where it stopped.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from boneage_jax import config as config_lib

_CONFIG = config_flags.DEFINE_config_file('config', None, 'path of a config, with presets and key=value after a colon')
_WORKDIR = flags.DEFINE_string('workdir', None, 'folder of the run: checkpoints, logs, results')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of the raw data; default: $BONEAGE_DATA')


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX report every file and backend at INFO
    config_lib.check(_CONFIG.value)
    # Imported here, so that worker processes that re-import this module do not load JAX.
    from boneage_jax import sharding, train
    sharding.start()
    train.train(_CONFIG.value, _WORKDIR.value, _DATA_DIR.value)


def explain(function, argv):
    """Runs `function(argv)`; errors that speak to the user end as one message and exit status 1, not as a traceback."""
    try:
        function(argv)
    except Exception as error:
        if not _speaks_to_the_user(error):
            raise
        sys.exit(f'Error: {error}')


def _speaks_to_the_user(error):
    return type(error).__module__.split('.')[0] in ('boneage_jax', 'tfds_rsna') or isinstance(error, ValueError)


if __name__ == '__main__':
    flags.mark_flags_as_required(['config', 'workdir'])
    app.run(lambda argv: explain(main, argv))
