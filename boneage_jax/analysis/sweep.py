"""Every row of a paper's table: trains what is not finished, and puts ours beside theirs.

    python -m boneage_jax.sweep --config=configs/prsnet.py:rsna100 --workdir=runs/prsnet --seeds=3

Each row of the config's `sweep()` trains in `WORKDIR/<row>/seed0`, `seed1`, ..., all rows of one
seed before the next; after each, `table.md` and `table.csv` are written anew from all finished
runs. The same command goes on where it stopped. A row that fails is reported at the end (exit
status 1) and holds up no other. `--print_commands` trains nothing: it prints a command for each
unfinished run, for a queue, and writes the table of the finished ones.
"""

import dataclasses
import functools
import gc
import inspect
import pathlib
import re
import shlex
import traceback

from boneage_jax import config as config_lib
from boneage_jax.errors import ConfigError
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import log
from tfds_rsna.errors import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed: `spec` is its --config."""

    row: config_lib.Row
    seed: int
    spec: str
    workdir: pathlib.Path
    config: object

    @property
    def name(self):
        return f'{self.row.name}, seed {self.seed}'

    def state(self):
        """'finished'; '' = to be trained, from scratch or further; or why what lies in its workdir
        is not this run.
        """
        try:
            workdir_lib.write_or_check_config(self.workdir, self.config, write=False)
        except ConfigError as error:
            return str(error)
        return 'finished' if (self.workdir / 'metrics.json').exists() else ''


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A config's rows and the runs wanted of them; `spec` and `overrides` (`--config.key=value`) as
    on the command line.

    `reference` is the row that all others are compared with; None: what the config's rows say.
    """

    spec: str
    workdir: pathlib.Path
    overrides: tuple = ()
    reference: str | None = None
    _runs: dict = dataclasses.field(
        default_factory=dict
    )  # as first built: a config edited meanwhile changes none of them

    def __post_init__(self):
        path, _, arg = self.spec.partition(':')
        keys = {token.partition('=')[0].strip() for token in arg.split(',')} | {
            override.removeprefix('--config.').partition('=')[0] for override in self.overrides
        }
        for key, flag in (('row', '--rows'), ('seed', '--seeds')):
            if key in keys:
                raise ConfigError(
                    f'{key} is set by the sweep: take it out of the config and give {flag}'
                )
        slugs = {}
        for row in self.rows:
            if (other := slugs.setdefault(slug(row.name), row)) is not row:
                raise ConfigError(
                    f'{path}: rows {other.name!r} and {row.name!r} would share a folder'
                )
        if not slugs:
            raise ConfigError(f'{path}: sweep() yields no row')
        self.references  # an unknown one ends it here

    @functools.cached_property
    def module(self):
        return config_lib.load_module(self.spec.partition(':')[0])

    @functools.cached_property
    def rows(self):
        return list(self.module.sweep())

    @property
    def metric(self):
        """The figure of the table: the config's METRIC where it names one, else the error of ages."""
        return getattr(self.module, 'METRIC', 'mae')

    @functools.cached_property
    def references(self):
        """`{row: the row that it is compared with}`, by name; a reference is its own, for the
        ensemble of its seeds.
        """
        names = [row.name for row in self.rows]
        if not self.reference and any(row.reference for row in self.rows):
            return {row.name: self.find(row.reference or row.name).name for row in self.rows}
        one = (
            self.find(self.reference).name
            if self.reference
            else 'baseline'
            if 'baseline' in names
            else names[0]
        )
        return dict.fromkeys(names, one)

    def find(self, name):
        """The row called `name`, by its name or its folder's."""
        for row in self.rows:
            if name in (row.name, slug(row.name)):
                return row
        raise ConfigError(
            f'unknown row {name!r}; known: {", ".join(row.name for row in self.rows)}'
        )

    def run(self, row, seed):
        """The Run of `row` with `seed`."""
        key = (row.name, seed)
        if key not in self._runs:
            self._runs[key] = self._build(row, seed)
        return self._runs[key]

    def _build(self, row, seed):
        path, _, arg = self.spec.partition(':')
        spec = f'{path}:' + ','.join(filter(None, (arg, f'row={row.name}', f'seed={seed}')))
        return Run(
            row,
            seed,
            spec,
            self.workdir / slug(row.name) / f'seed{seed}',
            config_lib.from_command_line(spec, self.overrides),
        )

    def command(self, run, data_dir=None):
        """The command line that trains `run` alone."""
        words = [
            'python',
            '-m',
            'boneage_jax.main',
            f'--config={run.spec}',
            f'--workdir={run.workdir}',
            *self.overrides,
        ]
        return shlex.join(words + ([f'--data_dir={data_dir}'] if data_dir else []))

    def existing(self, row):
        """Runs of a row whose folders are there, by seed, asked for this time or not."""
        folders = (self.workdir / slug(row.name)).glob('seed*')
        seeds = sorted(int(folder.name[4:]) for folder in folders if folder.name[4:].isdigit())
        return [self.run(row, seed) for seed in seeds]


def slug(name):
    """A row's folder: 'without relation' -> 'without-relation'."""
    return re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')


def train_all(sweep, runs, *, data_dir=None):
    """Trains the unfinished ones of `runs`. True when it went through all of them, False when asked
    to stop.

    Raises UserError at the end, naming every run that failed and why.
    """
    # Imported here, so that worker processes that re-import this module do not load JAX.
    import jax

    from boneage_jax.runtime import sharding
    from boneage_jax.training import loop

    failed, stopped, precision = {}, False, jax.config.jax_default_matmul_precision
    for number, run in enumerate(runs, 1):
        if run.state() == 'finished':
            continue
        log.info(f'\n[{number}/{len(runs)}] {run.name} -> {run.workdir}')
        try:
            loop.train(run.config, run.workdir, data_dir)
            sharding.barrier(f'run {number}')
            if not (run.workdir / 'metrics.json').exists():
                stopped = True
                break
        except Exception as error:  # whatever it was, the night's other rows go on
            if not isinstance(error, UserError | OSError):
                traceback.print_exc()
            failed[run.name] = f'{type(error).__name__}: {error}'
            log.info(f'{run.name} failed, the others go on. {failed[run.name]}')
        finally:  # nothing of this run stays in memory or in JAX's settings; compiled programs are kept on disk
            jax.config.update('jax_default_matmul_precision', precision)
            gc.collect()
            jax.clear_caches()
        if sharding.is_main():
            write_table(sweep, failed, wanted=runs)
    if failed:
        raise UserError(
            f'{len(failed)} of {len(runs)} runs failed; the same command tries them again:\n'
            + '\n'.join(f'  {name}: {reason}' for name, reason in failed.items())
        )
    return not stopped


def write_table(sweep, failed=(), wanted=()):
    """table.md and table.csv of every finished run in the sweep's workdir; nothing where there is
    none. -> the lines.
    """
    existing = [(row, sweep.existing(row)) for row in sweep.rows]
    states = {run.name: '' for run in wanted} | {
        run.name: run.state() for _, runs in existing for run in runs
    }
    if 'finished' not in states.values():
        return []
    from boneage_jax.analysis import table

    found, notes = [], _about_paper(sweep)
    for row, runs in existing:
        finished = [run.workdir for run in runs if states[run.name] == 'finished']
        try:
            found += (
                table.results(row, sweep.references[row.name], finished, sweep.metric)
                if finished
                else []
            )
        except (UserError, OSError, KeyError, TypeError) as error:  # it holds up no other row
            notes.append(
                f'{row.name} is left out: {repr(error) if isinstance(error, KeyError | TypeError) else error}'
            )
            log.info(notes[-1])
    for name in (name for name, state in states.items() if state != 'finished'):
        reason = dict(failed).get(name) or states[name]
        notes.append(
            f'Not finished: {name}'
            + (f' ({" ".join(reason.split())[:300]})' if reason else '')
            + '.'
        )
    lines = table.write(sweep.workdir, found, metric=sweep.metric, title=sweep.spec, notes=notes)
    log.info(f'Table: {sweep.workdir / "table.md"}')
    return lines


def _about_paper(sweep):
    """Sentences on the paper's column: what sweep()'s docstring says, and how our images differ
    from the paper's.
    """
    from boneage_jax.analysis import table

    about = ' '.join((inspect.getdoc(sweep.module.sweep) or '').split())
    notes = [f'The paper: {about}'] if about else []
    ours = config_lib.from_command_line(sweep.spec, sweep.overrides).data
    paper = sweep.module.get_config().data
    if (ours.source, ours.folder, ours.size, ours.stages) != (
        paper.source,
        paper.folder,
        paper.size,
        paper.stages,
    ):
        notes.append(
            f"The paper's column is not of our images: the paper's setting is {table.describe(paper)}, ours "
            f'{table.describe(ours)}. Compare the order of the rows and their differences, not the figures.'
        )
    else:
        notes.append("A line compares with the paper's column only where its split is the paper's.")
    return notes


def sweep(
    spec,
    workdir,
    *,
    overrides=(),
    seeds=1,
    rows=None,
    reference=None,
    print_commands=False,
    data_dir=None,
):
    """Trains the rows of a config with each seed and writes the table; or prints a command for each
    unfinished run.

    Args:
        spec: the config, as behind `--config=`; `overrides` are its arguments `--config.KEY=VALUE`.
        workdir: folder of the sweep.
        seeds: how many seeds of each row.
        rows: names of the rows to train; all by default.
        reference: the row that all others are compared with; by default each row's own.
        print_commands: prints a command for each unfinished run and trains nothing.
        data_dir: folder of the raw data.

    Raises:
        ConfigError: an unknown row, or a config that no sweep can have.
        UserError: at the end, where runs failed.
    """
    swept = Sweep(spec, pathlib.Path(workdir), tuple(overrides), reference)
    wanted = [swept.find(name.strip()) for name in rows] if rows else swept.rows
    runs = [swept.run(row, seed) for seed in range(seeds) for row in wanted]
    if print_commands:
        for run in runs:
            state = run.state()
            if not state:
                print(swept.command(run, data_dir))
            elif state != 'finished':
                log.info(f'No command for {run.name}: {state}')
        write_table(swept, wanted=runs)
        return

    from boneage_jax.analysis import table
    from boneage_jax.runtime import sharding

    if swept.metric not in table.METRICS:
        raise ConfigError(f'METRIC={swept.metric!r}: a table knows {", ".join(table.METRICS)}')
    sharding.initialize_distributed()
    swept.workdir.mkdir(parents=True, exist_ok=True)
    if sharding.is_main():
        write_table(swept, wanted=runs)
    train_all(swept, runs, data_dir=data_dir)
