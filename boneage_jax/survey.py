"""Draw the ages, the sexes and the cutting out of hands of a config's images.

    python -m boneage_jax.survey --config=configs/attention.py:rsna100 --output=survey

Castillo 2018's figures 2 (`counts.png`: images per year of age and sex, of all splits together) and
3 (`extraction_ID.png`: gradient, markers, watershed, largest component and hand of some images, as
they came and whatever the config's stages are). Nothing is trained.

    python -m boneage_jax.survey --config=configs/regions.py --sheets --images=200 --output=survey

draws contact sheets instead: `found.png`, the images with the masks and key points that the
config's stages find, and `prepared.png`, the images as the stages leave them.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config('path[:arg] of the config whose images to draw')
FLAGS.path('output', None, 'folder for the figures', required=True)
FLAGS.integer('images', 4, 'how many images to draw', lower_bound=1)
FLAGS.boolean('sheets', False, "draw contact sheets of what the config's stages make of the images")
FLAGS.data_dir()


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    from boneage_jax.analysis import survey

    draw = survey.contact_sheets if values.sheets else survey.survey
    draw(config, values.output, count=values.images, data_dir=values.data_dir)


if __name__ == '__main__':
    cli.run(main)
