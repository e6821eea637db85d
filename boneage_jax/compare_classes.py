r"""Compare two age classifiers by distance to the nearest class edge.

    python -m boneage_jax.compare_classes --without=runs/resnet_3 --with_sex=runs/resnet_3_sex \
        --output=runs/sex_3

Hamrouni and Hassen (2023) say that the sex helps near the edges. OUTPUT gets `class_edges.csv` (a
line for each reported split, sex and distance of the true age, 'any' first:
`split,sex,months,images,first,second,gain,lower,upper`; shares, and the gain with its paired
bootstrap interval) and a figure for each split. Any two finished runs of one set of class edges can
be compared, also a run that predicts ages with one that tells classes apart: its ages are cut at
the other's edges.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.path('without', None, 'workdir of the first run (without the sex)', required=True)
FLAGS.path('with_sex', None, 'workdir of the second run (with the sex)', required=True)
FLAGS.path('output', None, 'folder for the results', required=True)


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import class_edges

    class_edges.compare(values.without, values.with_sex, values.output)


if __name__ == '__main__':
    cli.run(main)
