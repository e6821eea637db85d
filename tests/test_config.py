"""The configs: strict arguments, every preset and row builds, what is written can be read again."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from boneage_jax import config as c
from boneage_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def build(arg, **presets):
    return c.build(
        c.base(),
        arg,
        presets or {'small': {'batch_size': 4, 'data.size': (64, 64)}},
        [c.Row('one', {'epochs': 7}, 6.52)],
    )


def test_presets_rows_and_pairs_apply_whatever_the_order():
    config = build(
        'small,row=one,batch_size=8,learning_rate=1,flip_tta=true,stages=(mask,contrast),size=(32,48)'
    )
    assert (config.batch_size, config.epochs, config.optimizer.learning_rate) == (8, 7, 1.0)
    assert config.flip_tta is True and config.data.stages == ('mask', 'contrast')
    assert config.data.size == (32, 48) and config.data.phantom.size == (
        512,
        512,
    )  # the shallower key
    assert build('batch_size=8,small').batch_size == 8


@pytest.mark.parametrize(
    'arg, message',
    [
        ('phantm', "unknown preset 'phantm'; known: small"),
        ('row=two', "unknown row 'two'; known: one"),
        ('batchsize=3', "unknown key 'batchsize'; known: .*batch_size"),
        ('name=x', 'ambiguous; write one of: model.name, optimizer.name, task.name'),
        ('epochs=many', 'epochs=many: expected int'),
        ('epochs=1.5', 'epochs=1.5: expected int'),
        ('flip_tta=1', 'flip_tta=1: expected bool'),
        ('optimizer=3', "unknown key 'optimizer'"),
        ('data.resize=crop', "data.resize='crop': expected one of pad, stretch"),
        ('batch_size=0', 'batch_size=0: expected at least 1'),
        ('size=(4,4)', 'data.size=.*each at least 8'),
        ('flip=2', 'augment.flip=2.0: expected a number from 0 to 1'),
        ('rotation=-4', 'augment.rotation=-4.0: expected zero or more'),
        ('phantom.size=64', r'data.phantom.size=\(64,\): expected \(rows, columns\)'),
        ('schedule=step,step_epochs=0', 'step_epochs=0: expected at least 1'),
        ('schedule=one_cycle,warmup_epochs=1', "'one_cycle' has a warm-up of its own"),
        *(
            (f'profile_steps={steps}', 'profile_steps=.*as 10:15')
            for steps in ('10', '0:3', '5:4', 'a:b')
        ),
        ('batch_size=10,grad_accum_steps=4', 'a multiple of grad_accum_steps=4'),
        ('sharding=zero', 'sharding=.*one of replicated, fsdp'),
        ('sharding=fsdp,cache_features=float32', "off, with sharding='fsdp'"),
        ('momentum=1.5', 'optimizer.momentum=1.5: expected at least 0 and below 1'),
    ],
)
def test_nothing_is_guessed(arg, message):
    with pytest.raises(ConfigError, match=message):
        build(arg)


def test_config_is_locked():
    with pytest.raises((AttributeError, KeyError)):
        build(None).epoch = 3


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_preset_and_row_of_every_config_builds(path):
    module, _ = c.load(str(path))
    command = rf'(python -m boneage_jax\.|boneage )main --config=configs/{path.stem}\.py'
    assert re.search(command, module.__doc__)
    rows = [
        f',row={row.name}' for row in module.sweep()
    ]  # a stage of the preprocessing may have none
    for name in module.PRESETS:
        for row in ['', *rows]:
            built = module.get_config(name + row)
            assert not c.differences(json.loads(built.to_json()), json.loads(built.to_json()))


def test_missing_config_lists_the_others():
    with pytest.raises(ConfigError, match='prsnet.py'):
        c.load(str(ROOT / 'configs' / 'prsnt.py'))


def test_differences_name_keys_and_ignore_tuples_becoming_lists():
    a = json.loads(build(None).to_json())
    b = build('epochs=3').to_dict()
    assert c.differences(a, b) == ['epochs: 30 -> 3']


def test_reading_a_config_needs_no_jax():
    code = (
        "import sys; from boneage_jax import config; config.load('configs/prsnet.py:phantom'); "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_command_line_overrides():
    spec = f'{ROOT}/configs/prsnet.py:tiny'
    config = c.from_command_line(
        spec, ['--config.optimizer.learning_rate=0.5', '--config.size=(40,40)']
    )
    assert (
        config.optimizer.learning_rate == 0.5 and config.data.size == (40, 40) and config.is_locked
    )
    for argument, message in {
        '--config.lr=3': "unknown key 'lr'; known: ",
        '--wrokdir=x': "unknown argument '--wrokdir=x'",
        'more': "unknown argument 'more'",
        '--config.epochs=0': 'epochs=0: expected',
    }.items():
        with pytest.raises(ConfigError, match=message):
            c.from_command_line(spec, [argument])
