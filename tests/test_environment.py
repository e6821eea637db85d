"""The lock, setup.py, the hooks and CI agree on versions; .ci/run hides no step's failure."""

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHONS = ('3.11', '3.12', '3.13')


def canonical(name):
    return re.sub('[-_.]+', '-', name).lower()


def locked(python):
    """{package: version} of requirements.lock for one Python; every line is an exact version."""
    versions = {}
    for line in (ROOT / 'requirements.lock').read_text().splitlines():
        if line.startswith('#'):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({'python_version': python}):
            continue
        (exact,) = requirement.specifier
        name = canonical(requirement.name)
        assert exact.operator == '==' and name not in versions, line
        versions[name] = exact.version
    return versions


@pytest.fixture
def setup_file(monkeypatch):
    """What setup.py hands to setuptools."""
    given = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    return given


@pytest.mark.parametrize('python', PYTHONS)
def test_the_lock_has_what_setup_asks_for(setup_file, python):
    versions = locked(python)
    wanted = (
        setup_file['install_requires']
        + setup_file['extras_require']['test']
        + setup_file['extras_require']['dicom']
    )
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({'python_version': python}):
            version = versions[canonical(requirement.name)]
            assert requirement.specifier.contains(version), f'{requirement}: the lock has {version}'


def test_current_jax_beside_the_last_one_for_python_3_11():
    old, *new = (locked(python) for python in PYTHONS)
    assert (old['jax'], old['jaxlib'], old['flax']) == ('0.10.2', '0.10.2', '0.12.8')
    for versions in new:
        assert versions['jax'] == versions['jaxlib'] and versions['jax'].startswith('0.12.')


def test_the_compilers_belong_to_the_jax_of_the_lock(setup_file):
    """requirements-aot.lock: exact versions, for the Pythons that get the current jax."""
    versions = {}
    for line in (ROOT / 'requirements-aot.lock').read_text().splitlines():
        if not line.startswith('#'):
            requirement = Requirement(line)
            (exact,) = requirement.specifier
            assert exact.operator == '==' and str(requirement.marker) == 'python_version >= "3.12"'
            versions[canonical(requirement.name)] = exact.version
    assert versions['jax-cuda12-plugin'] == versions['jax-cuda12-pjrt'] == locked('3.12')['jax']
    assert 'libtpu' in versions and 'nvidia-cudnn-cu12' in versions
    assert not set(versions) & set(locked('3.12'))
    for requirement in setup_file['extras_require']['aot']:
        assert '"3.12"' in requirement


def test_one_version_of_ruff(setup_file):
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    revisions = {
        hook['id']: repository['rev']
        for repository in hooks['repos']
        for hook in repository['hooks']
    }
    ruff = locked('3.12')['ruff']
    assert revisions['ruff-check'] == revisions['ruff-format'] == f'v{ruff}'
    assert f'ruff=={ruff}' in setup_file['extras_require']['test']


def test_public_ci_calls_the_tests_on_pythons_of_the_lock():
    (job,) = yaml.safe_load((ROOT / '.github/workflows/tests.yml').read_text())['jobs'].values()
    pythons = job['strategy']['matrix']['python']
    assert set(pythons) <= set(PYTHONS) and {locked(python)['jax'] for python in pythons} == {
        locked(python)['jax'] for python in PYTHONS
    }
    (step,) = (step for step in job['steps'] if 'run' in step)
    assert step['run'] == 'launch/test.sh' and list(step['env']) == ['BONEAGE_PYTHON_VERSION']


# Stand-ins: they write down how they were called, and fail where FAILS names a word of it.
NOTE = """#!/bin/bash
line="$(basename "$0") ${BONEAGE_PYTHON_VERSION:-} ${BONEAGE_REQUIRE_PARITY:-} $*"
printf '%s\\n' "$line" >> "$HERE/calls.txt"
[ -z "${FAILS:-}" ] || [[ $line != *$FAILS* ]]
"""
PYTHON = """#!/bin/bash
[ "$1" = -c ] && exec "$HERE/one" "$@"
if [ "$2" = venv ]; then
    mkdir -p "$4/bin"
    for name in python boneage; do cp "$HERE/bin/apt-get" "$4/bin/$name"; done
fi
[ "$3" = wheel ] && touch "$8/boneage_jax-0-py3-none-any.whl"
exec "$HERE/bin/pip" "$@"
"""
ONE = f"""#!{sys.executable}
import sys
sys.version_info = (3, 11, 2)
if 'not installed' not in sys.argv[2]:  # environment.sh asks for the packages
    exec(sys.argv[2])
"""
# A Python 3.12, whatever runs the tests.
OTHER = '#!/bin/bash\n[[ $3 == *3.12* || $2 == *ensurepip* ]]\n'


@pytest.fixture
def ci(tmp_path):
    """`ci(*arguments, other=True, **variables)` runs .ci/run among stand-ins: (process, calls)."""
    checkout = tmp_path / 'checkout'
    for name in ('.ci/run', 'launch/environment.sh', 'requirements.lock', 'setup.py'):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    (checkout / 'build').mkdir()

    def write(path, text):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    for name in ('apt-get', 'pip'):
        write(tmp_path / 'bin' / name, NOTE)
    write(checkout / 'launch/test.sh', NOTE)
    write(tmp_path / 'python', PYTHON)
    write(tmp_path / 'one', ONE)
    for name in ('python', 'python3', 'python3.12', 'python3.13', 'python3.11'):
        write(tmp_path / 'bin' / name, '#!/bin/sh\nexit 1\n')

    def run(*arguments, other=True, **variables):
        if other:
            write(tmp_path / 'bin/python3.12', OTHER)
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith('BONEAGE_')
        }
        done = subprocess.run(
            [checkout / '.ci/run', *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=clean
            | {
                'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}',
                'PYENV_ROOT': str(tmp_path),
                'HERE': str(tmp_path),
                'BONEAGE_PYTHON': str(tmp_path / 'python'),
                'CDPATH': '.:..',
                **variables,
            },
        )
        return done, (tmp_path / 'calls.txt').read_text().splitlines()

    return run


def test_ci_runs_every_step(ci):
    done, calls = ci('-x')
    assert done.returncode == 0, done.stderr
    tests = [line for line in calls if line.startswith('test.sh')]
    assert tests[0] == 'test.sh  1 -x' and len(tests) == 2
    assert tests[1].startswith('test.sh 3.12  tests/')
    for name in tests[1].split()[2:]:
        assert (ROOT / name).exists(), name
    assert any(
        line.startswith('boneage ') and 'main --config=prsnet:tiny --workdir=' in line
        for line in calls
    )
    ends = [line.split(', after')[0] for line in done.stderr.splitlines()[-3:]]
    assert ends == [
        f'boneage_jax: passed: {step}'
        for step in (
            'every test on Python 3.11',
            'the tests of jax on Python 3.12',
            'the wheel, installed and run',
        )
    ]


@pytest.mark.parametrize(
    'fails, step',
    [
        ('test.sh  1', 'every test on Python 3.11'),
        ('torch==', 'every test on Python 3.11'),
        ('test.sh 3.12', 'the tests of jax on Python 3.12'),
        ('wheel --quiet', 'the wheel, installed and run'),
        ('--constraint requirements.lock /', 'the wheel, installed and run'),
        ('prsnet:tiny', 'the wheel, installed and run'),
    ],
)
def test_ci_hides_no_failure(ci, fails, step):
    done, _ = ci(FAILS=fails)
    assert done.returncode == 1
    ends = done.stderr.splitlines()[-3:]
    assert [f'FAILED: {step}' in line for line in ends].count(True) == 1
    assert [' passed: ' in line for line in ends].count(True) == 2


def test_ci_says_where_no_other_python_is_found(ci):
    done, calls = ci(other=False)
    assert done.returncode == 0 and [line.split()[0] for line in calls].count('test.sh') == 1
    assert 'left out: the tests of jax on another Python' in done.stderr
