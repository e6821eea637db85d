"""The configs: strict arguments, every preset and row builds, what is written can be read again."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from boneage_jax import config as c
from boneage_jax.errors import ConfigError
from boneage_jax.stages import plan

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


@pytest.mark.parametrize(
    'typed, images',
    [
        ('images=/x/Clinic, ward 2', '/x/Clinic, ward 2'),
        ('images=/x/a,  b 2 (old), and more', '/x/a,  b 2 (old), and more'),
        ("images='/x/a,b'", '/x/a,b'),
        ('images="/x/a,b=(c"', '/x/a,b=(c'),
        ('images=/x/a (old', '/x/a (old'),
        ('images=/x/[1]', '/x/[1]'),
        ('images=/x/a]', '/x/a]'),
        ("images=/x/Children's", "/x/Children's"),
        ('images=(old)/x', '(old)/x'),
    ],
)
def test_paths_may_have_commas_and_brackets(typed, images):
    for arg in (f'small,{typed},batch_size=8,size=(32,48)', f'batch_size=8,size=(32,48),{typed}'):
        config = build(arg)
        assert config.data.image_folder.images == images
        assert config.batch_size == 8 and config.data.size == (32, 48)


@pytest.mark.parametrize(
    'arg, message',
    [
        ('images=/x/a,b', "unknown preset 'b'.*comma in it needs quotes: images='/data/a,b'"),
        ('images=/x/Clinic, ward 2,labels=/y', None),
        ("images='/x/a,labels=b", 'in quotes ends with a quote'),
        ("images='/x/a'b", 'in quotes ends with a quote'),
        ('size=(32,48', 'the bracket is not closed'),
    ],
)
def test_what_a_comma_belongs_to_is_known_or_asked(arg, message):
    if message is None:
        assert build(arg).data.image_folder.labels == '/y'
    else:
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
    rows = [f',row={row.name}' for row in module.sweep()]  # some papers print no table
    for name in module.PRESETS:
        for row in ['', *rows]:
            built = module.get_config(name + row)
            assert not c.differences(json.loads(built.to_json()), json.loads(built.to_json()))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_the_stages_of_every_preset_agree_with_the_networks_that_ship(path):
    """A network learnt from images after certain stages; another order of them is refused."""
    module, _ = c.load(str(path))
    for name in ('', *module.PRESETS):
        try:
            plan.make_plan(c.load(f'{path}:{name}')[1].data)
        except ConfigError as error:
            # Networks and files that the user brings may be missing.
            assert 'make data.stages agree' not in str(error)


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


@pytest.mark.parametrize(
    'arg',
    ['row=full,phantom', 'phantom,row=full', 'epochs=3,phantom,row=full', 'row=full,epochs=3,tiny'],
)
def test_a_row_undoes_a_preset_and_a_key_undoes_both(arg):
    model = c.load(f'configs/prsnet.py:{arg}')[1].model
    assert model.relation and model.selection
    if 'epochs' in arg:
        assert c.load(f'configs/prsnet.py:{arg}')[1].epochs == 3
    assert c.load('configs/prsnet.py:phantom')[1].model.selection is False


def test_presets_apply_in_the_order_typed():
    presets = {'one': {'epochs': 1, 'seed': 1}, 'two': {'epochs': 2}}
    for arg, epochs in (('one,two', 2), ('two,one', 1)):
        config = c.build(c.base(), arg, presets)
        assert (config.epochs, config.seed) == (epochs, 1)
    with pytest.raises(ConfigError, match='row=one and row=two: a run is one row'):
        build('row=one,row=two')


@pytest.mark.parametrize(
    'text, expected',
    [
        ("{'part_backbone':'backbone'}", {'part_backbone': 'backbone'}),
        ('{part_backbone:backbone, head:head}', {'part_backbone': 'backbone', 'head': 'head'}),
        ('backbone', {'backbone': 'backbone'}),
        ('(unet.down:down,unet.up:up)', {'unet/down': 'down', 'unet/up': 'up'}),
        (
            '(backbone,part_backbone:backbone)',
            {'backbone': 'backbone', 'part_backbone': 'backbone'},
        ),
        ('{}', {}),
        ('()', {}),
    ],
)
def test_a_map_is_one_value(text, expected):
    config = build(f'init_map={text},seed=3')
    assert config.init_map.to_dict() == expected and config.seed == 3
    assert c.flat(config)['init_map'] == expected
    again = json.loads(config.to_json())
    assert not c.differences(config, again)
    in_order = dict(sorted(expected.items()))
    changed = [f'init_map: {in_order} -> {{}}'] if expected else []
    assert c.differences(config, build('seed=3')) == changed


@pytest.mark.parametrize('text', ['a:', ':b', '{a:b,:c}'])
def test_maps_that_name_nothing_are_refused(text):
    with pytest.raises(ConfigError, match='init_map=.*expected names of parts, as backbone or a:b'):
        build(f'init_map={text}')


@pytest.mark.parametrize('key', c.RECORDED)
def test_what_the_program_records_is_not_typed(key):
    with pytest.raises(ConfigError, match=f'{key} is written by the program'):
        build(f'{key}=x')


def test_a_bare_name_is_looked_for_here_and_in_the_package(tmp_path, monkeypatch):
    assert c.load('prsnet:tiny')[1] == c.load('configs/prsnet.py:tiny')[1]
    monkeypatch.chdir(tmp_path)
    config = c.load('prsnet:tiny')[1]  # not in ./configs: the package's
    assert config.config_file == 'configs/prsnet.py'
    (tmp_path / 'configs').mkdir()
    text = (ROOT / 'configs' / 'prsnet.py').read_text()
    (tmp_path / 'configs' / 'prsnet.py').write_text(text.replace('width=64,', 'width=48,'))
    assert c.load('prsnet')[1].model.width == 48
    with pytest.raises(ConfigError, match='prsnt: no such config in ') as error:
        c.load('prsnt')
    assert str(tmp_path / 'configs') in str(error.value) and ' or in ' in str(error.value)
    assert 'prsnet' in str(error.value).partition('known: ')[2]


ATTENTION = 'configs/attention.py'


def frozen_and_start(config):
    return config.frozen, config.init_from, config.init_map.to_dict(), config.cache_features


@pytest.mark.parametrize(
    'weights, expected',
    [
        ('fresh', (('backbone',), 'fresh', {}, 'float16')),
        ('scratch', ((), 'fresh', {}, 'off')),
        ('age', (('backbone',), 'A', {'backbone': 'backbone'}, 'float16')),
        ('unet', (('backbone',), 'U', {'backbone/down': 'down'}, 'float16')),
    ],
)
@pytest.mark.parametrize('preset', ['phantom', 'rsna100', 'tiny'])
def test_what_a_config_derives_follows_the_last_override(preset, weights, expected):
    runs = ['--config.backbone_from.age=A', '--config.backbone_from.unet=U']
    last = f'--config.backbone_weights={weights}'
    typed = (
        (f'{ATTENTION}:{preset},backbone_weights={weights}', runs),
        (f'{ATTENTION}:{preset}', [last, *runs]),
        (f'{ATTENTION}:{preset}', [*runs, last]),
        (f'{ATTENTION}:backbone_weights=scratch,{preset}', [*runs, last]),
        (f'{ATTENTION}:backbone_from.age=A,backbone_from.unet=U,{preset}', [last]),
    )
    for spec, overrides in typed:
        config = c.from_command_line(spec, overrides)
        assert frozen_and_start(config) == expected, (spec, overrides)
        again = config.copy_and_resolve_references().unlock()
        c.load_module(ATTENTION).finish(again)
        assert not c.differences(config, again)


def test_what_is_typed_against_what_is_derived_is_refused():
    spec = f'{ATTENTION}:phantom,backbone_weights=fresh'
    for override in ('frozen=()', 'init_from=x.npz', 'init_map=backbone'):
        key = override.partition('=')[0]
        with pytest.raises(ConfigError, match=f'{key}=.*derives {key}=.*from backbone_weights'):
            c.from_command_line(spec, [f'--config.{override}'])
    assert c.from_command_line(spec, ['--config.frozen=backbone']).frozen == ('backbone',)
    named = c.from_command_line(
        f'{ATTENTION}:phantom,backbone_weights=named',
        ['--config.init_from=x', '--config.frozen=()'],
    )
    assert frozen_and_start(named)[:2] == ((), 'x')


def test_a_config_json_finishes_as_its_config_does(tmp_path, monkeypatch):
    path = tmp_path / 'config.json'
    scratch = c.load(f'{ATTENTION}:phantom')[1]
    path.write_text(scratch.to_json())
    assert c.load(str(path))[1] == scratch
    fresh = c.load(f'{path}:backbone_weights=fresh')[1]
    assert (fresh.frozen, fresh.init_from) == (('backbone',), 'fresh')
    unet = c.from_command_line(
        str(path), ['--config.backbone_from.unet=U', '--config.backbone_weights=unet']
    )
    assert (unet.frozen, unet.init_from) == (('backbone',), 'U')
    # What `finish` does not read needs no config file, and wins.
    monkeypatch.setattr(c.config_files, 'PACKAGE', tmp_path / 'none' / 'none')
    monkeypatch.chdir(tmp_path)
    assert c.load(f'{path}:seed=4,frozen=head')[1].frozen == ('head',)
    for arg in ('backbone_weights=fresh', 'backbone_from.age=A'):
        with pytest.raises(ConfigError, match='derived from it by configs/attention.py, which is'):
            c.load(f'{path}:{arg}')
