"""Show the parts, relation maps or attention that a trained network uses.

    python -m boneage_jax.interpret --workdir=runs/prsnet --output=runs/prsnet/interpret

Of a run of configs/prsnet.py: Ji 2019's figure 3 (`anchors.png`) and figure 5 (`parts_res3.png` and
so on, one for each relation map; `parts.png` without relation) for images of a split, evenly spaced
by age. `parts.json` counts over the whole split: how well each part alone predicts the age, how
many parts are in a corner of the image, where there is no hand, by age, and how many are on a
growth plate or the carpus of phantoms, or on a joint of `--joints=TABLE` (boxes
`id,width,height,class,xmin,ymin,xmax,ymax` in native pixels), beside anchors drawn by chance. Of a
cross-validation (`--workdir=SWEEP/full/seed0 --split=fold`) it counts over all folds.

Of a run of configs/attention.py: Castillo 2018's figure 10 (`attention.png`), and `attention.json`
over the whole split: how many places of the map an image uses (the exponential of the entropy of
its shares), and how much of the maps' variance is the same in all images, which is what the locally
connected layer holds before it sees an image.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.network()
FLAGS.path('output', None, 'folder for the figures', required=True)
FLAGS.string('split', 'validation', 'whose images')
FLAGS.integer('images', 8, 'how many images to draw', lower_bound=1)
FLAGS.string('joints', '', 'a table of boxes around joints: how many parts are on one')
FLAGS.data_dir()


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import interpret

    interpret.interpret(
        values.workdir,
        values.output,
        split=values.split,
        count=values.images,
        joints=values.joints,
        data_dir=values.data_dir,
    )


if __name__ == '__main__':
    cli.run(main)
