"""The notebook: plain Python, outputs cleared, and its cells run as a script from top to bottom."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / 'launch' / 'colab.ipynb').read_text())
CODE = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']
TINY = (
    'configs/prsnet.py:tiny,row=full,epochs=1,data.phantom.count=64,data.holdout=24,'
    'data.validation=8,precise_bn_batches=0'
)


def source(cell):
    return ''.join(cell['source'])


def is_install(cell):
    return 'install' in cell['metadata'].get('tags', ())


def test_cells_are_plain_python_without_outputs():
    assert [is_install(cell) for cell in CODE].count(True) == 1 and is_install(CODE[0])
    for cell in CODE:
        assert cell['outputs'] == [] and cell['execution_count'] is None
        compile(source(cell), 'cell', 'exec')  # no magics
    assert 'requirements.lock' in source(CODE[0]) and '--no-deps' in source(CODE[0])


def test_the_install_cell_says_what_to_put_where(tmp_path):
    assert source(CODE[0]).splitlines()[5].startswith('REPOSITORY = ')  # the error names the line
    done = subprocess.run(
        [sys.executable, '-c', source(CODE[0])], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and 'ValueError: REPOSITORY still says what to put there' in done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    script = tmp_path / 'notebook.py'
    script.write_text('\n\n'.join(source(cell) for cell in CODE if not is_install(cell)))
    environment = os.environ | {
        'BONEAGE_NOTEBOOK_CONFIG': TINY,
        'BONEAGE_NOTEBOOK_FOLDER': str(tmp_path / 'out'),
        'PYTHONPATH': str(ROOT),
        'XLA_FLAGS': '--xla_backend_optimization_level=0',
    }  # one device
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / 'out'
    assert 'Holdout: MAE' in done.stdout and str(out / 'tsne' / 'tsne.png') in done.stdout
    assert (out / 'age.csv').read_text().count('\n') == 2 and list((out / 'overlay').glob('*.png'))
    page = (out / 'report.html').read_text()
    assert (
        'My first run' in page
        and 'Embeddings: tsne' in page
        and 'Inside the network: interpret' in page
    )
