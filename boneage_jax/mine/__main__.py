"""Grow a segmenter's training set in rounds of prediction and review.

    python -m boneage_jax.mine --config=configs/unet.py:rsna100 --workdir=runs/mine --seed_masks=none
    python -m boneage_jax.mine --config=configs/unet.py --workdir=runs/mine --seed_masks=masks/ --review=web

`--seed_masks`: a folder of mask images named by film, a COCO JSON, or a folder of labelme or Supervisely files; 'none'
begins with phantoms, and with the classical masks with which their network agrees. The films to be masked are `mine.source`
and `mine.folder` of the config. Each round leaves `round_N/`: `review.csv`, `verdicts.csv` (by eye), `accepted.csv`,
`accepted/` (prepared records for `data.also`), `metrics.json`, `accepted.png`, `refused.png`, and the run in `train/`. Running
the same command again goes on where it stopped; a larger `--rounds` adds rounds.
"""

from absl import app, flags, logging

from boneage_jax import config as config_lib
from boneage_jax.runtime import log


def main(argv):
    logging.set_verbosity(logging.WARNING)
    config = config_lib.from_command_line(_CONFIG.value, argv)
    # Imported here, so that worker processes that re-import this module do not load JAX.
    from boneage_jax.mine import rounds
    config = rounds.checked(config, rounds=_ROUNDS.value, review=_REVIEW.value)
    rounds.mine(config, _WORKDIR.value, _DATA_DIR.value, None if _SEED_MASKS.value == 'none' else _SEED_MASKS.value)


if __name__ == '__main__':
    _CONFIG = flags.DEFINE_string('config', 'configs/unet.py', 'path of a config, with presets and key=value after a colon')
    _WORKDIR = flags.DEFINE_string('workdir', None, 'folder of the rounds')
    _DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of the raw data; default: $BONEAGE_DATA')
    _SEED_MASKS = flags.DEFINE_string('seed_masks', 'none', "masks to begin with (folder or COCO JSON), or 'none'")
    _ROUNDS = flags.DEFINE_integer('rounds', None, 'how many rounds; default: mine.rounds of the config')
    _REVIEW = flags.DEFINE_enum('review', None, ['rule', 'web'], 'who reviews; default: mine.review of the config')
    flags.mark_flags_as_required(['workdir'])
    app.run(log.exit_on_user_error(main), flags_parser=config_lib.parse_flags)
