r"""Judge whether images show a hand, and which way up, before records are built from them.

    python -m boneage_jax.check_hands --input=images/ --output=hands.csv

OUTPUT holds `id,file,status,score,flags`: `status` is ok, refused or unreadable, `score` the
probability that it is the radiograph of a whole hand, and `flags` what `predict` would put right or
say. Nothing is changed or left out: this is a report.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.path('input', None, 'an image, a folder of images, or a zip of them', required=True)
FLAGS.path('output', None, 'CSV to write', required=True)
FLAGS.boolean('overwrite', False, 'replace an output that exists')


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.inference import hand_report

    hand_report.write(values.input, values.output, overwrite=values.overwrite)


if __name__ == '__main__':
    cli.run(main)
