"""kill -9 at a seeded step: what resumes ends bit for bit as what was never stopped.

Training is killed in tests/test_run.py; `benchmarks.kills` kills all commands at random moments.

A step is a file or folder that takes its name: whatever a command finishes, it renames.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import kills

ARGUMENTS = {
    'prepare': ('--config=configs/prsnet.py:tiny,stages=(mask,contrast),count=24',),
    'sweep': ('--config=configs/classical.py:tiny', '--rows=male linear,female linear'),
    'mine': (f'--config=configs/unet.py:{kills.MINING}', '--rounds=2'),
}
MODULES = {'mine': 'boneage_jax.mine.__main__'}

# Runs a module's `main` up to one of its renamings in a folder, and is killed there.
KILLED = """
import importlib, os, signal, sys

if __name__ == '__main__':
    last, folder, module, *arguments = sys.argv[1:]
    counted = [0]

    def counting(function):
        def wrapped(source, target, **options):
            counted[0] += os.fspath(target).startswith(folder)
            if counted[0] == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(source, target, **options)

        return wrapped

    os.rename = counting(os.rename)
    os.replace = counting(os.replace)
    importlib.import_module(module).main([module, *arguments])
"""


def run_in(folder, command, monkeypatch):
    """(the run of a command in a folder of its own, its arguments)."""
    arguments = list(ARGUMENTS[command])
    if command == 'prepare':
        monkeypatch.setenv('BONEAGE_CACHE', str(folder / 'cache'))
    else:
        arguments.append(f'--workdir={folder / "run"}')
    if command == 'mine':
        arguments.append(f'--config.mine.folder={kills.phantoms()}')
    return kills.Run(command, folder, tuple(arguments)), arguments


@contextlib.contextmanager
def counted(folder):
    """A list of the files and folders in `folder` that get their names inside."""
    done = []

    def counting(function):
        def wrapped(source, target, **options):
            if os.fspath(target).startswith(str(folder)):
                done.append(target)
            return function(source, target, **options)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'rename', counting(os.rename))
        patch.setattr(os, 'replace', counting(os.replace))
        yield done


@pytest.mark.parametrize('command', list(ARGUMENTS))
def test_a_command_that_is_killed_ends_as_one_that_is_not(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    module = MODULES.get(command, f'boneage_jax.{command}')
    whole, arguments = run_in(tmp_path / 'whole', command, monkeypatch)
    with counted(tmp_path / 'whole') as steps:
        importlib.import_module(module).main([command, *arguments])
    assert len(steps) >= 4

    broken, arguments = run_in(tmp_path / 'broken', command, monkeypatch)
    last = int(np.random.default_rng(list(command.encode())).integers(2, 2 * len(steps) // 3))
    script = tmp_path / 'killed.py'
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), str(last), str(tmp_path / 'broken'), module, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert kills.differences(whole.results(), broken.results()), 'the kill came too late'
    importlib.import_module(module).main([command, *arguments])
    expected = whole.results()
    assert expected and not kills.differences(expected, broken.results())
