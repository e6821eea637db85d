"""The rows of a config, trained one after the other with each seed, and their table.

A `Sweep` is a config's rows, a `SweepRun` is one row with one seed, and of a cross-validation one
fold. A run of the same configuration that is finished is not trained again, and one that fails does
not hold up the others.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
import itertools
import pathlib
import re
import shlex
import traceback
from collections.abc import Mapping, Sequence

import ml_collections

from boneage_jax import config as config_lib
from boneage_jax import config_keys
from boneage_jax.errors import ConfigError
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import log
from tfds_rsna.errors import UserError

_SET_BY_THE_SWEEP = {'row': '--rows', 'seed': '--seeds', 'folds': '--folds', 'fold': '--folds'}
_REASON = 300  # characters of an error that a note below the table has room for


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One row with one seed, and of a cross-validation one fold; `spec` is its --config."""

    row: config_lib.Row
    seed: int
    spec: str
    workdir: pathlib.Path
    config: ml_collections.ConfigDict
    fold: int | None = None

    @property
    def name(self) -> str:
        name = f'{self.row.name}, seed {self.seed}'
        return name if self.fold is None else f'{name}, fold {self.fold}'

    def state(self) -> str:
        """'finished', or '' where the run is to be trained, from scratch or further.

        Where its workdir holds another run, the text tells why it is another.
        """
        try:
            workdir_lib.write_or_check_config(self.workdir, self.config, write=False)
        except ConfigError as error:
            return str(error)
        return 'finished' if (self.workdir / 'metrics.json').exists() else ''


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A config's rows and the runs wanted of them.

    Attributes:
        spec: the config, as behind `--config=`.
        workdir: the sweep's folder.
        overrides: the arguments `--config.KEY=VALUE`.
        reference: the row that all others are compared with; None: what the config's rows say.
        folds: number of folds of each row and seed; 0: as many as the config's presets say, which
            is no cross-validation where they say nothing.
    """

    spec: str
    workdir: pathlib.Path
    overrides: tuple[str, ...] = ()
    reference: str | None = None
    folds: int = 0
    # Runs as they were first built: a config edited meanwhile changes none of them.
    _runs: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f'--folds={self.folds}: expected 2 or more, or 0 for one split')
        path, _, arg = self.spec.partition(':')
        _, row, pairs = config_keys.parse(arg)
        keys = {key for key, _ in pairs}
        if row is not None:
            keys.add('row')
        for override in self.overrides:
            keys.add(override.removeprefix('--config.').partition('=')[0])
        keys = {key.removeprefix('data.') for key in keys}
        for key, flag in _SET_BY_THE_SWEEP.items():
            if key in keys:
                raise ConfigError(
                    f'{key} is set by the sweep: take it out of the config and give {flag}'
                )

        folders = {}
        for row in self.rows:
            other = folders.setdefault(slug(row.name), row)
            if other is not row:
                raise ConfigError(
                    f'{path}: rows {other.name!r} and {row.name!r} would share a folder'
                )
        if not folders:
            raise ConfigError(f'{path}: sweep() yields no row')
        _ = self.references  # an unknown one ends it here
        if not self.folds:
            object.__setattr__(self, 'folds', self.configured()[1].data.folds)

    @functools.cached_property
    def module(self):
        """The config's module."""
        return config_lib.load_module(self.spec.partition(':')[0])

    @functools.cached_property
    def rows(self) -> list[config_lib.Row]:
        """All rows of the config."""
        return list(self.module.sweep())

    @property
    def default_rows(self) -> list[config_lib.Row]:
        """The rows that are trained where none is named."""
        return [row for row in self.rows if not row.optional]

    @property
    def metric(self) -> str:
        """The figure of the table: the config's METRIC where it names one, else `mae`."""
        return getattr(self.module, 'METRIC', 'mae')

    @functools.cached_property
    def references(self) -> dict[str, str]:
        """`{row: the row that it is compared with}`, by name.

        A reference has itself as reference, for the ensemble of its seeds.
        """
        names = [row.name for row in self.rows]
        if self.reference:
            return dict.fromkeys(names, self.find(self.reference).name)
        if any(row.reference for row in self.rows):
            return {row.name: self.find(row.reference or row.name).name for row in self.rows}
        return dict.fromkeys(names, 'baseline' if 'baseline' in names else names[0])

    def find(self, name: str) -> config_lib.Row:
        """The row called `name`, by its name or its folder's; ConfigError for an unknown one."""
        for row in self.rows:
            if name in (row.name, slug(row.name)):
                return row
        raise ConfigError(
            f'unknown row {name!r}; known: {", ".join(row.name for row in self.rows)}'
        )

    def run(self, row: config_lib.Row, seed: int, fold: int | None = None) -> SweepRun:
        """The run of `row` with `seed`, and of a cross-validation of one fold."""
        key = (row.name, seed, fold)
        if key not in self._runs:
            self._runs[key] = self._build(row, seed, fold)
        return self._runs[key]

    def runs(self, row: config_lib.Row, seed: int) -> list[SweepRun]:
        """The runs of `row` with `seed`: one, or one for each fold."""
        if not self.folds:
            return [self.run(row, seed)]
        return [self.run(row, seed, fold) for fold in range(self.folds)]

    def folder(self, row: config_lib.Row, seed: int) -> pathlib.Path:
        """Where the result of `row` with `seed` is: a run's workdir, or that of all its folds."""
        return self.workdir / slug(row.name) / f'seed{seed}'

    def _build(self, row, seed, fold):
        tokens = [f'row={row.name}', f'seed={seed}']
        workdir = self.folder(row, seed)
        if fold is not None:
            tokens.append(f'data.fold={fold}')
            workdir /= f'fold{fold}'
        spec, config = self.configured(tokens)
        return SweepRun(row, seed, spec, workdir, config, fold)

    def configured(self, tokens: Sequence[str] = ()) -> tuple[str, ml_collections.ConfigDict]:
        """(--config with further `tokens` and the sweep's folds, the configuration that it is)."""
        path, _, arg = self.spec.partition(':')
        folds = f'data.folds={self.folds}' if self.folds else ''
        given = ','.join(filter(None, [arg, folds, *tokens]))
        spec = f'{path}:{given}' if given else path
        return spec, config_lib.from_command_line(spec, self.overrides)

    def command(self, run: SweepRun, data_dir: str | None = None) -> str:
        """The command line that trains `run` alone."""
        words = [
            'python',
            '-m',
            'boneage_jax.main',
            f'--config={run.spec}',
            f'--workdir={run.workdir}',
            *self.overrides,
        ]
        if data_dir:
            words.append(f'--data_dir={data_dir}')
        return shlex.join(words)

    def existing(self, row: config_lib.Row) -> dict[int, list[SweepRun]]:
        """`{seed: runs}` of a row whose folders are there, whether wanted this time or not."""
        seeds = _numbers(self.workdir / slug(row.name), 'seed')
        return {seed: self.runs(row, seed) for seed in seeds}

    def refuse_other_folds(self) -> None:
        """Refuses (ConfigError) a folder that holds a sweep of another number of folds."""
        for row in self.rows:
            for seed in _numbers(self.workdir / slug(row.name), 'seed'):
                folder = self.folder(row, seed)
                found = _folds_of(folder)
                if found is not None and found != self.folds:
                    raise ConfigError(
                        f'{folder} holds runs of --folds={found}, not of --folds={self.folds}; '
                        'choose another --workdir, or give its number of folds'
                    )


def _numbers(folder, name):
    """The numbers of the folders `name0`, `name1` and so on in a folder, sorted."""
    numbers = []
    for place in folder.glob(f'{name}*'):
        number = place.name.removeprefix(name)
        if number.isdigit():
            numbers.append(int(number))
    return sorted(numbers)


def _folds_of(folder):
    """The number of folds of the run, or of the runs, in a folder; None where there is none."""
    places = [folder, *(folder / f'fold{fold}' for fold in _numbers(folder, 'fold'))]
    for place in places:
        if (place / 'config.json').exists() and workdir_lib.has_results(place):
            return workdir_lib.read_json(place / 'config.json')['data'].get('folds', 0)
    return None


def slug(name: str) -> str:
    """A row's folder: 'without relation' -> 'without-relation'."""
    return re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')


def sweep(
    spec: str,
    workdir: pathlib.Path,
    *,
    overrides: Sequence[str] = (),
    seeds: int = 1,
    rows: Sequence[str] | None = None,
    reference: str | None = None,
    folds: int = 0,
    print_commands: bool = False,
    data_dir: str | None = None,
) -> None:
    """Trains the rows of a config with each seed and writes the table.

    Args:
        spec: the config, as behind `--config=`; `overrides` are its arguments `--config.KEY=VALUE`.
        workdir: folder of the sweep.
        seeds: how many seeds of each row.
        rows: names of the rows to train; by default all that are not optional.
        reference: the row that all others are compared with; by default each row's own.
        folds: of a cross-validation of each row and seed; 0: none.
        print_commands: prints a command for each unfinished run and trains nothing.
        data_dir: folder of the raw data.

    Raises:
        ConfigError: an unknown row, or a config that no sweep can have.
        UserError: at the end, where runs failed.
    """
    swept = Sweep(spec, pathlib.Path(workdir), tuple(overrides), reference, folds)
    swept.refuse_other_folds()
    wanted = swept.default_rows
    if rows:
        wanted = [swept.find(name.strip()) for name in rows]
    runs = []
    for seed, row in itertools.product(range(seeds), wanted):
        runs += swept.runs(row, seed)
    if print_commands:
        _print_commands(swept, runs, data_dir)
        write_table(swept, wanted=runs)
        return

    from boneage_jax.analysis import table
    from boneage_jax.runtime import sharding

    if swept.metric not in table.METRICS:
        raise ConfigError(f'METRIC={swept.metric!r}: expected one of {", ".join(table.METRICS)}')
    sharding.initialize_distributed()
    swept.workdir.mkdir(parents=True, exist_ok=True)
    if sharding.is_main():
        write_table(swept, wanted=runs)
    train_all(swept, runs, data_dir=data_dir)


def _print_commands(swept, runs, data_dir):
    for run in runs:
        state = run.state()
        if not state:
            print(swept.command(run, data_dir))
        elif state != 'finished':
            log.info(f'No command for {run.name}: {state}')


def train_all(swept: Sweep, runs: Sequence[SweepRun], *, data_dir: str | None = None) -> bool:
    """Trains the unfinished ones of `runs`; False where it was asked to stop before the last.

    Raises UserError at the end, naming every run that failed and why.
    """
    # Imported here, so that worker processes that re-import this module do not load JAX.
    from boneage_jax.runtime import sharding

    failed = {}
    stopped = False
    for number, run in enumerate(runs, 1):
        if run.state() == 'finished':
            continue
        log.info(f'\n[{number}/{len(runs)}] {run.name} -> {run.workdir}')
        try:
            stopped = not _train(run, number, data_dir)
        except Exception as error:  # whatever it was, the night's other rows are trained
            if not isinstance(error, UserError | OSError):
                traceback.print_exc()
            failed[run.name] = f'{type(error).__name__}: {error}'
            log.info(f'{run.name} failed; the others are trained. {failed[run.name]}')
        if stopped:
            break
        if sharding.is_main():
            write_table(swept, failed, wanted=runs)
    if failed:
        reasons = [f'  {name}: {reason}' for name, reason in failed.items()]
        raise UserError(
            f'{len(failed)} of {len(runs)} runs failed; the same command tries them again:\n'
            + '\n'.join(reasons)
        )
    return not stopped


def _train(run, number, data_dir):
    """Trains a run; False where it was asked to stop. Nothing of it stays in memory."""
    import jax

    from boneage_jax.runtime import sharding
    from boneage_jax.training import loop

    precision = jax.config.jax_default_matmul_precision
    try:
        loop.train(run.config, run.workdir, data_dir)
        sharding.barrier(f'run {number}')
        return (run.workdir / 'metrics.json').exists()
    finally:  # compiled programs are kept on disk
        jax.config.update('jax_default_matmul_precision', precision)
        gc.collect()
        jax.clear_caches()


def write_table(
    swept: Sweep, failed: Mapping[str, str] | None = None, wanted: Sequence[SweepRun] = ()
) -> list[dict]:
    """Writes table.md and table.csv of every finished run in the sweep's workdir.

    Args:
        swept: the sweep.
        failed: `{run: why}` of the runs that failed just now.
        wanted: runs that are named below the table where they are not finished.

    Returns:
        The lines; none, and nothing is written, where no run is finished.
    """
    failed = failed or {}
    existing = {row.name: swept.existing(row) for row in swept.rows}
    states = dict.fromkeys((run.name for run in wanted), '')
    for of_row in existing.values():
        for run in itertools.chain(*of_row.values()):
            states[run.name] = run.state()
    if 'finished' not in states.values():
        return []
    from boneage_jax.analysis import table

    found = []
    notes = _about_paper(swept)
    for row in swept.rows:
        finished = {}
        for seed, runs in existing[row.name].items():
            if all(states[run.name] == 'finished' for run in runs):
                finished[seed] = runs
        if not finished:
            continue
        try:
            finished = [_result(swept, row, seed, runs) for seed, runs in finished.items()]
            found += table.results(row, swept.references[row.name], finished, swept.metric)
        except (UserError, OSError) as error:  # it holds up no other row
            notes.append(f'{row.name} is left out: {error}')
            log.info(notes[-1])
        except (KeyError, TypeError) as error:
            notes.append(f'{row.name} is left out: {error!r}')
            log.info(notes[-1])
    for name, state in states.items():
        if state != 'finished':
            notes.append(f'Not finished: {with_reason(name, failed.get(name) or state)}.')
    lines = table.write(swept.workdir, found, metric=swept.metric, title=swept.spec, notes=notes)
    log.info(f'Table: {swept.workdir / "table.md"}')
    return lines


def _result(swept, row, seed, runs):
    """The folder of a row and seed whose runs are finished; that of all folds is written anew."""
    folder = swept.folder(row, seed)
    if not swept.folds:
        return folder
    from boneage_jax.analysis import cross_validation

    report = folder / 'metrics.json'
    members = [run.workdir for run in runs]
    newest = max((member / 'metrics.json').stat().st_mtime_ns for member in members)
    if not report.exists() or report.stat().st_mtime_ns < newest:
        log.info(f'{row.name}, seed {seed}: all {swept.folds} folds -> {folder}')
        cross_validation.write(members, folder)
    return folder


def with_reason(name: str, reason: str) -> str:
    """A run's name, and in brackets why it is not finished, on one line."""
    return f'{name} ({" ".join(reason.split())[:_REASON]})' if reason else name


def _about_paper(swept):
    """Sentences on the paper's column: what sweep() tells of it, and how our images differ."""
    from boneage_jax.analysis import table

    notes = []
    if swept.folds:
        notes.append(
            f'fold: the images outside the holdout, each as the one of {swept.folds} networks '
            'predicts it that neither trained on it nor was selected by it; holdout and test: the '
            f"mean of the {swept.folds} networks' predictions. Minutes are those of all folds."
        )
    about = inspect.getdoc(swept.module.sweep)
    if about:
        notes.append(f'The paper: {" ".join(about.split())}')
    ours = swept.configured()[1].data
    paper = swept.module.get_config().data
    if any(ours[key] != paper[key] for key in ('source', 'folder', 'size', 'stages')):
        notes.append(
            "The paper's column is not of our images: the paper's setting is "
            f'{table.describe(paper)}, ours {table.describe(ours)}. Compare the order of the rows '
            'and their differences, not the figures.'
        )
    else:
        notes.append("A line compares with the paper's column only where its split is the paper's.")
    return notes
