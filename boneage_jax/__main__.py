"""The program `boneage`: lists the commands, and hands over to the one that is named.

    boneage
    boneage predict --workdir=runs/a --input=images/ --output=ages.csv

`python -m boneage_jax` does the same.
"""

import ast
import importlib
import pathlib
import sys

from boneage_jax import cli

OTHER_NAMES = {'train': 'main'}
ROOMS_WITH_A_COMMAND = ('mine', 'report')


def commands() -> dict[str, tuple[str, str]]:
    """`{command: (module, first line of its docstring)}`, read without importing any of them."""
    folder = pathlib.Path(__file__).parent
    files = {path.stem: path for path in folder.glob('*.py')}
    for room in ROOMS_WITH_A_COMMAND:
        files[room] = folder / room / '__main__.py'

    found = {}
    for name, path in sorted(files.items()):
        tree = ast.parse(path.read_text())
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if 'main' in functions:
            place = path.relative_to(folder).with_suffix('')
            module = '.'.join(['boneage_jax', *place.parts])
            found[name] = (module, ast.get_docstring(tree).splitlines()[0])
    return found


def usage(known: dict[str, tuple[str, str]]) -> str:
    """The list of the commands `known`, one line each."""
    width = max(map(len, known))
    lines = ['usage: boneage COMMAND [FLAG ...]', '']
    for name, (_, about) in known.items():
        lines.append(f'  {name:{width}}  {about}')
    lines.append('')
    for other, name in OTHER_NAMES.items():
        lines.append(f'`boneage {other}` is `boneage {name}`.')
    lines.append('`boneage COMMAND --help` shows the flags of a command.')
    return '\n'.join(lines)


def hand_over(argv: list[str]) -> None:
    """Runs the command `argv[1]` with the arguments behind it; without one, lists the commands."""
    known = commands()
    if len(argv) < 2 or argv[1] in cli.HELP:
        print(usage(known))
        return
    name = OTHER_NAMES.get(argv[1], argv[1])
    if name not in known:
        sys.exit(f'Error: unknown command {argv[1]!r}\n\n{usage(known)}')
    module, _ = known[name]
    sys.argv = [f'boneage {name}', *argv[2:]]
    cli.run(importlib.import_module(module).main)


def run() -> None:
    """The console script `boneage`."""
    hand_over(sys.argv)


if __name__ == '__main__':
    run()
