"""The notebook: plain Python, outputs cleared, and its cells run as a script from top to bottom."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from boneage_jax.analysis import robustness
from boneage_jax.report import html

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / 'launch' / 'colab.ipynb').read_text())
CODE = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']
TINY = (
    'configs/prsnet.py:tiny,epochs=1,data.phantom.count=64,data.holdout=24,'
    'data.validation=8,precise_bn_batches=0'
)
AGES = 'id,file,male,prediction,years,lower,upper,status,flags,spread,distance_quantile'  # no age
pytestmark = pytest.mark.timeout(900)  # a minute where nothing else runs


def source(cell):
    return ''.join(cell['source'])


def tagged(tag):
    return [cell for cell in CODE if tag in cell['metadata'].get('tags', ())]


def rows(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_cells_are_plain_python_without_outputs():
    assert tagged('install') == [CODE[0]] and tagged('image') == [CODE[1]]
    for cell in CODE:
        assert cell['outputs'] == [] and cell['execution_count'] is None
        compile(source(cell), 'cell', 'exec')  # no magics
    assert "'--constraint', str(CODE / 'requirements.lock')" in source(CODE[0])


def test_the_install_cell_says_what_to_put_where(tmp_path):
    assert source(CODE[0]).splitlines()[6].startswith('REPOSITORY = ')  # the error names the line
    done = subprocess.run(
        [sys.executable, '-c', source(CODE[0])], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and 'ValueError: REPOSITORY still says what to put there' in done.stderr
    )
    assert not list(tmp_path.iterdir())


def run_image_cell(monkeypatch, folder, uploaded):
    """The cell that chooses images, in a Colab whose user uploads `{name: bytes}`."""
    colab = types.ModuleType('google.colab')
    colab.files = types.SimpleNamespace(upload=lambda: uploaded)
    monkeypatch.setitem(sys.modules, 'google.colab', colab)
    monkeypatch.setenv('BONEAGE_NOTEBOOK_FOLDER', str(folder / 'out'))
    monkeypatch.chdir(folder)
    exec(compile(source(CODE[1]), 'cell', 'exec'), {})
    return {path.name: path.read_bytes() for path in (folder / 'out' / 'images').iterdir()}


def test_uploaded_images_are_taken_and_no_copy_is_left(tmp_path, monkeypatch):
    pytest.importorskip('google')
    (tmp_path / 'hand.png').write_bytes(b'abc')  # where Colab itself puts it
    found = run_image_cell(monkeypatch, tmp_path, {'hand.png': b'abc', 'b.dcm': b'd'})
    assert found == {'hand.png': b'abc', 'b.dcm': b'd'}
    assert not (tmp_path / 'hand.png').exists()
    # Another choice takes the place of the first; a cancelled one is the phantom.
    assert list(run_image_cell(monkeypatch, tmp_path, {})) == ['phantom.png']


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """(folder, what each cell printed) of the whole notebook, without installing."""
    folder = tmp_path_factory.mktemp('notebook')
    script = folder / 'notebook.py'
    parts = [f'print("<cell>", flush=True)\n{source(cell)}' for cell in CODE[1:]]
    script.write_text('\n\n'.join(parts))
    environment = os.environ | {
        'BONEAGE_NOTEBOOK_CONFIG': TINY,
        'BONEAGE_NOTEBOOK_FOLDER': str(folder / 'out'),
        'BONEAGE_NOTEBOOK_IMAGES': '4',
        'PYTHONPATH': str(ROOT),
        'XLA_FLAGS': '--xla_backend_optimization_level=0',
    }  # one device
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Traceback' not in done.stdout + done.stderr
    return folder / 'out', done.stdout.split('<cell>')[1:]


def test_the_shipped_network_tells_the_age_of_the_phantom(executed):
    out, printed = executed
    assert 'Images: phantom.png' in printed[0]
    assert (out / 'ages' / 'ages.csv').read_text().splitlines()[0] == AGES
    (row,) = rows(out / 'ages' / 'ages.csv')
    assert (row['id'], row['male'], row['status'], row['flags']) == ('phantom', 'True', 'ok', '')
    age = float(row['prediction'])
    assert age == pytest.approx(147.85, abs=0.5)  # what `predict` alone says of this phantom
    assert float(row['upper']) - age == pytest.approx(age - float(row['lower']), abs=0.01)
    assert f'phantom (boy): {row["years"]}' in printed[1]
    assert 0.9 < float(row['distance_quantile']) <= 1
    assert str(out / 'ages' / 'overlays' / 'phantom.png') in printed[1]


def test_the_small_network_is_trained_once_and_looked_into(executed):
    out, printed = executed
    run = out / 'table' / 'full' / 'seed0'
    overall = json.loads((run / 'metrics.json').read_text())['splits']['holdout']['overall']
    assert f'Holdout: MAE {overall["mae"]["value"]:.1f} months' in printed[2]
    parts = json.loads((out / 'interpret' / 'parts.json').read_text())
    assert parts['images'] == 8 and 0 <= parts['in_corner']['value'] <= 1
    assert str(out / 'interpret' / 'parts_res3.png') in printed[3]
    assert len(rows(out / 'tsne' / 'tsne.csv')) == 24  # the holdout
    assert str(out / 'tsne' / 'tsne.png') in printed[4]

    lines = rows(out / 'robustness' / 'robustness.csv')
    assert tuple(lines[0]) == robustness.COLUMNS
    assert {line['kind'] for line in lines} == set(robustness.KINDS)
    assert {line['images'] for line in lines} == {'4'}
    turned = {float(line['strength']): line for line in lines if line['kind'] == 'rotation'}
    assert float(turned[0]['delta']) == 0 and float(turned[30]['mae']) > 0

    baseline, full = rows(out / 'table' / 'table.csv')
    assert (baseline['row'], full['row']) == ('baseline', 'full')
    assert (float(baseline['paper']), float(full['paper'])) == (6.52, 4.49)
    assert float(full['ours']) == pytest.approx(overall['mae']['value'], abs=0.01)
    difference = float(full['ours']) - float(baseline['ours'])
    assert float(full['delta']) == pytest.approx(difference, abs=0.02)
    assert '| baseline |' in printed[6] and 'full, seed 0 ->' not in printed[6]  # not once more


def test_the_report_has_all_of_it(executed):
    out, printed = executed
    assert printed[7].split()[-1] == str(out / 'report.html')
    page = (out / 'report.html').read_text()
    for heading in ('My first report', 'Embeddings: tsne', 'Inside the network: interpret'):
        assert heading in page
    for heading in ('Robustness: robustness', 'Table: table'):
        assert heading in page
    assert html.escaped('full/seed0') in page
