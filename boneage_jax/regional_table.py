"""Tabulate and draw the regional age nets of configs/regions.py.

    python -m boneage_jax.sweep --config=configs/regions.py:rsna100 --workdir=runs/regions
    python -m boneage_jax.regional_table --config=configs/regions.py:rsna100 --workdir=runs/regions

The second command trains nothing and can run at any time (with --overwrite, again). It makes Fig. 5
and Fig. 6 of Iglovikov et al. (2018) from the finished rows. OUTPUT gets `table.md` and
`table.csv`: the MAE of every net and of the unweighted means, per column (form and sex) over the
three regions, per region over its four nets of one sex, and over all twelve of them, each with its
95% bootstrap interval and the paper's figure; a table for each reported split (holdout, test). What
is not finished has an empty cell and is named; a mean is taken only of all its nets.
`grid_SPLIT.png` draws it, `stages.csv` and `stages_SPLIT.png` hold the MAE by stage of puberty and
region for each sex, and `error_correlation_SPLIT.csv` how far the nets' errors agree.
"""

import pathlib

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config('the config of the sweep, as it was given there')
FLAGS.path('workdir', None, 'folder of the sweep', required=True)
FLAGS.path('output', None, 'folder of the tables and figures; default: WORKDIR/regional_table')
FLAGS.boolean('overwrite', False, 'replace tables that are there')
FLAGS.integer('seed', 0, 'which seed of each row')


def main(argv):
    values, overrides = FLAGS.parse(argv)

    from boneage_jax.analysis import regional_table, sweep

    workdir = pathlib.Path(values.workdir)
    swept = sweep.Sweep(values.config, workdir, tuple(overrides))
    output = values.output or workdir / 'regional_table'
    regional_table.write(swept, output, values.seed, overwrite=values.overwrite)


if __name__ == '__main__':
    cli.run(main)
