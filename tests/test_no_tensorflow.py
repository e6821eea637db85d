"""The project must work where TensorFlow is not installed, and must not touch it where it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Not an ImportError: libraries that try the import and carry on without it would hide the attempt.
STUB = "raise RuntimeError('tensorflow was imported')\n"


def modules():
    """Dotted names of all modules of the project."""
    files = [
        path.relative_to(ROOT)
        for folder in ('boneage_jax', 'tfds_rsna')
        for path in (ROOT / folder).rglob('*.py')
    ]
    return sorted('.'.join(path.with_suffix('').parts).removesuffix('.__init__') for path in files)


@pytest.fixture
def run(tmp_path):
    """Runs Python source in a process whose path holds a ``tensorflow`` that raises when imported."""
    (tmp_path / 'tensorflow').mkdir()
    (tmp_path / 'tensorflow/__init__.py').write_text(STUB)
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])}

    def run(source, *arguments):
        return subprocess.run(
            [sys.executable, '-W', 'error', '-c', source, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_stub_raises(run):
    result = run('import tensorflow')
    assert result.returncode == 1 and 'tensorflow was imported' in result.stderr


def test_modules_import_without_tensorflow(run):
    names = modules()
    assert 'boneage_jax.config' in names
    result = run(
        'import importlib, sys\n'
        'for name in sys.argv[1:]: importlib.import_module(name)\n'
        'assert "tensorflow" not in sys.modules\n'
        'print("done")\n',
        *names,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.endswith('done\n')


def test_a_whole_run_needs_no_tensorflow(run, tmp_path):
    """Renders phantoms, writes and reads the records, trains, saves, evaluates, draws."""
    result = run(
        'import sys\n'
        'from boneage_jax import config\nfrom boneage_jax.training import loop\n'
        'loop.train(config.load(sys.argv[1])[1], sys.argv[2])\n'
        'assert "tensorflow" not in sys.modules\n',
        f'{ROOT}/configs/prsnet.py:tiny,row=baseline,epochs=1,data.phantom.seed=1',
        str(tmp_path / 'run'),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'run' / 'metrics.json').exists()
