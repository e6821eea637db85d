"""Evaluate masks, key points and registration against hands that people annotated.

    python -m boneage_jax.evaluate_hands --output=checks/masks \\
        --truth=annotations/rsna_hand_keypoints_val.json \\
        --config=configs/prsnet.py:rsna100,stages=(mask)
    python -m boneage_jax.evaluate_hands --output=checks/dha --truth=dha/landmarks.csv \\
        --config=configs/prsnet.py:source=image_folder,images=dha,labels=dha/labels.csv,\\
    months_column=boneage_months,stages=(mask,keypoints),data.stage_options.keypoints.run=RUN

Every image of the config's source that TRUTH annotates goes through the config's stages at its own
size, up to the first stage that moves its pixels (`crop`, `register`, `region` or `resize`). TRUTH:
COCO JSON of 21 points and a box a hand, the CSV of three points, or the DHA's CSV of 37 landmarks,
here or below $BONEAGE_DATA; or a folder of drawn masks, which the masks found are then compared
with. `--ids=FILE` keeps to the images that FILE names, one id a line. Images that a network of the
stages was trained on, or that selected its checkpoint, are left out and counted. OUTPUT gets
hands.csv (a line an image), metrics.json (means with 95% bootstrap intervals over images) and
sheet.png (the worst images and a sample: mask, points found and true).
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config('path[:arg] of the config whose source and stages to check')
FLAGS.paths('truth', None, 'COCO JSON or CSV files of annotated hands', required=True)
FLAGS.path('output', None, 'folder for the results', required=True)
FLAGS.path('ids', '', 'file of one id a line: these images alone')
FLAGS.data_dir()


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    from boneage_jax.analysis import evaluate_hands

    evaluate_hands.evaluate_hands(
        config, values.truth, values.output, values.data_dir, ids=values.ids
    )


if __name__ == '__main__':
    cli.run(main)
