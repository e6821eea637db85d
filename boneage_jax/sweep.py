"""Train every row of a paper's table, and put ours beside theirs.

    python -m boneage_jax.sweep --config=configs/prsnet.py:rsna100 --workdir=runs/prsnet --seeds=3

Each row of the config's `sweep()` trains in `WORKDIR/<row>/seed0`, `seed1`, ..., all rows of one
seed before the next. After each run `table.md` and `table.csv` are written anew from all finished
runs. The same command again resumes the sweep where it stopped. A row that fails does not hold up
the others; it is reported at the end (exit status 1). `--print_commands` trains nothing: it prints
a command for each unfinished run, for a queue, and writes the table of the finished ones.

`--folds=5` cross-validates: each row and seed trains five networks, in `seed0/fold0` to `fold4`.
The table then has the split `fold`, all images outside the holdout as the network predicts them
that has not seen them, and the mean of the five on the holdout.
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.config()
FLAGS.path(
    'workdir',
    None,
    'folder of the sweep: a folder for each row and seed, and the table',
    required=True,
)
FLAGS.data_dir()
FLAGS.integer('seeds', 1, 'how many seeds of each row: 0, 1, ...', lower_bound=1)
FLAGS.strings('rows', None, 'the rows to train, comma-separated; default: all but optional ones')
FLAGS.string(
    'reference',
    None,
    "the row that all others are compared with; default: each row's own, else baseline, or the "
    'first',
)
FLAGS.integer('folds', 0, 'folds of a cross-validation; 0 = as the preset says', lower_bound=0)
FLAGS.boolean(
    'print_commands', False, 'print a command for each unfinished run instead of training'
)


def main(argv):
    values, overrides = FLAGS.parse(argv)

    from boneage_jax.analysis import sweep

    sweep.sweep(
        values.config,
        values.workdir,
        overrides=overrides,
        seeds=values.seeds,
        rows=values.rows,
        reference=values.reference,
        folds=values.folds,
        print_commands=values.print_commands,
        data_dir=values.data_dir,
    )


if __name__ == '__main__':
    cli.run(main)
