"""Weights from other frameworks: names, axes, grey stems, files that must be refused, our own
export and back.
"""

import json
import pickle
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from boneage_jax import config as c
from boneage_jax import models
from boneage_jax.models import pretrained, weight_files
from boneage_jax.runs import export, initialize
from boneage_jax.runs import state as state_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import checkpoint, sharding
from boneage_jax.training import optimizer
from tfds_rsna.errors import UserError

TINY = {
    'resnet18': dict(width=8, depth=1),
    'resnet50': dict(width=8, depth=1),
    'vgg16': dict(width=8, depth=1),
    'vgg16_bn': dict(width=8, depth=1),
    'efficientnet_b0': dict(width=8, depth=1),
    'efficientnet_lite0': dict(width=8, depth=1),
    'convnext_tiny': dict(width=8, depth=1),
}


# What the weights were trained with, written out here again.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATION = {'efficientnet_lite0': ((127 / 255,) * 3, (128 / 255,) * 3)}


def build(name, **options):
    """The network full of zeros: drawing initial values would compile a program for each shape."""
    graph, state = nnx.split(nnx.eval_shape(lambda: models.build(name, **options)))
    return nnx.merge(graph, jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), state))


def shapes_of(name, **options):
    state = nnx.state(
        nnx.eval_shape(lambda: models.build(name, **options)), (nnx.Param, nnx.BatchStat)
    )
    return {'.'.join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}


def values(model):
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {
        '.'.join(map(str, path)): np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(state)
    }


def foreign(name, seed=0, **options):
    """Random weights as torchvision would save those of the same network."""
    draw, arrays = np.random.default_rng(seed), {}
    for ours, shape in shapes_of(name, **options).items():
        theirs = {4: (*shape[:1:-1], *shape[:2]), 2: shape[::-1]}.get(len(shape), shape)
        low, high = (0.5, 1.5) if ours.endswith(('var', 'scale')) else (-0.3, 0.3)
        arrays[pretrained.foreign_name(ours)] = draw.uniform(low, high, theirs).astype(np.float32)
    return arrays


def test_names_are_torchvisions():
    known = {  # copied from the state_dicts of torchvision 0.28
        'inception_v3': (
            'Conv2d_1a_3x3.conv.weight Mixed_5b.branch5x5_2.bn.running_var '
            'Mixed_7c.branch3x3dbl_3b.bn.bias Mixed_6e.branch7x7dbl_5.conv.weight '
            'AuxLogits.conv1.conv.weight AuxLogits.fc.weight fc.weight'
        ),
        'efficientnet_b0': (
            'features.0.0.weight features.1.0.block.1.fc2.bias '
            'features.1.0.block.2.1.running_var features.2.1.block.3.0.weight '
            'features.8.1.weight classifier.1.weight'
        ),
        'convnext_tiny': (
            'features.0.0.bias features.0.1.weight features.1.0.layer_scale '
            'features.1.0.block.0.weight features.3.2.block.2.bias features.5.8.block.3.weight '
            'features.6.0.weight features.6.1.bias features.7.2.block.5.bias '
            'classifier.0.bias classifier.2.weight'
        ),
    }
    counts = {'inception_v3': 580 - 96, 'efficientnet_b0': 360 - 49, 'convnext_tiny': 182}
    for network, names in known.items():
        ours = {pretrained.foreign_name(name) for name in shapes_of(network)}
        assert set(names.split()) <= ours and len(ours) == counts[network], network


@pytest.mark.parametrize('name', TINY)
def test_every_array_arrives(name):
    arrays = foreign(name, **TINY[name], num_outputs=5)
    model = build(name, **TINY[name], num_outputs=5)
    counters = {'bn1.num_batches_tracked': np.array(7)}
    pretrained.load_arrays(
        model, {f'module.{key}': value for key, value in (arrays | counters).items()}
    )
    for ours, value in values(model).items():
        theirs = arrays[pretrained.foreign_name(ours)]
        assert (
            value.dtype == np.float32 and (np.sort(value, None) == np.sort(theirs, None)).all()
        ), ours
        if value.ndim == 4:
            np.testing.assert_array_equal(value[0, -1, -1, 0], theirs[0, -1, 0, -1])


def test_vgg_reads_its_last_map_in_torch_order():
    """The dense layer sees rows, columns, channels here; channels, rows, columns there."""
    arrays = foreign('vgg16', **TINY['vgg16'], num_outputs=3)
    model = build('vgg16', **TINY['vgg16'], num_outputs=3)
    pretrained.load_arrays(model, arrays)
    maps = np.random.default_rng(1).normal(size=(2, 64, 7, 7)).astype(np.float32)
    theirs = maps.reshape(2, -1) @ arrays['classifier.0.weight'].T + arrays['classifier.0.bias']
    np.testing.assert_allclose(
        model.classifier[0](maps.transpose(0, 2, 3, 1).reshape(2, -1)), theirs, atol=1e-3
    )


def test_timm_names():
    def renamed(arrays, rules):
        return {
            next(
                new + name[len(old) :] for old, new in rules.items() if name.startswith(old)
            ): value
            for name, value in arrays.items()
        }

    arrays = foreign('vgg16', **TINY['vgg16'])
    timm = renamed(
        arrays,
        {
            'features': 'features',
            'classifier.0': 'pre_logits.fc1',
            'classifier.3': 'pre_logits.fc2',
            'classifier.6': 'head.fc',
        },
    )
    timm['pre_logits.fc1.weight'] = timm['pre_logits.fc1.weight'].reshape(-1, 64, 7, 7)
    timm['pre_logits.fc2.weight'] = timm['pre_logits.fc2.weight'][:, :, None, None]
    efficient = foreign('efficientnet_b0', **TINY['efficientnet_b0'])
    blocks = {
        'features.1.0.block.0.0': 'conv_dw',
        '0.1': 'bn1',
        '1.fc1': 'se.conv_reduce',
        '1.fc2': 'se.conv_expand',
        '2.0': 'conv_pw',
        '2.1': 'bn2',
    }
    first = {
        f'features.1.0.block.{key.rpartition("block.")[2]}': f'blocks.0.0.{new}'
        for key, new in blocks.items()
    }
    wide = {
        '0.0': 'conv_pw',
        '0.1': 'bn1',
        '1.0': 'conv_dw',
        '1.1': 'bn2',
        '2.fc1': 'se.conv_reduce',
        '2.fc2': 'se.conv_expand',
        '3.0': 'conv_pwl',
        '3.1': 'bn3',
    }
    others = {
        f'features.{stage + 1}.0.block.{key}': f'blocks.{stage}.0.{new}'
        for stage in range(1, 7)
        for key, new in wide.items()
    }
    efficient_timm = renamed(
        efficient,
        {
            **first,
            **others,
            'features.0.0': 'conv_stem',
            'features.0.1': 'bn1',
            'features.8.0': 'conv_head',
            'features.8.1': 'bn2',
            'classifier.1': 'classifier',
        },
    )
    for name, given, other in (
        ('vgg16', arrays, timm),
        ('efficientnet_b0', efficient, efficient_timm),
    ):
        one, two = (build(name, **TINY[name]) for _ in range(2))
        pretrained.load_arrays(one, given)
        pretrained.load_arrays(two, other)
        jax.tree.map(np.testing.assert_array_equal, values(one), values(two))
    with pytest.raises(UserError, match='EfficientNet|unknown network'):
        pretrained.load_arrays(two, efficient_timm, names='torchvision')


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    arrays = foreign('resnet18', **TINY['resnet18'])
    model = build('resnet18', **TINY['resnet18'])
    before = values(model)
    bad = dict(arrays)
    del bad['layer1.0.bn1.bias'], bad['conv1.weight']
    bad |= {
        'fc.weight': arrays['fc.weight'][:7],
        'extra.weight': np.ones(3, np.float32),
        'fc.bias': np.zeros(1000, np.int64),
        'bn1.bias': arrays['bn1.bias'] * np.nan,
    }
    with pytest.raises(UserError) as error:
        pretrained.load_arrays(model, bad, source='w.npz')
    text = str(error.value)
    assert text.startswith('w.npz: ') and '1 not finite: bn1.bias' in text
    assert (
        re.search(r'2 missing: .*conv1.weight \(8, 3, 7, 7\)', text)
        and 'layer1.0.bn1.bias (8,)' in text
    )
    assert '1 unknown to this network: extra.weight (3,)' in text
    assert (
        '2 of another shape or type' in text
        and 'fc.weight (7, 64) float32, expected (1000, 64)' in text
    )
    jax.tree.map(np.testing.assert_array_equal, before, values(model))
    with pytest.raises(
        UserError, match='w.npz: VGG does not fit ResNet-10\n  10 missing'.replace('10 m', r'\d+ m')
    ):
        pretrained.load_arrays(model, foreign('vgg16', **TINY['vgg16']), source='w.npz')


def test_a_feature_extractor_leaves_the_head_alone():
    arrays = foreign('resnet18', **TINY['resnet18'])
    pretrained.load_arrays(build('resnet18', **TINY['resnet18'], num_outputs=0), arrays)
    with pytest.raises(UserError, match=r'2 missing: .*fc\.'):
        pretrained.load_arrays(
            build('resnet18', **TINY['resnet18']),
            {name: value for name, value in arrays.items() if not name.startswith('fc.')},
        )


@pytest.mark.parametrize(
    'name', ['resnet18', 'vgg16', 'efficientnet_b0', 'efficientnet_lite0', 'convnext_tiny']
)
def test_a_grey_stem_equals_three_colours_to_the_border(name):
    arrays = foreign(name, **TINY[name], num_outputs=3)
    colours, plain, folded = (
        build(name, **TINY[name], num_outputs=3, channels=n) for n in (3, 1, 1)
    )
    pretrained.load_arrays(colours, arrays)
    pretrained.load_arrays(plain, arrays, fold_normalisation=False)
    pretrained.load_arrays(folded, arrays)
    image = np.random.default_rng(0).random((2, 40, 48, 1)).astype(np.float32)
    mean, std = (np.float32(v).reshape(1, 1, 1, 3) for v in NORMALISATION.get(name, IMAGENET))
    normalised = (np.repeat(image, 3, 3) - mean) / std

    @nnx.jit
    def first_map(model, x):
        model.eval()
        return model.stages(x)[0]

    for ours, theirs in (
        (first_map(folded, image), first_map(colours, normalised)),
        (first_map(plain, image), first_map(colours, np.repeat(image, 3, 3))),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.fixture
def arrays():
    return {'a': np.arange(300, dtype=np.float32), 'b': np.ones((2, 3), np.float16)}


def write(path, arrays):
    if path.suffix == '.safetensors':
        safetensors.numpy.save_file(arrays, path)
    else:
        np.savez(path, **arrays)


@pytest.mark.parametrize('suffix', ['.safetensors', '.npz'])
def test_files_are_read_whole_or_refused(suffix, tmp_path, arrays):
    path = tmp_path / f'w{suffix}'
    write(path, arrays)
    found, _ = weight_files.read(path)
    jax.tree.map(np.testing.assert_array_equal, found, arrays)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b''):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f'{path}: .*cut short or damaged.*Fetch it again'):
            weight_files.read(path)
    for content in (b'<!DOCTYPE html>', b'version https://git-lfs.github.com/spec/v1'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f'{path}: is a web page or a pointer'):
            weight_files.read(path)


class Canary:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_pickles_in_an_npz_are_not_run(tmp_path):
    path, sign = tmp_path / 'w.npz', tmp_path / 'ran'
    np.savez(path, a=np.array([Canary(sign)], dtype=object))
    with pytest.raises(UserError, match=f'{path}: holds more than arrays'):
        weight_files.read(path)
    assert not sign.exists()
    pickle.loads(pickle.dumps(Canary(sign))).close()  # the canary does sing where it is loaded
    assert sign.exists()


@pytest.mark.parity
def test_pytorch_files(tmp_path):
    """As PyTorch itself writes them; test_torch_files has the hostile ones."""
    torch = pytest.importorskip('torch')
    path, sign = tmp_path / 'w.pth', tmp_path / 'ran'
    state = {
        'module.a': torch.arange(5.0),
        'b': torch.ones(2, 3, dtype=torch.bfloat16),
        'n': torch.tensor(3),
    }
    for content in (state, {'epoch': 3, 'state_dict': state}):
        for new in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=new)
            found, _ = weight_files.read(path)
            assert found['module.a'].tolist() == [0, 1, 2, 3, 4] and found['b'].dtype == np.float32
    whole = path.read_bytes()
    for content in (*(whole[: len(whole) * n // 7] for n in range(1, 7)), b''):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f'{path}: .*damaged'):
            weight_files.read(path)
    for evil in ({'a': Canary(sign)}, torch.nn.Linear(2, 2)):
        torch.save(evil, path)
        with pytest.raises(
            UserError, match=f'{path}: holds more than arrays, which could run code'
        ):
            weight_files.read(path)
    assert not sign.exists()
    torch.save([1, 2], path)
    with pytest.raises(UserError, match='expected a state_dict'):
        weight_files.read(path)


def test_where_weights_are_found(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    spec, here = 'hf:timm/resnet34.a1_in1k', tmp_path / 'timm/resnet34.a1_in1k/model.safetensors'
    with pytest.raises(
        UserError,
        match=f'not installed.*huggingface.co/timm/resnet34.a1_in1k/resolve/main/'
        f'model.safetensors elsewhere and put it at {here}',
    ):
        weight_files.find(spec, tmp_path)

    def offline(repo, file):
        raise OSError(f'no way to {repo}/{file}')

    hub = types.SimpleNamespace(hf_hub_download=offline)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
    with pytest.raises(
        UserError, match=f'no way to timm/resnet34.a1_in1k/model.safetensors.*put it at {here}'
    ):
        weight_files.find(spec, tmp_path)
    hub.hf_hub_download = lambda repo, file: tmp_path / 'cache' / repo / file
    assert (
        weight_files.find(spec + '/x/y.npz', tmp_path)
        == tmp_path / 'cache/timm/resnet34.a1_in1k/x/y.npz'
    )
    here.parent.mkdir(parents=True)
    here.touch()
    assert weight_files.find(spec, tmp_path) == here
    for wrong, said in (
        ('hf:timm', 'hf:timm: no such folder here. Expected hf:<folder>'),
        ('hf:timm/../x', 'xpected hf:<'),
        ('hf:timm/tf_efficientnet_b0.in1k', 'pad and normalise as TensorFlow'),
        (str(tmp_path / 'no.npz'), 'no such file'),
    ):
        with pytest.raises(UserError, match=said):
            weight_files.find(wrong, tmp_path)
    assert (
        weight_files.is_named('hf:a/b')
        and weight_files.is_named('no.npz')
        and not weight_files.is_named(str(tmp_path))
    )


def age_state(seed=0, **options):
    config = c.build(c.base(), None, {})
    model = build('prsnet', backbone='resnet18', width=8, depth=1, **options)
    draw, arrays = np.random.default_rng(seed), nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(
        model, jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), jnp.float32), arrays)
    )
    state, _ = state_lib.create_state(model, optimizer.build(config.optimizer, 0.01), ())
    return sharding.place_replicated(jax.tree.map(np.asarray, state), sharding.make_mesh())


def test_imagenet_weights_fill_parts_of_an_age_model(tmp_path):
    path, arrays = tmp_path / 'w.safetensors', foreign('resnet18', **TINY['resnet18'])
    write(path, arrays)
    state = age_state()
    both = {'backbone': 'backbone', 'part_backbone': 'backbone'}
    for init_map in ({'backbone': 'backbone'}, both):
        after = initialize.load_file(state, path, init_map, ('part_backbone',))
        kernel = after.params['backbone']['stem']['kernel']
        np.testing.assert_allclose(
            kernel[:, :, 0], arrays['conv1.weight'].sum(1).transpose(1, 2, 0), atol=1e-6
        )
        assert kernel.sharding == state.params['backbone']['stem']['kernel'].sharding
        np.testing.assert_array_equal(
            after.batch_stats['backbone']['stem_norm']['mean'], arrays['bn1.running_mean']
        )
        assert (after.params['head']['kernel'] == state.params['head']['kernel']).all()
    for init_map, said in (
        ({}, r"w.safetensors' is ResNet-10, a backbone: .*it has backbone, head"),
        ({'bckbone': 'bckbone'}, "no parameters below 'bckbone'"),
        ({'head': 'head'}, 'w.safetensors: ResNet-10 does not fit'),
    ):
        with pytest.raises(UserError, match=said):
            initialize.load_file(state, path, init_map)


def test_export_and_back_is_bit_exact(tmp_path):
    run, path = tmp_path / 'run', tmp_path / 'w.safetensors'
    with pytest.raises(UserError, match='no trained network lies there'):
        export.export(run, path)
    state = age_state(seed=1)
    with checkpoint.Checkpoints(run) as checkpoints:
        checkpoints.save(7, state, 1.0)
    config = c.build(c.base(), 'source=hand_phantom', {})
    images = {'train': ['p1', 'p2'], 'validation': ['p3']}
    for name, content in (
        ('config', json.loads(config.to_json())),
        ('task', {'centre': 1}),
        ('splits', images),
    ):
        (run / f'{name}.json').write_text(json.dumps(content))
    export.export(run, path)
    back = initialize.load_file(age_state(), path)
    for group in checkpoint.PARAMETERS:
        jax.tree.map(np.testing.assert_array_equal, getattr(back, group), getattr(state, group))
    model = build('prsnet', backbone='resnet18', width=8, depth=1)
    pretrained.load(model, path)
    np.testing.assert_array_equal(
        model.backbone.stem_norm.mean[...], state.batch_stats['backbone']['stem_norm']['mean']
    )
    with pytest.raises(
        UserError, match=r'w.safetensors: does not fit this model\n  \d+ of another shape'
    ):
        pretrained.load(build('prsnet', backbone='resnet18', width=16, depth=1), path)
    with pytest.raises(UserError, match='exists already'):
        export.export(run, path)

    metadata = weight_files.metadata(path)
    assert (
        json.loads(metadata['task']) == {'centre': 1}
        and metadata['step'] == '7'
        and '"p1"' not in str(metadata)
    )
    splits = {
        name: types.SimpleNamespace(ids=ids, spaces=['hand_phantom:0'] * len(ids))
        for name, ids in images.items()
    }
    workdir_lib.check_no_leakage_of_file(path, metadata, splits)
    splits['validation'].ids.append('p2')
    splits['validation'].spaces.append('hand_phantom:1')
    workdir_lib.check_no_leakage_of_file(path, metadata, splits)  # the phantom of another series
    splits['validation'].spaces[-1] = 'hand_phantom:0'
    with pytest.raises(
        UserError, match='w.safetensors.*1 of the 2 validation images were trained on there'
    ):
        workdir_lib.check_no_leakage_of_file(path, metadata, splits)
