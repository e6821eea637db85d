"""Runs of earlier releases: their names are translated, and whatever opens a run opens them."""

import json
import types

import jax
import numpy as np
import pytest
import safetensors.numpy

from boneage_jax import config as c
from boneage_jax import renamed
from boneage_jax.analysis import score
from boneage_jax.data import id_spaces
from boneage_jax.errors import ConfigError
from boneage_jax.runs import export, initialize, predictor, workdir
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import checkpoint
from boneage_jax.training import loop

SPEC = (
    'configs/prsnet.py:tiny,row=without selection,epochs=1,precise_bn_batches=0,'
    'checkpoint_every_steps=2,placement=device'
)

# Keys and blocks that an earlier release wrote otherwise, as it wrote them.
OLD = json.loads("""
{
 "data": {"also": [], "fit": "squash", "stages": ["region"],
          "stage": {"region": {"region": "film"}, "unet": {"run": "", "threshold": 0.5}}},
 "model": {"name": "transfer", "standardise": "film", "sex": true, "units": 8, "size": [64, 64]},
 "task": {"name": "age_triplet", "form": "margin"},
 "optimizer": {"second_momentum": 0.99, "clip": 1.0},
 "frozen": ["trunk", "part_trunk/stem"], "features": "float16", "accumulate": 2,
 "evaluate_every": 2, "save_every": 7, "log_every": 3, "statistics_batches": 5,
 "init_from": "run", "init_parts": ["trunk/down=down", "part_trunk?=trunk", "unet.up"],
 "trunk": "fresh", "trunk_from": {"age": "", "unet": "runs/u"}
}
""")


def old_keys(new):
    """A configuration of today (plain dicts) under the keys of an earlier release."""
    old = json.loads(json.dumps(new))
    for key in ('config_file', 'finish_reads', 'init_map', 'init_optional'):
        old.pop(key)
    old['init_parts'] = []
    back = {today: then for then, today in renamed.KEYS.items() if today}
    for path in ('grad_accum_steps', 'precise_bn_batches', 'cache_features'):
        old[back[path]] = old.pop(path)
    for path in ('eval_every_epochs', 'checkpoint_every_steps', 'log_every_steps'):
        old[back[path]] = old.pop(path)
    for path in ('data.stage_options', 'data.resize', 'data.extra_train_folders'):
        block, leaf = path.split('.')
        old[block][back[path].split('.')[1]] = old[block].pop(leaf)
    for path in ('optimizer.b2', 'optimizer.grad_clip_norm'):
        block, leaf = path.split('.')
        old[block][back[path].split('.')[1]] = old[block].pop(leaf)
    old['model']['standardise'] = 'film'
    old['task']['form'] = old['task'].pop('ranking_form')
    return old


def old_array(name):
    """The name of an array in a checkpoint of an earlier release."""
    field, dot, path = name.partition('.')
    back = {today: then for then, today in renamed.FIELDS.items()}
    if field == 'loop_state':
        loop_state = {today: then for then, today in renamed.LOOP_STATE.items()}
        path = loop_state.get(path, path)
    parts = [
        {'backbone': 'trunk', 'part_backbone': 'part_trunk'}.get(p, p) for p in path.split('.')
    ]
    return back.get(field, field) + dot + '.'.join(parts)


class OldNames(checkpoint.Checkpoints):
    """Writes checkpoints as an earlier release did."""

    def save_old(self, step, arrays, value):
        self._orbax.save(
            step,
            {old_array(name): array for name, array in arrays.items()},
            metrics={'value': value},
            force=True,
            overwrite=True,
        )


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """`new`, a finished run, and `old`, the same as an earlier release would have left it."""
    folder = tmp_path_factory.mktemp('old')
    new = folder / 'new'
    old = folder / 'old'
    report = loop.train(c.load(SPEC)[1], new)
    old.mkdir()
    for name in ('task.json', 'predictions.csv', 'metrics.jsonl'):
        (old / name).write_text((new / name).read_text())
    splits = json.loads((new / 'splits.json').read_text())
    del splits['id_spaces']
    (old / 'splits.json').write_text(json.dumps(splits))
    config = json.loads((new / 'config.json').read_text())
    (old / 'config.json').write_text(json.dumps(old_keys(config)))
    with checkpoint.Checkpoints(new) as checkpoints:
        step = checkpoints.best
        arrays = checkpoints.read(step)
    with OldNames(old) as checkpoints:
        checkpoints.save_old(
            step, arrays, report['splits']['validation']['overall']['mae']['value']
        )
    (old / 'metrics.json').write_text(
        (new / 'metrics.json').read_text().replace('"images"', '"films"')
    )
    return folder


def test_the_fixture_has_no_name_of_today(runs):
    keys = set(c.flat(json.loads((runs / 'old' / 'config.json').read_text())))
    assert not keys & set(filter(None, renamed.KEYS.values()))
    with checkpoint.Checkpoints(runs / 'old') as checkpoints:
        assert all(
            leaf.name.partition('.')[0] in {*renamed.FIELDS, 'step'}
            for leaf in checkpoints._leaves(checkpoints.best).values()
        )


def test_every_key_and_value_is_translated():
    assert renamed.config(OLD) == {
        'data': {
            'extra_train_folders': [],
            'resize': 'stretch',
            'stages': ['region'],
            'stage_options': {'region': {'region': 'image'}, 'unet': {'run': '', 'threshold': 0.5}},
        },
        'model': {
            'name': 'transfer',
            'standardise': 'image',
            'use_sex': True,
            'hidden_units': 8,
        },
        'task': {'name': 'age_triplet', 'triplet_form': 'margin'},
        'optimizer': {'b2': 0.99, 'grad_clip_norm': 1.0},
        'frozen': ['backbone', 'part_backbone/stem'],
        'cache_features': 'float16',
        'grad_accum_steps': 2,
        'eval_every_epochs': 2,
        'checkpoint_every_steps': 7,
        'log_every_steps': 3,
        'precise_bn_batches': 5,
        'init_from': 'run',
        'init_map': {
            'backbone/down': 'down',
            'part_backbone': 'backbone',
            'unet/up': 'unet/up',
        },
        'init_optional': ['part_backbone'],
        'backbone_weights': 'fresh',
        'backbone_from': {'age': '', 'unet': 'runs/u'},
        'config_file': 'configs/attention.py',
        'finish_reads': ['backbone_weights', 'backbone_from'],
    }


@pytest.mark.parametrize(
    'old, new',
    [
        ('step', 'step'),
        ('trainable.trunk.stem.kernel', 'params.backbone.stem.kernel'),
        ('frozen.part_trunk.stem.kernel', 'frozen_params.part_backbone.stem.kernel'),
        ('statistics.trunk.stem_norm.mean', 'batch_stats.backbone.stem_norm.mean'),
        ('optimizer.1.0.mu.trunk.stem.kernel', 'opt_state.1.0.mu.backbone.stem.kernel'),
        # a branch of the relation module, which is not the backbone
        ('trainable.relation.0.trunk.kernel', 'params.relation.0.trunk.kernel'),
        ('optimizer.0.trace.relation.0.trunk.bias', 'opt_state.0.trace.relation.0.trunk.bias'),
        ('memory.stale', 'loop_state.evals_since_best'),
        ('memory.rate_scale', 'loop_state.lr_scale'),
        ('memory.bad_step', 'loop_state.first_nonfinite_step'),
        ('memory.best', 'loop_state.best'),
    ],
)
def test_arrays_of_checkpoints_are_translated(old, new):
    assert renamed.array(old) == new
    assert renamed.array(new) == new


def test_what_is_of_today_stays_as_it_is():
    for spec in ('prsnet:tiny,row=full', 'attention:rsna100,row=unet-fc', 'age_classes:tiny'):
        config = json.loads(c.load(spec)[1].to_json())
        assert renamed.config(config) == config


def test_an_old_run_predicts_scores_and_reports(runs, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 1), np.uint8)
    male = np.array([True, False, True])
    ages, _ = predictor.Predictor(runs / 'new')(images, male)
    old_ages, _ = predictor.Predictor(runs / 'old')(images, male)
    np.testing.assert_array_equal(ages, old_ages)
    assert workdir.read_metrics(runs / 'old') == workdir.read_metrics(runs / 'new')
    found = score.score(runs / 'old', c.load(f'{SPEC},data.phantom.seed=5')[1], tmp_path / 'score')
    expected = score.score(
        runs / 'new', c.load(f'{SPEC},data.phantom.seed=5')[1], tmp_path / 'expected'
    )
    assert found['splits'] == expected['splits']


def test_an_old_run_is_the_run_of_its_configuration(runs):
    config = c.load(SPEC)[1]
    workdir.write_or_check_config(runs / 'old', config, write=True)
    with pytest.raises(
        ConfigError, match='holds a run of another configuration:\n  epochs: 1 -> 2'
    ):
        workdir.write_or_check_config(runs / 'old', c.load(f'{SPEC},epochs=2')[1], write=True)
    again = c.load(str(runs / 'old' / 'config.json'))[1]
    assert not c.differences(again, config, ignore=workdir.HARMLESS)


def test_an_old_run_is_resumed(runs, tmp_path):
    """Its whole state, the optimiser's and the loop's memory too, is that of the new one."""
    states = {}
    for name in ('old', 'new'):
        folder = tmp_path / name
        folder.mkdir()
        for file in ('config.json', 'task.json', 'splits.json', 'metrics.jsonl'):
            (folder / file).write_text((runs / name / file).read_text())
        (folder / 'checkpoints').symlink_to(runs / name / 'checkpoints')
        with checkpoint.Checkpoints(folder) as checkpoints:
            states[name] = checkpoints.read(checkpoints.latest)
    assert states['old'].keys() == states['new'].keys() and len(states['new']) > 100
    jax.tree.map(np.testing.assert_array_equal, states['old'], states['new'])
    report = loop.train(c.load(SPEC)[1], tmp_path / 'old')
    assert report['splits'] == workdir.read_metrics(runs / 'new')['splits']


def test_a_run_starts_from_an_old_run_and_from_its_export(runs, tmp_path):
    config = c.load(f'{SPEC},finetune,init_from={runs / "old"}')[1]
    state, splits = _fresh(config, runs)
    from_run = initialize.start(state, config, splits)

    path = tmp_path / 'old.safetensors'
    export.export(runs / 'old', path)
    arrays = safetensors.numpy.load_file(path)
    assert 'backbone.stem.kernel' in arrays
    with safetensors.safe_open(path, 'np') as file:
        metadata = file.metadata()
    old_path = tmp_path / 'as_then.safetensors'  # as the earlier release exported it
    then = {old_array(f'step.{name}').removeprefix('step.'): a for name, a in arrays.items()}
    assert 'trunk.stem.kernel' in then
    known = {name: metadata[name] for name in ('format', 'task', 'step', 'trained_on')}
    known['config'] = (runs / 'old' / 'config.json').read_text()
    safetensors.numpy.save_file(then, old_path, known)
    for file in (path, old_path):
        named = c.load(f'{SPEC},finetune,init_from={file}')[1]
        started = initialize.start(state, named, splits)
        for group in checkpoint.PARAMETERS:
            jax.tree.map(
                np.testing.assert_array_equal, getattr(started, group), getattr(from_run, group)
            )
    kernel = from_run.params['backbone']['stem']['kernel']
    np.testing.assert_array_equal(kernel, arrays['backbone.stem.kernel'])
    assert (from_run.params['head']['kernel'] == state.params['head']['kernel']).all()


def _fresh(config, runs):
    """(a State of the network as drawn, `{split: its ids}`) of a configuration."""
    model = predictor.build_model(config)
    _, *arrays = state_lib.partition(model, config.frozen)
    ids = json.loads((runs / 'new' / 'splits.json').read_text())
    splits = {}
    for name, spaces in ids.pop('id_spaces').items():
        spaces = id_spaces.expand(spaces)
        splits[name] = types.SimpleNamespace(ids=ids[name], spaces=spaces)
    return state_lib.State(None, *arrays, None, None), splits
