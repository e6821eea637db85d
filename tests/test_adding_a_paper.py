"""docs/adding_a_paper.md works as it stands: its blocks go into a copy of the code, its command
trains the table.
"""

import csv
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
GUIDE = (ROOT / 'docs' / 'adding_a_paper.md').read_text()
# A block stands below the paragraph that begins with the file's name.
BLOCKS = re.findall(
    r'^`([\w/]+\.py)`(?:(?!```|\n\n`)[\s\S])*?\n\n```(python|diff)\n([\s\S]*?)^```$',
    GUIDE,
    re.MULTILINE,
)


def patched(text, hunks):
    """`text` with the hunks of a diff without line numbers; new lines alone go to the end."""
    for hunk in re.split(r'^@@\n', hunks, flags=re.MULTILINE):
        lines = hunk.splitlines(True)
        old, new = (
            ''.join(line[1:] for line in lines if line[0] in kinds) for kinds in (' -', ' +')
        )
        if old:
            assert text.count(old) == 1, f'the guide is stale; it looks for:\n{old}'
            text = text.replace(old, new)
        else:
            text += new
    return text


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp('copy')
    for name in ('boneage_jax', 'configs', 'tfds_rsna'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for path, kind, text in BLOCKS:
        path = folder / path
        assert path.exists() == (kind == 'diff'), (
            f'{path}: a new file is shown as python, a change as diff'
        )
        path.write_text(patched(path.read_text(), text) if kind == 'diff' else text)
    return folder


def test_every_block_belongs_to_a_file():
    assert len(BLOCKS) == len(re.findall(r'^```(?:python|diff)$', GUIDE, re.MULTILINE)) == 6


def test_its_command_trains_the_table(copy):
    command = next(
        line for line in GUIDE.splitlines() if line.startswith('launch/run.sh') and ':tiny ' in line
    )
    arguments = shlex.split(command.removeprefix('launch/run.sh'))
    environment = os.environ | {
        'PYTHONPATH': str(copy),
        'XLA_FLAGS': '--xla_backend_optimization_level=0',
    }  # one device
    done = subprocess.run(
        [sys.executable, '-m', *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (copy / 'runs' / 'ranks_tiny' / 'table.csv').open(newline='') as file:
        rows = {row['row']: row for row in csv.DictReader(file)}
    assert list(rows) == ['one score', 'own weights'] and rows['own weights']['delta']
    # It went into the copy.
    assert 'CORAL' not in (ROOT / 'boneage_jax' / 'tasks' / 'losses.py').read_text()
