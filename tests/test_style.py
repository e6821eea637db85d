"""The formatter and the linter own the layout; both find nothing in the whole tree."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize('arguments', [['check'], ['format', '--check']], ids=' '.join)
def test_ruff_finds_nothing(arguments):
    command = [sys.executable, '-m', 'ruff', *arguments, '--no-cache', '.']
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr
