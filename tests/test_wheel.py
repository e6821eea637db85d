"""The wheel: built from the tracked files and installed, it trains a config of its own."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import numpy as np
import pytest

from boneage_jax.runs import exported
from boneage_jax.runtime import tensors

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*command, cwd, **variables):
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the tracked files, with one more network among those that come with the code."""
    folder = tmp_path_factory.mktemp('wheel')
    tracked = run('git', 'ls-files', '-z', '--recurse-submodules', cwd=ROOT).split('\0')
    for name in filter(None, tracked):
        if (ROOT / name).is_file():  # one that was removed is still listed
            (folder / 'source' / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / 'source' / name)
    weights = folder / 'source' / 'boneage_jax' / 'weights'
    weights.mkdir(exist_ok=True)
    about = {
        'format': tensors.FORMAT,
        'format_version': str(exported.VERSION),
        'config': '{"data": {}}',
        'task': '{}',
        'step': '7',
        'trained_on': '[]',
    }
    tensors.write(weights / 'probe.safetensors', {'kernel': np.ones(3, np.float16)}, about)
    return folder / 'source'


@pytest.fixture(scope='module')
def wheel(source):
    folder = source.parent
    build = ('wheel', '--quiet', '--no-deps', '--no-build-isolation', '--no-index')
    run(sys.executable, '-m', 'pip', *build, '-w', folder, source, cwd=folder)
    (built,) = folder.glob('*.whl')
    return built


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    """A fresh environment with the wheel, that sees this one's other packages.

    A .pth file adds this one's folder of packages without its own .pth files, so an editable
    install of the project there does not count.
    """
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob('lib/python*/site-packages')
    here = dict.fromkeys([sysconfig.get_path('purelib'), sysconfig.get_path('platlib')])
    (packages / 'others.pth').write_text('\n'.join(here) + '\n')
    python = folder / 'bin' / 'python'
    install = ('install', '--quiet', '--no-deps', '--no-index', '--force-reinstall')
    run(python, '-m', 'pip', *install, wheel, cwd=folder)
    return folder


def test_it_carries_the_configs_and_the_files_beside_the_code(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    configs = {path.name for kind in ('py', 'txt') for path in (ROOT / 'configs').glob(f'*.{kind}')}
    assert {name for name in names if name.startswith('boneage_jax/configs/')} == {
        f'boneage_jax/configs/{name}' for name in configs
    }
    for path in (
        *ROOT.glob('boneage_jax/**/*.html'),
        *ROOT.glob('boneage_jax/web/*.*'),
        *ROOT.glob('boneage_jax/weights/*.safetensors'),
        *ROOT.glob('tfds_rsna/**/*.tsv'),
    ):
        assert path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if name.startswith(('tests/', 'benchmarks/'))]


def test_networks_that_come_with_the_code_are_found(environment, tmp_path):
    code = (
        'from boneage_jax.runs import exported, shipped\n'
        'print(exported.read(exported.find("probe")).step, *shipped.names())'
    )
    found = run(environment / 'bin' / 'python', '-c', code, cwd=tmp_path).split()
    known = [path.stem for path in ROOT.glob('boneage_jax/weights/*.safetensors')]
    assert found == ['7', *sorted([*known, 'probe'])]


def test_the_source_distribution_has_them_too(source, tmp_path):
    code = f'from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))'
    run(sys.executable, '-c', code, cwd=source)
    (built,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(built) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert {'boneage_jax/weights/probe.safetensors', 'configs/unet.py', 'setup.py'} <= names


def test_it_trains_in_an_empty_folder(environment, tmp_path):
    python, boneage = environment / 'bin' / 'python', environment / 'bin' / 'boneage'
    imported = run(python, '-c', 'import boneage_jax; print(boneage_jax.__file__)', cwd=tmp_path)
    assert pathlib.Path(imported.strip()).is_relative_to(environment)
    run(
        boneage,
        'main',
        '--config=prsnet:tiny,epochs=1,precise_bn_batches=0',
        '--workdir=run',
        cwd=tmp_path,
        XLA_FLAGS='--xla_backend_optimization_level=0',  # one device
    )
    report = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert report['splits']['holdout']['overall']['mae']['value'] > 0
