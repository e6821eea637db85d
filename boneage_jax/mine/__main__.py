"""Grow a segmenter's training set in rounds of prediction and review.

    python -m boneage_jax.mine --config=configs/unet.py:rsna100 --workdir=runs/mine
    python -m boneage_jax.mine --config=configs/unet.py --workdir=runs/mine --seed_masks=masks/ \\
        --review=web

`--seed_masks`: a folder of mask images named by image, a COCO JSON, or a folder of labelme or
Supervisely files; 'none' begins with phantoms, and with the classical masks with which their
network agrees. The images to be masked are `mine.source` and `mine.folder` of the config. Each
round writes `round_N/`: `review.csv`, `verdicts.csv` (by eye), `accepted.csv`, `accepted/`
(prepared records for `data.extra_train_folders`), `metrics.json`, `accepted.png`, `refused.png`,
and the run in `train/`. The same command continues a mining that was stopped; a larger `--rounds`
adds rounds.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config(default='configs/unet.py')
FLAGS.path('workdir', None, 'folder of the rounds', required=True)
FLAGS.data_dir()
FLAGS.path('seed_masks', 'none', "masks to begin with (folder or COCO JSON), or 'none'")
FLAGS.integer('rounds', None, 'how many rounds; default: mine.rounds of the config')
FLAGS.choice('review', None, ['rule', 'web'], 'who reviews; default: mine.review of the config')


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    # Imported here, so that worker processes that re-import this module do not load JAX.
    from boneage_jax.mine import rounds

    config = rounds.checked(config, rounds=values.rounds, review=values.review)
    seed_masks = None if values.seed_masks == 'none' else values.seed_masks
    rounds.mine(config, values.workdir, values.data_dir, seed_masks)


if __name__ == '__main__':
    cli.run(main)
