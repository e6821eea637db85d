"""Draw the ages, the sexes and the cutting out of hands of a config's images.

    python -m boneage_jax.survey --config=configs/attention.py:rsna100 --output=survey

Castillo 2018's figures 2 (`counts.png`: images per year of age and sex, of all splits together) and
3 (`extraction_ID.png`: gradient, markers, watershed, largest component and hand of some images, as
they came and whatever the config's stages are). Nothing is trained.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config('path[:arg] of the config whose images to draw')
FLAGS.path('output', None, 'folder for the figures', required=True)
FLAGS.integer('images', 4, 'how many images to cut out', lower_bound=1)
FLAGS.data_dir()


def main(argv):
    values, overrides = FLAGS.parse(argv)
    config = cli.load_config(values, overrides)

    from boneage_jax.analysis import survey

    survey.survey(config, values.output, count=values.images, data_dir=values.data_dir)


if __name__ == '__main__':
    cli.run(main)
