"""The walls of the tree: who may import whom, how long a file may be, what nobody may import."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A file at the top is a command, a folder is a room. Imports go down this list, or sideways within
# a row as long as no circle comes of it.
COMMANDS = [
    '__main__',
    'main',
    'prepare',
    'predict',
    'serve',
    'calibrate',
    'export',
    'sweep',
    'ensemble',
    'score',
    'regional_table',
    'robustness',
    'interpret',
    'embeddings',
    'compare_classes',
    'evaluate_hands',
    'check_hands',
    'survey',
    'fits',
]
ROWS = [
    COMMANDS,
    ['report', 'mine', 'web'],
    ['analysis'],
    ['inference'],
    ['accelerators'],
    ['training'],
    ['stages'],
    ['figures'],
    ['runs'],
    ['tasks'],
    ['models'],
    ['preprocess'],
    ['data'],
    ['cli'],
    ['runtime'],
    ['presets'],
    ['config'],
    ['stages.catalog'],
    ['config_files', 'config_keys', 'config_ranges', 'renamed'],
    ['errors'],
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}

TENSORFLOW = (
    'tensorflow',
    'clu.metric_writers',
    'clu.periodic_actions',
)  # the last two import the first


def sources(*folders):
    """The Python files under folders of the project."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob('*.py'))]


def imports(text, package=''):
    """Dotted names that a source imports.

    ``from a import b`` gives ``a.b``, which may be a module or not.
    """
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parts = package.split('.')
                base = '.'.join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            names += [f'{base}.{alias.name}' for alias in node.names]
    return names


def package_of(path):
    """Dotted package that relative imports in ``path`` start from."""
    return '.'.join(path.relative_to(ROOT).parent.parts)


def is_under(name, module):
    return name == module or name.startswith(module + '.')


def unit(path):
    """The name in ROWS that a file of boneage_jax belongs to; None for the package's __init__."""
    parts = path.relative_to(ROOT / 'boneage_jax').with_suffix('').parts
    if '.'.join(parts) in ROW:
        return '.'.join(parts)
    return None if parts[0] == '__init__' else parts[0]


def inner_imports(names):
    """The units of boneage_jax that imported names belong to ('' for the bare package)."""
    units = set()
    for name in names:
        if not is_under(name, 'boneage_jax'):
            continue
        parts = name.split('.')[1:]
        if '.'.join(parts[:2]) in ROW:
            units.add('.'.join(parts[:2]))
        else:
            units.add(parts[0] if parts else '')
    return units


def circle(graph):
    """A circle of imports as a list of names, or None. ``graph``: {name: names that it imports}."""
    done = set()
    path = []

    def visit(name):
        if name in path:
            return path[path.index(name) :] + [name]
        if name in done:
            return None
        path.append(name)
        for other in sorted(graph.get(name, ())):
            if found := visit(other):
                return found
        done.add(path.pop())
        return None

    for name in sorted(graph):
        if found := visit(name):
            return found
    return None


def asks_config_for_default(text):
    """Line numbers of ``config.get(...)``, also of ``config.model`` and ``self.config``."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == 'get'
        ):
            owner = node.func.value
            names = set()
            while isinstance(owner, ast.Attribute):
                names.add(owner.attr)
                owner = owner.value
            if isinstance(owner, ast.Name):
                names.add(owner.id)
            if names & {'config', 'cfg'}:
                lines.append(node.lineno)
    return lines


def test_every_module_has_a_place():
    files = sources('boneage_jax')
    assert files, 'no source found: the tests look in the wrong place'
    strangers = {unit(path) for path in files} - set(ROW) - {None}
    assert not strangers, f'{strangers} are not in ROWS: give them a row in docs/design.md and here'


def test_imports_go_down():
    graph = {}
    wrong = []
    for path in sources('boneage_jax'):
        name = unit(path)
        found = inner_imports(imports(path.read_text(), package_of(path)))
        if name is None:
            wrong += [f'{path.name} of the package imports boneage_jax.{other}' for other in found]
            continue
        graph.setdefault(name, set()).update(other for other in found if other and other != name)
        wrong += [
            f'{name} imports {other}, which stands above it'
            for other in found
            if other in ROW and ROW[other] < ROW[name]
        ]
    assert not wrong, '\n'.join(wrong)
    assert circle(graph) is None, ' -> '.join(circle(graph))


def test_tfds_rsna_is_the_ground_floor():
    wrong = [
        (path.name, name)
        for path in sources('tfds_rsna')
        for name in imports(path.read_text(), package_of(path))
        if is_under(name, 'boneage_jax') or is_under(name, 'configs') or is_under(name, 'jax')
    ]
    assert not wrong


def test_no_circle_of_modules_in_tfds_rsna():
    files = {}
    for path in sources('tfds_rsna'):
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        files[name.removesuffix('.__init__')] = path
    graph = {}
    for name, path in files.items():
        graph[name] = set()
        for imported in imports(path.read_text(), package_of(path)):
            # `from a import b` imports the module a.b where there is one, else it is a name of a
            module = imported if imported in files else imported.rpartition('.')[0]
            if module in files and module != name:
                graph[name].add(module)
    assert graph['tfds_rsna.io.decoding'] >= {'tfds_rsna.io.dicom', 'tfds_rsna.io.pixels'}
    found = circle(graph)
    assert found is None, ' -> '.join(found)


def test_configs_import_only_config():
    allowed = ('boneage_jax.config', 'boneage_jax.errors', 'boneage_jax.presets', 'ml_collections')
    wrong = [
        (path.name, name)
        for path in sources('configs')
        for name in imports(path.read_text())
        if name.split('.')[0] not in sys.stdlib_module_names
        and not any(is_under(name, module) for module in allowed)
    ]
    assert not wrong


def test_config_imports_no_jax():
    names = []
    for module in ('config', 'config_files', 'config_keys', 'config_ranges', 'presets', 'renamed'):
        names += imports((ROOT / f'boneage_jax/{module}.py').read_text())
    assert names
    assert not [
        name
        for name in names
        if name.split('.')[0] in ('jax', 'flax', 'optax', 'orbax', 'grain', 'clu')
    ]


def test_no_source_imports_tensorflow():
    files = sources('boneage_jax', 'tfds_rsna', 'configs', 'benchmarks')
    wrong = [
        (path.name, name)
        for path in files
        for name in imports(path.read_text(), package_of(path))
        if any(is_under(name, module) for module in TENSORFLOW)
    ]
    assert not wrong


def test_orbax_stays_in_checkpoint():
    users = {
        path.relative_to(ROOT / 'boneage_jax').as_posix()
        for path in sources('boneage_jax')
        if any(is_under(name, 'orbax') for name in imports(path.read_text()))
    }
    assert users <= {'runtime/checkpoint.py'}


def test_no_defaults_asked_of_the_config():
    wrong = [
        f'{path.name}:{line}'
        for path in sources('boneage_jax', 'configs')
        for line in asks_config_for_default(path.read_text())
    ]
    assert not wrong, f'{wrong}: give the key a value in the config instead'


def test_files_stay_short():
    files = sources('boneage_jax', 'tfds_rsna', 'configs', 'benchmarks')
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert not {name: count for name, count in lines.items() if count > 500}
    assert lines.get('boneage_jax/main.py', 0) < 80
    assert not [name for name in lines if name.endswith('/utils.py')]


@pytest.mark.parametrize(
    'text, expected',
    [
        ('import tensorflow as tf', ['tensorflow']),
        ('from clu import metric_writers', ['clu.metric_writers']),
        ('import tensorflow_datasets', ['tensorflow_datasets']),
        ('def f():\n    from boneage_jax.train import run', ['boneage_jax.train.run']),
        ('from . import layers', ['boneage_jax.models.layers']),
        ('from ..data import source', ['boneage_jax.data.source']),
        ('from .. import train', ['boneage_jax.train']),
    ],
)
def test_imports_are_found(text, expected):
    assert imports(text, 'boneage_jax.models') == expected


def test_rules_catch_what_they_are_for():
    assert is_under('tensorflow.io', 'tensorflow') and not is_under(
        'tensorflow_datasets', 'tensorflow'
    )
    assert inner_imports(['boneage_jax.train.run', 'jax.numpy']) == {'train'}
    assert circle({'data': {'models'}, 'models': {'losses'}, 'losses': {'data'}}) == [
        'data',
        'models',
        'losses',
        'data',
    ]
    assert circle({'data': {'models'}, 'losses': {'models'}}) is None
    assert asks_config_for_default(
        'a = config.get("x", 1)\nb = config.model.get("y")\nc = row.get("config")'
    ) == [1, 2]
    assert asks_config_for_default('a = self.config.get("x")') == [1]
