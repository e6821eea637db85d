r"""Prepare the images of a config as fixed-size records, and print their folder.

    python -m boneage_jax.prepare --config=configs/prsnet.py:rsna100
    python -m boneage_jax.prepare --config=configs/prsnet.py --runner=beam \
        --beam_options='--runner=FlinkRunner ...'

Images go from their source through the config's named stages. Each step is built once and cached.
Its folder's name ends in a fingerprint of what went into it (the source's files and options,
stages, size, versions), so a changed option or file builds anew beside the old one. The cache is
$BONEAGE_CACHE, by default ~/.cache/boneage_jax. `main` prepares what it needs by itself; this
command does the same without training.
"""

import contextlib
import functools
import shlex

from boneage_jax import cli
from tfds_rsna.parallel import beam, pools

FLAGS = cli.Flags(__doc__)
FLAGS.config('path[:arg] of the config whose records to prepare')
FLAGS.data_dir()
FLAGS.choice(
    'runner', 'processes', ['processes', 'beam'], 'who does the work: the same records either way'
)
FLAGS.string('beam_options', '--runner=DirectRunner', "Beam's own, as --runner=FlinkRunner ...")
FLAGS.path('beam_folder', None, 'where workers leave their results; default: $BONEAGE_CACHE')


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    # Imported here, so that a wrong flag is refused at once.
    from boneage_jax.runtime import files
    from boneage_jax.stages import records

    engine = contextlib.nullcontext()
    if values.runner == 'beam':
        folder = values.beam_folder or str(files.cache_folder())
        ordered = functools.partial(
            beam.ordered, folder=folder, options=shlex.split(values.beam_options)
        )
        engine = pools.engine(ordered)
    with engine:
        print(records.get_records(config.data, values.data_dir))


if __name__ == '__main__':
    cli.run(main)
