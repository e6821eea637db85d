"""The scripts that start a run here or on many hosts, and the Python that they find.

A stand-in for the scheduler's command runs what it is given. A stand-in for Python writes down what
a process of the run would see: its variables, its arguments, its folder.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
RUN = [
    'boneage_jax.main',
    '--config=configs/prsnet.py:tiny,row=full',
    "--workdir=/shared/it's a run",
]
VARIABLES = (
    'BONEAGE_COORDINATOR',
    'BONEAGE_PROCESSES',
    'BONEAGE_PROCESS',
    'BONEAGE_CACHE',
    'BONEAGE_EXTRAS',
)

PYTHON = f"""#!{sys.executable}
import json, os, pathlib, sys
if sys.argv[1] == '-c':
    sys.exit(0)  # launch/environment.sh looks whether the packages are there
seen = {{name: os.environ.get(name) for name in {VARIABLES}}}
seen |= {{'arguments': sys.argv[1:], 'folder': os.getcwd()}}
name = os.environ.get('BONEAGE_PROCESS') or os.environ['WORKER']
(pathlib.Path(__file__).parent / f'seen_{{name}}.json').write_text(json.dumps(seen))
print('hello from', name)
sys.exit(int(os.environ.get('FAILS') == name))
"""


@pytest.fixture
def hosts(tmp_path):
    """`start(command, stand_ins, **variables)` runs a script; `.seen(n)`: what n processes saw."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(*command, stand_ins, cwd=ROOT, **variables):
        for name, text in stand_ins.items():
            write(name, text)
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(('BONEAGE_', 'XLA_', 'SLURM_'))
        }
        return subprocess.run(
            [*command],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=20,
            env=clean
            | {
                'PATH': f'{tmp_path}:{os.environ["PATH"]}',
                'BONEAGE_PYTHON': str(tmp_path / 'python'),
                'HERE': str(tmp_path),
                'BONEAGE_CACHE': '/shared/cache',
                **variables,
            },
        )

    write('python', PYTHON)
    start.seen = lambda count: [
        json.loads((tmp_path / f'seen_{i}.json').read_text()) for i in range(count)
    ]
    return start


def same_run(seen, coordinator, processes='2', process=True):
    for i, one in enumerate(seen):
        assert one['arguments'] == ['-m', *RUN] and one['BONEAGE_CACHE'] == '/shared/cache'
        assert (one['BONEAGE_COORDINATOR'], one['BONEAGE_PROCESSES']) == (coordinator, processes)
        assert one['BONEAGE_PROCESS'] == (str(i) if process else None)


SRUN = """#!/bin/bash
echo "srun $*" > "$HERE/srun.txt"
while [[ $1 == --* ]]; do shift; done
for i in 0 1; do SLURM_PROCID=$i "$@" & done
wait -n && wait -n
"""
SCONTROL = '#!/bin/bash\n[ "$*" = "show hostnames node[7-8]" ] && printf "node7\\nnode8\\n"\n'


def test_slurm(hosts, tmp_path):
    copied = tmp_path / 'slurm_script'  # Slurm runs a copy from its own folder
    copied.write_text((ROOT / 'launch/slurm.sh').read_text())
    done = hosts(
        'bash',
        str(copied),
        *RUN,
        stand_ins={'srun': SRUN, 'scontrol': SCONTROL},
        cwd=tmp_path,
        SLURM_SUBMIT_DIR=str(ROOT),
        SLURM_JOB_ID='41007',
        SLURM_JOB_NODELIST='node[7-8]',
        SLURM_JOB_NUM_NODES='2',
    )
    assert done.returncode == 0, done.stderr
    seen = hosts.seen(2)
    same_run(seen, 'node7:21007')
    assert seen[0]['folder'] == str(ROOT)
    assert '--ntasks-per-node=1 --kill-on-bad-exit=1' in (tmp_path / 'srun.txt').read_text()
    assert 'sbatch' in hosts('bash', str(copied), *RUN, stand_ins={}).stderr


SSH = """#!/bin/bash
echo "$1 $2 $3" >> "$HERE/ssh.txt"
[ "$1 $2" = "-o BatchMode=yes" ] && exec bash -c "$4"
"""


def test_hosts(hosts, tmp_path):
    done = hosts('launch/hosts.sh', 'ann@gpu1,gpu2', *RUN, stand_ins={'ssh': SSH})
    assert done.returncode == 0, done.stderr
    same_run(hosts.seen(2), 'gpu1:12355')
    assert sorted((tmp_path / 'ssh.txt').read_text().split()[2::3]) == ['ann@gpu1', 'gpu2']
    assert 'gpu1: hello from 0' in done.stdout and 'gpu2: hello from 1' in done.stdout


def test_a_host_that_fails_is_named(hosts):
    done = hosts(
        'launch/hosts.sh', 'gpu1,gpu2', *RUN, stand_ins={'ssh': SSH}, FAILS='1', BONEAGE_PORT='9'
    )
    assert (
        done.returncode == 1
        and 'gpu2 ended with status 1' in done.stderr
        and 'gpu1 ended' not in done.stderr
    )
    same_run(hosts.seen(2), 'gpu1:9')


def test_the_end_of_the_script_stops_the_hosts(hosts, tmp_path):
    sleeping = (
        '#!/bin/bash\n[ "$1" = -c ] && exit\ntrap '
        '\'echo stopped > "$HERE/$BONEAGE_PROCESS"; exit\' TERM\n'
        'echo $PPID > "$HERE/started_$BONEAGE_PROCESS"; while :; do sleep 0.1; done\n'
    )
    waiting = 'while [ ! -e "$HERE/started_0" ] || [ ! -e "$HERE/started_1" ]; do sleep 0.05; done'
    ends = f'sh -c \'{waiting}; kill -9 "$1"\' x'
    script = f'{ends} $$ & exec launch/hosts.sh gpu1,gpu2 boneage_jax.main'
    hosts(
        'bash',
        '-c',
        script,
        stand_ins={'ssh': SSH, 'asleep': sleeping},
        BONEAGE_PYTHON=str(tmp_path / 'asleep'),
    )
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ['stopped\n'] * 2


GCLOUD = """#!/bin/bash
echo "$*" >> "$HERE/gcloud.txt"
case "$4" in
scp) for i in 0 1; do mkdir -p "$HERE/host$i"; cp "$5" "$HERE/host$i"; done ;;
ssh) for i in 0 1; do
    (cd "$HERE/host$i" && WORKER=$i CDPATH=$HERE/elsewhere bash -c "${8#--command=}") || exit
done ;;
esac
"""


def test_tpu_vm(hosts, tmp_path):
    (tmp_path / 'elsewhere' / 'boneage_jax').mkdir(
        parents=True
    )  # what CDPATH would choose on the hosts
    done = hosts('launch/tpu_vm.sh', 'slice', 'us-west4-a', *RUN, stand_ins={'gcloud': GCLOUD})
    assert done.returncode == 0, done.stderr
    seen = hosts.seen(2)
    same_run(seen, 'auto', None, process=False)
    assert [one['folder'] for one in seen] == [
        str(tmp_path / f'host{i}' / 'boneage_jax') for i in range(2)
    ]
    assert seen[0]['BONEAGE_EXTRAS'] == 'tpu'
    for line in (tmp_path / 'gcloud.txt').read_text().splitlines():
        assert re.search(
            r'^compute tpus tpu-vm (scp \S+ slice:|ssh slice) --zone=us-west4-a --worker=all', line
        )
    with tarfile.open(tmp_path / 'host0' / 'boneage_jax.tar.gz') as packed:
        assert 'launch/run.sh' in packed.getnames()


def test_kubernetes(hosts, tmp_path):
    """What a cluster makes of the file, by the rules that Kubernetes and JobSet document."""
    jobset = yaml.safe_load((ROOT / 'launch/kubernetes.yaml').read_text())
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    (job,), name = jobset['spec']['replicatedJobs'], jobset['metadata']['name']
    spec = job['template']['spec']
    count = spec['completions']
    assert (
        job['replicas'] == 1
        and spec['parallelism'] == count
        and spec['completionMode'] == 'Indexed'
    )
    assert (
        jobset['spec']['failurePolicy']['maxRestarts'] > 0
        and spec['template']['spec']['restartPolicy'] == 'Never'
    )
    (container,) = spec['template']['spec']['containers']
    assert container['args'][0] == 'boneage_jax.main'
    pods = [f'{name}-{job["name"]}-0-{i}.{name}' for i in range(count)]
    for i in range(count):
        metadata = {'annotations': {'batch.kubernetes.io/job-completion-index': str(i)}}
        variables = {}
        for entry in container['env']:
            field = entry.get('valueFrom', {}).get('fieldRef', {}).get('fieldPath')
            key = re.fullmatch(r"metadata\.annotations\['(.+)'\]", field)[1] if field else None
            variables[entry['name']] = metadata['annotations'][key] if key else entry['value']
        assert all(isinstance(value, str) for value in variables.values())
        done = hosts(
            *container['command'], *RUN, stand_ins={}, **variables | {'BONEAGE_EXTRAS': ''}
        )
        assert done.returncode == 0, done.stderr
    for one in hosts.seen(count):
        assert one['BONEAGE_CACHE'] == '/shared/cache'
    same_run(hosts.seen(count), f'{pods[0]}:12355', str(count))


CALLS = {
    'run.sh': (RUN, {'WORKER': '0'}),
    'test.sh': (['-q'], {'WORKER': '0'}),
    'hosts.sh': (['gpu1', *RUN], {}),
    'tpu_vm.sh': (['slice', 'us-west4-a', *RUN], {}),
}


def call(hosts, tmp_path, script, name, cwd=ROOT, **variables):
    """Calls launch/<name> as `script`; asserts that Python starts in the project's own folder."""
    arguments, own = CALLS[name]
    (tmp_path / 'elsewhere' / 'boneage_jax').mkdir(parents=True, exist_ok=True)
    done = hosts(
        script, *arguments, stand_ins={'ssh': SSH, 'gcloud': GCLOUD}, cwd=cwd, **own | variables
    )
    assert done.returncode == 0, done.stderr
    (seen,) = hosts.seen(1)
    assert seen['arguments'][:2] == ['-m', 'pytest' if name == 'test.sh' else RUN[0]]
    assert seen['folder'] == str(
        tmp_path / 'host0' / 'boneage_jax' if name == 'tpu_vm.sh' else ROOT
    )


@pytest.mark.parametrize('name', CALLS)
def test_scripts_start_where_cdpath_is_set(hosts, tmp_path, name):
    (tmp_path / 'launch').mkdir()  # a folder of that name is what CDPATH finds first
    call(hosts, tmp_path, f'launch/{name}', name, CDPATH=f'{tmp_path}:.:..')


@pytest.mark.parametrize('name', CALLS)
def test_scripts_start_through_links(hosts, tmp_path, name):
    """A relative link to a link, in a folder with a space; found on the PATH, too."""
    folder = tmp_path / 'my bin'
    folder.mkdir()
    (folder / 'script').symlink_to(ROOT / 'launch' / name)
    (tmp_path / 'boneage').symlink_to('my bin/script')
    for script in (f'{tmp_path}/boneage', './boneage', 'boneage'):
        call(hosts, tmp_path, script, name, cwd=tmp_path, CDPATH='.')


@pytest.mark.parametrize('name', CALLS)
def test_scripts_start_through_a_link_to_their_folder(hosts, tmp_path, name):
    (tmp_path / 'scripts').symlink_to(ROOT / 'launch')
    call(hosts, tmp_path, f'scripts/{name}', name, cwd=tmp_path)


def test_slurm_names_a_wrong_folder(hosts, tmp_path):
    done = hosts(
        'bash', str(ROOT / 'launch/slurm.sh'), *RUN, stand_ins={}, SLURM_SUBMIT_DIR=str(tmp_path)
    )
    assert done.returncode == 2 and f"{tmp_path} is not the project's folder" in done.stderr


# A stand-in for a version of Python. It runs the code that it is given, as if it were that version.
SOME_PYTHON = f"""#!{sys.executable}
import sys, sysconfig
sys.version_info = (3, %d, %d, 'final', 0)
sys.modules.update({{name: None for name in %r}})  # packages that this Python lacks
sysconfig.get_config_var = lambda name: %d  # for Py_GIL_DISABLED
code, sys.argv = sys.argv[2], ['-c', *sys.argv[3:]]
exec(code)
"""
# pyenv's, of a version that is not activated.
SHIM = '#!/bin/sh\necho "pyenv: command not found" >&2\nexit 127\n'
TOOLS = ('bash', 'cat', 'cut', 'dirname', 'sort')


@pytest.fixture
def pythons(tmp_path):
    """`bash(command)` runs it with environment.sh and the stand-ins of `bash.install` alone."""

    def install(path, version, lacks=(), free_threaded=False):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = SHIM
        if version:
            minor, patch = version.split('.')[1:]
            text = SOME_PYTHON % (int(minor), int(patch), lacks, free_threaded)
        file.write_text(text)
        file.chmod(0o755)

    def bash(command, **variables):
        script = f'set -euo pipefail; . {ROOT}/launch/environment.sh; {command}'
        clean = {'PATH': str(tmp_path / 'bin'), 'HOME': str(tmp_path / 'home')}
        return subprocess.run(
            ['bash', '-c', script],
            env=clean | variables,
            capture_output=True,
            text=True,
            timeout=20,
        )

    (tmp_path / 'bin').mkdir()
    for tool in TOOLS:
        (tmp_path / 'bin' / tool).symlink_to(shutil.which(tool))
    bash.install = install
    return bash


PYENV = 'home/.pyenv/versions'


@pytest.mark.parametrize(
    'installed, found',
    [
        (
            {'bin/python3': '3.11.2', 'bin/python3.12': '3.12.1', 'bin/python3.13': '3.13.0'},
            'bin/python3',
        ),
        (
            {'bin/python3': '3.10.2', 'bin/python3.12': '3.12.1', 'bin/python3.11': '3.11.2'},
            'bin/python3.12',
        ),
        (
            {'bin/python3': '3.14.0', 'bin/python3.13': '3.13.1', 'bin/python3.12': '3.12.1'},
            'bin/python3.13',
        ),
        (
            {'bin/python3': None, 'bin/python3.13': None, 'bin/python3.11': '3.11.7'},
            'bin/python3.11',
        ),
        (
            {'bin/python3': None, 'bin/python3.12': None, f'{PYENV}/3.12.1/bin/python3': '3.12.1'},
            f'{PYENV}/3.12.1/bin/python3',
        ),
        (
            {'bin/python3.11': '3.11.7', f'{PYENV}/3.12.1/bin/python3': '3.12.1'},
            f'{PYENV}/3.12.1/bin/python3',
        ),
        (
            {f'{PYENV}/3.12.9/bin/python3': '3.12.9', f'{PYENV}/3.12.10/bin/python3': '3.12.10'},
            f'{PYENV}/3.12.10/bin/python3',
        ),
        (
            {f'{PYENV}/3.13.0/bin/python3': None, f'{PYENV}/3.12.1/bin/python3': '3.12.1'},
            f'{PYENV}/3.12.1/bin/python3',
        ),
        ({'bin/python': '3.12.1'}, 'bin/python'),
    ],
    ids=[
        'python3',
        'newest',
        'too new',
        'shims',
        'pyenv',
        'pyenv is newer',
        'patches',
        'pyenv broken',
        'python',
    ],
)
def test_the_python_that_is_found(pythons, tmp_path, installed, found):
    for path, version in installed.items():
        pythons.install(path, version)
    done = pythons('find_python')
    assert (done.returncode, done.stdout, done.stderr) == (0, f'{tmp_path}/{found}\n', '')


def test_the_folder_of_pyenv_and_the_version_can_be_named(pythons, tmp_path):
    for minor in (11, 12, 13):
        pythons.install(f'my pyenv/versions/3.{minor}.1/bin/python3', f'3.{minor}.1')
    pythons.install('bin/python3', '3.11.2')
    root = str(tmp_path / 'my pyenv')
    for version in ('3.12', '3.13'):
        done = pythons('find_python', PYENV_ROOT=root, BONEAGE_PYTHON_VERSION=version)
        assert done.stdout == f'{root}/versions/{version}.1/bin/python3\n', done.stderr
    done = pythons('find_python', PYENV_ROOT=root, BONEAGE_PYTHON_VERSION='3.10')
    assert (
        done.returncode == 1
        and 'BONEAGE_PYTHON_VERSION=3.10: this runs on Python 3.11, 3.12 or 3.13' in done.stderr
    )
    done = pythons('find_python', BONEAGE_PYTHON_VERSION='3.13')
    assert done.returncode == 1 and 'no Python 3.13 runs here' in done.stderr


def test_pythons_that_will_not_do(pythons, tmp_path):
    pythons.install('bin/python3', '3.10.13')
    pythons.install('bin/python3.13', '3.13.0', free_threaded=True)
    done = pythons('find_python')
    assert done.returncode == 1 and 'Python 3.11, 3.12 or 3.13 is needed' in done.stderr
    pythons.install('bin/python3.11', '3.11.2', lacks=('venv',))
    done = pythons('find_python')
    assert done.returncode == 1 and 'apt-get install python3.11-venv' in done.stderr
    pythons.install('bin/python', '3.11.2')  # a second one of that version, whole
    assert pythons('find_python').stdout == f'{tmp_path}/bin/python\n'


def test_the_compilers_need_a_newer_python(pythons, tmp_path):
    """`boneage_jax.fits` has a second environment, with the extra [aot]."""
    pythons.install('bin/python3', '3.11.2')
    done = pythons('with_compilers; find_python')
    assert done.returncode == 1 and ': Python 3.12 or 3.13 is needed' in done.stderr
    pythons.install('bin/python3.12', '3.12.1')
    done = pythons('with_compilers; echo "$EXTRAS $BONEAGE_VENV"; find_python')
    assert done.stdout == f'aot {ROOT}/.venv-aot\n{tmp_path}/bin/python3.12\n', done.stderr
    done = pythons('with_compilers; find_python', BONEAGE_PYTHON_VERSION='3.11')
    assert 'BONEAGE_PYTHON_VERSION=3.11: this runs on Python 3.12 or 3.13' in done.stderr


def test_an_environment_of_another_version_is_made_anew(pythons, tmp_path):
    pythons.install('venv/bin/python', '3.11.2')
    script = f'VENV={tmp_path}/venv; : > "$VENV/.ready-$(fingerprint "$VENV/bin/python")"; is_ready'
    assert pythons(script).returncode == 0
    assert pythons(script, BONEAGE_PYTHON_VERSION='3.11').returncode == 0
    assert pythons(script, BONEAGE_PYTHON_VERSION='3.12').returncode == 1
