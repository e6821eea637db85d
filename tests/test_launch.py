"""The scripts that start a run on many hosts, each with a stand-in for the scheduler's command that
runs what it is given.

What a process of the run would see (its variables, its arguments, its folder) is written down by a
stand-in for Python.
"""

import json
import os
import pathlib
import re
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
    """`start(command, stand_ins, **variables)`, which runs a launch script; `.seen(n)`: what n
    processes saw, in order.
    """

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
        '#!/bin/bash\n[ "$1" = -c ] && exit\ntrap \'echo stopped > "$HERE/$BONEAGE_PROCESS"; exit\' TERM\n'
        'echo $PPID > "$HERE/started_$BONEAGE_PROCESS"; while :; do sleep 0.1; done\n'
    )
    ends = 'sh -c \'while [ ! -e "$HERE/started_0" ] || [ ! -e "$HERE/started_1" ]; do sleep 0.05; done; kill -9 "$1"\' x'
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
ssh) for i in 0 1; do (cd "$HERE/host$i" && WORKER=$i bash -c "${8#--command=}") || exit; done ;;
esac
"""


def test_tpu_vm(hosts, tmp_path):
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
    """A stand-in for the cluster: what it makes of the file, by the rules that Kubernetes and
    JobSet document.
    """
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
