"""The tables of docs/results.md, written from the CSV files in docs/results.

    python -m benchmarks.results_tables --check        # exit status 1 where the page differs
    python -m benchmarks.results_tables --write

The page marks the place of a table with `<!-- table: NAME -->` and `<!-- end -->`; what is between
them comes from docs/results/NAME.csv. A sweep's file has the columns of its table.csv. Any other
file has the columns that fit it: `X_lower` and `X_upper` are the interval of `X`. What all rows
share (data, split, seed, hardware, commit) goes into a line below the table, and the commands into
a block. `<!-- table: NAME digits=3 -->` limits the decimal places, which are 2 otherwise.
"""

from __future__ import annotations

import argparse
import csv
import decimal
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'results.md'
FOLDER = ROOT / 'docs' / 'results'
# As boneage_jax.analysis.table writes them; a test compares the two.
SWEEP = (
    'row',
    'paper',
    'ours',
    'lower',
    'upper',
    'reference',
    'delta',
    'delta_lower',
    'delta_upper',
    'seeds',
    'split',
    'data',
    'minutes',
    'commit',
)
# Columns that leave the table for the line below it where all rows agree.
FACTS = ('data', 'split', 'images', 'seed', 'seeds', 'hardware', 'time', 'commit')
SIGNED = ('delta', 'minus', 'gain')
_MARKER = re.compile(
    r'(<!-- table: (?P<name>[\w-]+)(?: digits=(?P<digits>\d+))? -->\n)(?P<body>.*?)(<!-- end -->)',
    re.DOTALL,
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.results_tables',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    do = parser.add_mutually_exclusive_group(required=True)
    do.add_argument('--check', action='store_true', help='compare the page with the CSV files')
    do.add_argument('--write', action='store_true', help='write the tables into the page')
    arguments = parser.parse_args(argv)

    page = PAGE.read_text()
    expected = filled(page, FOLDER)
    if expected == page:
        return 0
    if arguments.write:
        PAGE.write_text(expected)
        return 0
    print(
        f'{PAGE}: tables differ from {FOLDER}; run python -m benchmarks.results_tables --write',
        file=sys.stderr,
    )
    return 1


def names(page: str) -> list[str]:
    """The tables that a page asks for, in its order."""
    return [marker['name'] for marker in _MARKER.finditer(page)]


def filled(page: str, folder: pathlib.Path) -> str:
    """The page with every table between markers written anew from `folder`."""

    def replace(marker):
        rows = read(folder / f'{marker["name"]}.csv')
        text = table(rows, int(marker['digits'] or 2))
        return f'{marker[1]}\n{text}\n{marker[5]}'

    return _MARKER.sub(replace, page)


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a CSV file as dicts of texts."""
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]], digits: int) -> str:
    """The markdown of one table: the table itself, the facts that its rows share, the commands."""
    columns = list(rows[0])
    facts = {}
    for name in FACTS:
        values = {row.get(name, '') for row in rows}
        if len(values) == 1:
            facts[name] = values.pop()
    hidden = {*facts, 'command'}
    references = {row.get('reference', '') for row in rows} - {''}
    titles = {'delta': 'minus reference, same images', 'minutes': 'minutes a run'}
    if len(references) == 1:
        titles['delta'] = f'minus {references.pop()}, same images'
        hidden.add('reference')
    hidden.update(name for name in columns if name.endswith(('lower', 'upper')))
    shown = [name for name in columns if name not in hidden and any(row[name] for row in rows)]

    lines = [[_title(name, columns, titles) for name in shown], ['---'] * len(shown)]
    for row in rows:
        lines.append([_cell(row, name, digits) for name in shown])
    parts = ['\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)]
    said = [f'{name} {value}' for name, value in facts.items() if value]
    if said:
        parts.append(f'All rows: {"; ".join(said)}.')
    commands = _commands(rows, shown[0])
    if commands:
        parts.append(commands)
    return '\n\n'.join(parts) + '\n'


def bounds(name: str, columns: list[str]) -> tuple[str, str] | None:
    """The columns that hold the interval of column `name`, None where it has no interval."""
    prefix = '' if name == 'ours' else f'{name}_'
    pair = (f'{prefix}lower', f'{prefix}upper')
    return pair if set(pair) <= set(columns) else None


def _title(name, columns, titles):
    title = titles.get(name, name)
    return f'{title} [95% interval]' if bounds(name, columns) else title


def _cell(row, name, digits):
    """The text of a cell, its interval included; a dash where a figure is missing."""
    if not row[name]:
        return '–'
    if name == 'commit':
        return row[name]  # 5e44149 is no number
    signed = name.startswith(SIGNED)
    text = _number(row[name], digits, signed)
    pair = bounds(name, list(row))
    if pair is None or not row[pair[0]]:
        return text
    lower, upper = (_number(row[bound], digits, signed) for bound in pair)
    return f'{text} [{lower} to {upper}]'


def _number(text, digits, signed):
    """A number with at most `digits` decimal places, as written where it has fewer; texts as is."""
    try:
        value = decimal.Decimal(text)
    except decimal.InvalidOperation:
        return text
    if -value.as_tuple().exponent > digits:
        value = value.quantize(decimal.Decimal(1).scaleb(-digits), decimal.ROUND_HALF_UP)
    return f'{value:+}' if signed else str(value)


def _commands(rows, first):
    """A block of the commands of all rows, each below the names of its rows."""
    of = {}
    for row in rows:
        if row.get('command'):
            of.setdefault(row['command'], []).append(row[first])
    if not of:
        return ''
    lines = []
    for command, owners in of.items():
        if len(of) > 1:
            lines.append(f'# {", ".join(dict.fromkeys(owners))}')
        lines.append(command)
    return '\n'.join(['```bash', *lines, '```'])


if __name__ == '__main__':
    sys.exit(main())
