"""docs/results.md has the tables of docs/results/*.csv, all of them and nothing else."""

import math
import subprocess
import sys

import pytest

from benchmarks import results_tables
from boneage_jax.analysis import table

FILES = sorted(results_tables.FOLDER.glob('*.csv'))


def test_the_page_holds_the_tables_of_its_files():
    page = results_tables.PAGE.read_text()
    assert results_tables.filled(page, results_tables.FOLDER) == page, (
        'run python -m benchmarks.results_tables --write'
    )


def test_every_file_has_one_place_on_the_page_and_no_table_is_written_by_hand():
    page = results_tables.PAGE.read_text()
    assert sorted(results_tables.names(page)) == [path.stem for path in FILES]
    prose = results_tables._MARKER.sub('', page)
    assert not [line for line in prose.splitlines() if line.startswith('|')]
    assert 'table:' not in prose and '<!-- end' not in prose


def test_a_sweep_file_has_the_columns_that_a_sweep_writes():
    assert results_tables.SWEEP == table.COLUMNS
    sweeps = [path for path in FILES if 'ours' in results_tables.read(path)[0]]
    assert len(sweeps) >= 8
    for path in sweeps:
        assert tuple(results_tables.read(path)[0]) == table.COLUMNS, path.name


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_figures_lie_in_their_intervals(path):
    rows = results_tables.read(path)
    columns = list(rows[0])
    for row in rows:
        assert None not in row and None not in row.values(), f'{path.name}: {row} is ragged'
        for name in columns:
            pair = results_tables.bounds(name, columns)
            if pair is None:
                continue
            lower, upper = row[pair[0]], row[pair[1]]
            assert bool(lower) == bool(upper)
            if lower:
                assert float(lower) <= float(row[name]) <= float(upper), f'{path.name}: {row}'


def test_differences_to_a_row_of_the_same_file_are_those_of_the_figures():
    compared = 0
    for path in FILES:
        rows = results_tables.read(path)
        if 'ours' not in rows[0]:
            continue
        of = {row['row']: row for row in rows}
        for row in rows:
            if not row['delta'] or row['reference'] not in of:
                continue
            expected = float(row['ours']) - float(of[row['reference']]['ours'])
            unit = 0.001 if float(row['ours']) < 1 else 0.01
            assert math.isclose(float(row['delta']), expected, abs_tol=1.01 * unit), (
                path.name,
                row,
            )
            compared += 1
    assert compared > 20


def test_cells():
    rows = [
        {
            'row': 'a',
            'ours': '0.123456',
            'lower': '0.1',
            'upper': '0.2',
            'reference': '',
            'delta': '',
            'delta_lower': '',
            'delta_upper': '',
            'split': 'holdout',
            'command': 'run a',
        },
        {
            'row': 'b',
            'ours': '0.5',
            'lower': '0.4',
            'upper': '0.6',
            'reference': 'a',
            'delta': '0.375',
            'delta_lower': '-0.1',
            'delta_upper': '1',
            'split': 'holdout',
            'command': '',
        },
    ]
    assert results_tables.table(rows, 2) == (
        '| row | ours [95% interval] | minus a, same images [95% interval] |\n'
        '| --- | --- | --- |\n'
        '| a | 0.12 [0.1 to 0.2] | – |\n'
        '| b | 0.5 [0.4 to 0.6] | +0.38 [-0.1 to +1] |\n\n'
        'All rows: split holdout.\n\n'
        '```bash\nrun a\n```\n'
    )


def test_a_commit_is_no_number():
    assert results_tables._cell({'commit': '5e44149'}, 'commit', 2) == '5e44149'


def test_check_and_write(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results_tables, 'PAGE', tmp_path / 'page.md')
    monkeypatch.setattr(results_tables, 'FOLDER', tmp_path)
    (tmp_path / 'one.csv').write_text('what,figure\nx,1.234\n')
    results_tables.PAGE.write_text('a\n<!-- table: one digits=1 -->\nold\n<!-- end -->\nb\n')
    assert results_tables.main(['--check']) == 1 and '--write' in capsys.readouterr().err
    assert results_tables.main(['--write']) == 0 and results_tables.main(['--check']) == 0
    text = results_tables.PAGE.read_text()
    assert '| x | 1.2 |' in text and 'old' not in text and text.endswith('<!-- end -->\nb\n')


def test_it_needs_no_jax():
    code = "import sys, benchmarks.results_tables; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True, cwd=results_tables.ROOT)
