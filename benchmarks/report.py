"""A benchmark's result: rows for a table, one JSON file, the flags that all of them share."""

import argparse
import json
import pathlib

from benchmarks import machine
from boneage_jax.runtime import files


def parser(name, doc):
    """The arguments that every benchmark has: --output, --repeats."""
    parser = argparse.ArgumentParser(
        prog=f'python -m benchmarks.{name}',
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--output',
        type=pathlib.Path,
        default=pathlib.Path('runs/benchmarks') / f'{name}.json',
        help='the JSON file with every figure (default: %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=5,
        help='measurements of each figure: best and median are shown',
    )
    return parser


def row(what, values, unit, *, note='', smaller=False, **more):
    """One line of the table: `values` are rates, or times where `smaller` is better; `more` goes
    into the JSON only.
    """
    return {'what': what, 'unit': unit, 'note': note, **machine.summary(values, smaller), **more}


def table(rows):
    """The rows as a markdown table."""
    lines = [['what', 'best', 'median', 'unit', '']]
    lines += [
        [r['what'], _short(r['best']), _short(r['median']), r['unit'], r['note']] for r in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    lines.insert(1, ['-' * w for w in widths])
    return '\n'.join(
        '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + ' |'
        for line in lines
    )


def finish(name, arguments, facts, rows):
    """Prints the table and writes the JSON; returns what it wrote."""
    settings = {
        key: str(value) if isinstance(value, pathlib.Path) else value
        for key, value in vars(arguments).items()
    }
    result = {'benchmark': name, 'settings': settings, 'machine': facts, 'rows': rows}
    write(arguments.output, json.dumps(result, indent=1) + '\n')
    print(f'{table(rows)}\n{arguments.output}')
    return result


def write(path, text):
    """Writes a whole file or none, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, text)


def _short(value):
    return f'{value:,.0f}' if value >= 1000 else f'{value:.3g}'
