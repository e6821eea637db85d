"""kill -9 at random moments: what resumes must end bit for bit as what was never stopped.

    python -m benchmarks.kills --runs=8 --kills=15

Each run takes its turn of `prepare`, `main`, `sweep` and `mine`, at the tiny size on phantoms: once
undisturbed, then in another folder, killed `--kills` times at moments drawn from its seed, and
resumed. Compared are all arrays of all checkpoints, predictions.csv, records, masks and what was
accepted. The exit status is 1 where any differ.
"""

import argparse
import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks import machine
from boneage_jax import config as config_lib
from boneage_jax.runtime import checkpoint, tensors
from boneage_jax.stages import records

_TRAINING = 'tiny,epochs=10,eval_every_epochs=5,checkpoint_every_steps=7'
_STILL = 'rotation=0,shift=0,scale=0,shear=0'
# Enough training for masks that the rules accept; the images are those of `phantoms`.
MINING = (
    f'tiny,depth=1,{_STILL},epochs=30,eval_every_epochs=30,learning_rate=1e-2,checkpoint_every_steps=40,'
    'mine.source=prepared,mine.count=12,mine.epochs=1,mine.agreement=0.01'
)
COMMANDS = {
    'prepare': ('--config=configs/prsnet.py:tiny,stages=(mask,crop,contrast),count=200',),
    'main': (f'--config=configs/prsnet.py:{_TRAINING},row=baseline',),
    'sweep': (f'--config=configs/prsnet.py:{_TRAINING}', '--rows=baseline', '--seeds=2'),
    'mine': (f'--config=configs/unet.py:{MINING}', '--rounds=2'),
}
_TABLES = ('predictions.csv', 'accepted.csv', 'review.csv', 'records.csv')


def phantoms() -> pathlib.Path:
    """Prepared phantoms for mining, which are not those that it trains on first."""
    config = config_lib.load(str(machine.ROOT / 'configs/unet.py:tiny,data.phantom.seed=9'))[1]
    return records.get_records(config.data)


@dataclasses.dataclass(frozen=True)
class Run:
    """A command on a folder of its own, which holds its cache and its results.

    Attributes:
        command: one of COMMANDS.
        folder: of the run.
        arguments: of the command, without its workdir.
        cache: of records and compiled programs; '' for one in `folder`.
    """

    command: str
    folder: pathlib.Path
    arguments: tuple[str, ...]
    cache: str = ''

    def start(self) -> subprocess.Popen:
        """Starts the command, or continues it."""
        arguments = list(self.arguments)
        if self.command != 'prepare':
            arguments.append(f'--workdir={self.folder / "run"}')
        cache = self.cache or str(self.folder / 'cache')
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / 'output.txt').open('a') as output:
            return subprocess.Popen(
                [sys.executable, '-m', f'boneage_jax.{self.command}', *arguments],
                cwd=machine.ROOT,
                env={**os.environ, 'BONEAGE_CACHE': cache},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def finish(self) -> None:
        """Runs the command to its end; RuntimeError with its output where it fails."""
        if self.start().wait():
            output = (self.folder / 'output.txt').read_text()
            raise RuntimeError(f'{self.command} in {self.folder} failed:\n{output[-3000:]}')

    def kill_when(self, reached: Callable[[], bool]) -> bool:
        """Starts it and kills it (-9) once `reached()`; False where it had ended before."""
        process = self.start()
        while process.poll() is None:
            if reached():
                process.kill()
                process.wait()
                return True
            time.sleep(0.01)
        return False

    def results(self) -> dict[str, str]:
        """{what: its digest} of everything that must not depend on having been stopped."""
        found = {}
        for path in sorted(self.folder.rglob('*')):
            name = path.relative_to(self.folder).as_posix()
            is_record = 'array_record' in path.name and name.startswith(('cache/records', 'run'))
            is_mask = path.parent.name in ('masks', 'classical') and path.suffix == '.npz'
            if path.is_file() and (path.name in _TABLES or is_record):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif is_mask:
                with np.load(path) as arrays:
                    found[name] = tensors.digest({key: arrays[key] for key in arrays.files})
            elif path.name == 'checkpoints':
                found |= _checkpoints(path.parent, name)
        return found


def _checkpoints(workdir, name):
    found = {}
    with checkpoint.Checkpoints(workdir) as checkpoints:
        for step in {checkpoints.latest, checkpoints.best} - {None}:
            found[f'{name}/{step}'] = tensors.digest(checkpoints.read(step))
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names of results that are not the same in both, or in one alone."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _disturb(run, kills, seconds, draw):
    """Kills a run at random moments of its length; how often it was not at its end yet."""
    done = 0
    for _ in range(kills):
        end = time.monotonic() + draw.uniform(0, seconds)
        done += run.kill_when(lambda end=end: time.monotonic() > end)
    return done


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.kills',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--runs', type=int, default=4)
    parser.add_argument('--kills', type=int, default=3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--commands', nargs='*', default=list(COMMANDS), choices=list(COMMANDS))
    arguments = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory(prefix='boneage_kills_') as folder:
        whole = {}
        for number in range(arguments.runs):
            command = arguments.commands[number % len(arguments.commands)]
            if command not in whole:
                place = pathlib.Path(folder, command)
                given = COMMANDS[command]
                if command == 'mine':
                    given += (f'--config.mine.folder={phantoms()}',)
                run = Run(command, place, given)
                begin = time.monotonic()
                run.finish()
                whole[command] = (given, run.results(), time.monotonic() - begin)
            given, expected, seconds = whole[command]
            draw = np.random.default_rng([arguments.seed, number])
            run = Run(command, pathlib.Path(folder, f'{command}_{number}'), given)
            kills = _disturb(run, arguments.kills, seconds, draw)
            run.finish()
            wrong = differences(expected, run.results())
            failed = failed or bool(wrong) or not expected
            said = f'differs in {", ".join(wrong)}' if wrong else 'the same, bit for bit'
            print(f'{command}: {kills} kills, {len(expected)} results: {said}', flush=True)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
