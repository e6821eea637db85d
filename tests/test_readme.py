"""The README and the guide stay true: the tree and its captions, the order, links, commands and
configurations.
"""

import pathlib
import re
import shlex

import pytest

from boneage_jax import config as c

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
PAGES = {
    name: (ROOT / name).read_text()
    for name in ('README.md', 'docs/guide.md', 'docs/adding_a_paper.md')
}


def tree(text):
    """[(path, caption)] of a tree: entries are `name  caption`, indented below a folder; deeper
    lines go on a caption.
    """
    entries, folder = [], ''
    for line in text.splitlines():
        found = re.match(r'( {0,2})([\w.]+/?)(?: {2,}(.*))?$', line)
        if not found:
            path, caption = entries.pop()
            entries.append((path, f'{caption} {line.strip()}'))
            continue
        if not found[1]:
            folder = found[2]
        entries.append(((folder if found[1] else '') + found[2], found[3] or ''))
    return entries


TREE = tree(re.search(r'## The tree\n\n```\n(.*?)\n```', README, re.DOTALL)[1])


def test_a_tree_is_read_as_it_is_meant():
    text = 'a/\n  b.py   says: this\n         and that\n  c/     two: x, y\nd/     alone'
    assert tree(text) == [
        ('a/', ''),
        ('a/b.py', 'says: this and that'),
        ('a/c/', 'two: x, y'),
        ('d/', 'alone'),
    ]


def test_the_tree_names_what_is_there_once_and_leaves_nothing_out():
    named = [path for path, _ in TREE]
    assert len(named) > 60 and len(named) == len(set(named))
    for path in named:
        assert (ROOT / path).is_dir() if path.endswith('/') else (ROOT / path).is_file(), (
            f'{path} is not there'
        )
    for folder in ('boneage_jax', 'configs'):
        there = {
            f'{folder}/{path.name}'
            for path in (ROOT / folder).glob('*.py')
            if path.name != '__init__.py'
        }
        there |= {f'{folder}/{path.parent.name}/' for path in (ROOT / folder).glob('*/__init__.py')}
        assert there == {
            path for path in named if path.startswith(f'{folder}/') and path != f'{folder}/'
        }


def test_modules_in_captions_are_those_of_the_package():
    """'the networks: resnet, vgg' names modules; a package that lists any lists all."""
    listed = 0
    for path, caption in TREE:
        found = re.fullmatch(r'.*: (\w+(?:, \w+)+)', caption)
        if found and path.endswith('/') and (ROOT / path / '__init__.py').exists():
            modules = {p.stem for p in (ROOT / path).glob('*.py')} - {'__init__', '__main__'}
            assert set(found[1].split(', ')) == modules, path
            listed += 1
    assert listed >= 6


def test_the_order_is_that_of_a_newcomer():
    assert re.findall(r'^## (.*)$', README, re.MULTILINE) == [
        'Two commands',
        'The papers',
        'Data, in three ways',
        'One command for each thing',
        'How to add a paper',
        'The tree',
        'What to know before quoting a figure',
        'Data terms and citation',
    ]
    table = README.split('## The papers')[1].split('\n## ')[0]
    named = ' '.join(line.split('|')[2] for line in table.splitlines() if line.startswith('| '))
    assert set(re.findall(r'`(\w+)`', named)) == {
        path.stem for path in (ROOT / 'configs').glob('*.py')
    }


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)\s]+)\)', PAGES[page])
    assert links
    for link in links:
        path, _, anchor = link.partition('#')
        if '://' in path:
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r'^#+ (.*)$', target.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r'[^a-z0-9 -]', '', heading.lower()).replace(' ', '-')
                for heading in headings
            }, link


@pytest.mark.parametrize('page', PAGES)
def test_commands_and_configurations_are_real(page):
    text = re.sub(r'\\\n\s*', '', PAGES[page])
    modules = set(
        re.findall(
            r'(?:launch/run\.sh |python -m |`)((?:boneage_jax|tfds_rsna|benchmarks)(?:\.\w+)+) (?=[-\w])',
            text,
        )
    )
    specs = set(re.findall(r"--config=('?configs/\w+\.py[^\s`|]*)", text))
    assert modules and specs
    for module in modules:
        place = ROOT / module.replace('.', '/')
        assert place.with_suffix('.py').exists() or (place / '__main__.py').exists(), module
    for spec in specs:
        spec = ''.join(shlex.split(spec))
        if '...' not in spec and (ROOT / spec.partition(':')[0]).exists():
            c.load(f'{ROOT}/{spec}')
        else:
            assert page == 'docs/adding_a_paper.md', spec  # whose config is its own
