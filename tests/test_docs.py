"""The documents stay true: the tree, the order, links, commands and configurations."""

import pathlib
import re
import shlex

import pytest

from boneage_jax import config as c

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        ROOT / 'README.md',
        ROOT / 'CONTRIBUTING.md',
        *sorted((ROOT / 'docs').glob('*.md')),
    )
}
README = PAGES['README.md']
DESIGN = PAGES['docs/design.md']
WITH_COMMANDS = ('README.md', 'docs/guide.md', 'docs/adding_a_paper.md')


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


TREE = tree(re.search(r'## Rooms\n.*?\n```\n(.*?)\n```', DESIGN, re.DOTALL)[1])


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
    assert len(named) > 40 and len(named) == len(set(named))
    for path in named:
        there = (ROOT / path).is_dir() if path.endswith('/') else (ROOT / path).is_file()
        assert there, f'{path} is not there'
    files = {path.name for path in (ROOT / 'boneage_jax').glob('*.py')} - {
        '__init__.py',
        '__main__.py',
    }
    for package in ('boneage_jax', 'tfds_rsna'):
        rooms = {f'{path.parent.name}/' for path in (ROOT / package).glob('*/__init__.py')}
        expected = rooms | (files | {'weights/'} if package == 'boneage_jax' else set())
        assert {path.removeprefix(f'{package}/') for path in named if path.startswith(package)} - {
            ''
        } == expected


def test_every_page_that_is_referred_to_is_in_the_repository():
    """No file names a page that only its authors have."""
    folders = ('boneage_jax', 'tfds_rsna', 'configs', 'benchmarks', 'tests', 'launch', 'docs')
    sources = [path for folder in folders for path in (ROOT / folder).rglob('*.*')]
    sources = [path for path in sources if path.suffix in ('.py', '.md', '.sh', '.html', '.ipynb')]
    found = 0
    for path in sources:
        for page in re.findall(r'\b(docs/[\w/]+\.md|[A-Z]{2,}\.md)\b', path.read_text()):
            written_by_a_command = page == 'NAME.md' or page.startswith('docs/benchmarks/')
            if not written_by_a_command:
                found += 1
                assert (ROOT / page).is_file(), f'{path} refers to {page}'
    assert found > 10


def test_the_readme_is_short():
    assert len(README.split()) <= 1200


def test_the_order_is_that_of_a_newcomer():
    assert re.findall(r'^## (.*)$', README, re.MULTILINE) == [
        'Two commands',
        'The papers',
        'Data, in three ways',
        'Commands',
        'The code',
        'What to know before quoting a figure',
        'Terms and citation',
    ]
    table = README.split('## The papers')[1].split('\n## ')[0]
    named = ' '.join(line.split('|')[2] for line in table.splitlines() if line.startswith('| '))
    configs = {path.stem for path in (ROOT / 'configs').glob('*.py')} - {'__init__'}
    assert set(re.findall(r'`(\w+)`', named)) | {'strong'} == configs and '`strong`' in README


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)\s]+)\)', PAGES[page])
    assert links or page == 'docs/results.md'
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


@pytest.mark.parametrize('page', WITH_COMMANDS)
def test_commands_and_configurations_are_real(page):
    text = re.sub(r'\\\n\s*', '', PAGES[page])
    modules = set(
        re.findall(
            r'(?:launch/run\.sh |python -m |`)'
            r'((?:boneage_jax|tfds_rsna|benchmarks)(?:\.\w+)+) (?=[-\w])',
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
