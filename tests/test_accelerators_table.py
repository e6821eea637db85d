"""docs/accelerators.md from what was kept; programs that are equal are compiled once."""

import json

import pytest

from benchmarks import accelerators as table
from boneage_jax.accelerators import compile as compile_lib
from boneage_jax.accelerators import fits, topology
from boneage_jax.errors import UserError

STEP = {
    'fits': 'yes',
    'memory': {'total': 1_360_000_000},
    'operations': {'bfloat16': 1791 * 10**9},
    'moved_bytes': 13 * 10**9,
    'estimated_cycles': 0,
    'seconds': {'compute': 0.0018, 'memory': 0.0039, 'links': 0.0},
    'bound': 'memory',
    'least_seconds': 0.0039,
    'forbidden': [],
}
FIGURES = {
    'run': {'batch_size': 16, 'epochs': 100, 'images': 12611, 'dtype': 'bfloat16'},
    'versions': {'jax': '0.12.0.1'},
    'programs': {'training step': STEP},
    'largest_batch': {'size': 700, 'compiled': {}},
}


def test_every_row_of_every_config_that_trains_by_gradients():
    found = [(name, row) for name, row, _ in table.specs()]
    assert len(found) == len(set(found)) > 60
    assert ('prsnet', 'without relation') in found and ('unet', '') in found
    assert next(iter(table.specs(['prsnet'], ['full'])))[2].endswith('prsnet.py:row=full')


@pytest.fixture
def compiled(monkeypatch):
    """The names of what was compiled; programs of one size are equal."""
    names = []

    class Run:
        def __init__(self, config, goal, devices, *, images):
            self.config = config

        def digest(self, name, size):
            return f'{self.config.model.relation}'

    def compile_it(config, target, *, largest, names):
        compiled.append((target, config.model.relation))
        if target == 'v5e':
            raise UserError('the training step cannot be compiled')
        return FIGURES

    compiled = names
    monkeypatch.setattr(compile_lib, 'Run', Run)
    monkeypatch.setattr(fits, 'fits', compile_it)
    monkeypatch.setattr(topology, 'devices', lambda goal: [])
    return names


def test_the_table_grows_and_goes_on(compiled, tmp_path):
    places = [f'--output={tmp_path / "kept.json"}', f'--page={tmp_path / "page.md"}']
    table.main([*places, '--configs', 'prsnet', '--rows', 'full', '--targets', 'h100'])
    assert compiled == [('h100', True)]
    # 'without selection' makes the program of 'full' here, 'baseline' that of 'without relation'.
    table.main([*places, '--configs', 'prsnet', '--targets', 'h100', 'v5e'])
    assert compiled == [('h100', True), ('h100', False), ('v5e', False), ('v5e', True)]
    table.main([*places, '--configs', 'prsnet', '--targets', 'h100', 'v5e'])
    assert len(compiled) == 4

    kept = json.loads((tmp_path / 'kept.json').read_text())
    assert len(kept['rows']) == 8 and len(kept['programs']) == 4
    page = (tmp_path / 'page.md').read_text()
    # 100 epochs of 788 steps, 3.9 ms each: 0.085 hours.
    line = '| prsnet | full | 16 | 1.36 | yes | 700 | 13.00 | 1.79 | 3.90 | memory | 0.085 |'
    assert line in page and 'Nothing was run on these devices' in page
    assert 'cannot be compiled' in page.split('## v5e')[1]
    assert 'Not compiled yet' in page.split('## h100')[1] and 'a100-40' in page
    (tmp_path / 'page.md').unlink()
    table.main([*places, '--only_table'])
    assert (tmp_path / 'page.md').read_text() == page and len(compiled) == 4
