"""Lists the commands, and hands over to one: `python -m boneage_jax predict --workdir=...`, or
`boneage predict ...`.
"""

import ast
import importlib
import pathlib
import sys

from boneage_jax import cli

OTHER_NAMES = {'train': 'main'}
ROOMS_WITH_A_COMMAND = ('mine', 'report')


def commands():
    """`{name: (module, first line of its docstring)}` of every command, read without importing any."""
    folder = pathlib.Path(__file__).parent
    files = {path.stem: path for path in sorted(folder.glob('*.py'))}
    files |= {room: folder / room / '__main__.py' for room in ROOMS_WITH_A_COMMAND}
    found = {}
    for name, path in sorted(files.items()):
        tree = ast.parse(path.read_text())
        is_command = any(
            isinstance(node, ast.FunctionDef) and node.name == 'main' for node in tree.body
        )
        if is_command and name != '__main__':
            module = f'boneage_jax.{path.relative_to(folder).with_suffix("").as_posix().replace("/", ".")}'
            found[name] = (module, ast.get_docstring(tree).splitlines()[0])
    return found


def usage(known):
    """The list of commands, one line each."""
    width = max(map(len, known))
    lines = [f'  {name:{width}}  {about}' for name, (_, about) in known.items()]
    others = [f'{other} = {name}' for other, name in OTHER_NAMES.items()]
    return '\n'.join(
        [
            'usage: boneage COMMAND [FLAG ...]',
            '',
            *lines,
            '',
            *others,
            'boneage COMMAND --help shows its flags.',
        ]
    )


def program(argv):
    """Runs the command that `argv[1]` names with the arguments behind it."""
    known = commands()
    if len(argv) < 2 or argv[1] in cli.HELP:
        print(usage(known))
        return
    name = OTHER_NAMES.get(argv[1], argv[1])
    if name not in known:
        sys.exit(f'Error: unknown command {argv[1]!r}\n{usage(known)}')
    sys.argv = [f'boneage {name}', *argv[2:]]
    cli.run(importlib.import_module(known[name][0]).main)


def run():
    """The console script `boneage`."""
    program(sys.argv)


if __name__ == '__main__':
    run()
