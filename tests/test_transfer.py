"""Transfer learning: the paper's parameter counts, features kept and not kept, attention maps where
they belong.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_pretrained import foreign, write

from boneage_jax import config as c
from boneage_jax import figures, models
from boneage_jax.analysis import interpret
from boneage_jax.data import source
from boneage_jax.runs import state as state_lib
from boneage_jax.runtime import checkpoint
from boneage_jax.stages import records
from boneage_jax.training import feature_cache, loop
from tfds_rsna.errors import UserError

SMALL = dict(backbone='resnet18', width=4, depth=1, hidden_units=8, size=(64, 64))


def tiny(arg):
    return c.load(f'configs/attention.py:tiny,{arg}')[1]


@pytest.mark.parametrize('head, side, count', [('fc', 256, 1_576_961), ('attention', 500, 565_058)])
def test_trainable_parameters_are_the_papers(head, side, count):
    paper = c.load(f'configs/attention.py:row=both-{head},init_from=x.npz')[1]
    assert (
        paper.frozen == ('backbone',)
        and paper.model.backbone == 'vgg16'
        and paper.task.normalisation == 'months'
    )
    model = nnx.eval_shape(
        lambda: models.build(
            'transfer', head=head, size=(side, side), channels=3, standardise='imagenet'
        )
    )
    assert head == 'fc' or model.map_size() == (15, 15)
    _, trainable, frozen, _ = state_lib.partition(model, paper.frozen)
    assert sum(x.size for x in jax.tree.leaves(trainable)) == count
    assert sum(x.size for x in jax.tree.leaves(frozen)) == 14_714_688  # VGG16 without its head


def test_attention_is_the_gated_mean_and_knows_its_place():
    model = models.build('transfer', **SMALL)
    model.eval()
    image = np.random.default_rng(0).random((3, 64, 64, 1), np.float32)
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, image: nnx.merge(graph, state)(image, jnp.zeros(3, bool))[1])
    aux = run(state, image)
    gate, x = (
        np.asarray(aux['attention'])[..., None],
        np.asarray(jax.jit(lambda image: model.norm(model.features(image)))(image)),
    )
    np.testing.assert_allclose(aux['masked'], gate * x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        aux['embeddings'], (gate * x).sum((1, 2)) / gate.sum((1, 2)), rtol=1e-4, atol=1e-5
    )
    assert ((gate > 0) & (gate < 1)).all()
    model.gate.bias[...] = jnp.array(
        [[50.0, -50.0], [-50.0, -50.0]]
    )  # locally connected: one place may be all that counts
    aux = run(nnx.state(model), image)
    np.testing.assert_allclose(aux['embeddings'], x[:, 0, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'backbone, side, level, options',
    [
        ('vgg16', 96, 2, {'width': 4, 'depth': 1}),
        ('resnet18', 128, 1, {'width': 4, 'depth': 1}),
        ('unet', 64, 2, {'width': 2, 'depth': 2}),
        ('efficientnet_lite0', 96, 1, {'width': 8, 'depth': 1}),
        ('convnext_tiny', 96, 0, {'width': 8, 'depth': 1}),
    ],
)
def test_places_look_where_first_place_says(backbone, side, level, options):
    """The middle of what a place of the map can see, by its gradient. (EfficientNet-B0's sees
    all: squeeze and excite.)
    """
    backbone = models.MAP_BACKBONES[backbone](
        num_outputs=0, channels=1, rngs=nnx.Rngs(0), **options
    )
    backbone.eval()
    image = np.random.default_rng(0).random((1, side, side, 1), np.float32)
    shape = jax.eval_shape(lambda x: backbone.stages(x)[level], image).shape
    place = shape[1] // 2
    seen = jax.jit(jax.grad(lambda x: backbone.stages(x)[level][0, place, place].sum()))(image)
    seen = np.asarray(seen)[0, ..., 0]
    rows = np.flatnonzero(np.abs(seen).sum(1))
    middle = (rows.min() + rows.max()) / 2
    assert rows.min() > 0 and rows.max() < side - 1  # the image holds all of it
    assert (
        abs(middle - backbone.first_place(level) - backbone.strides[level] * place)
        <= backbone.strides[level] / 4
    )


def test_inceptions_places_lie_evenly_about_the_middle():
    """Nothing is padded there, so that 299 pixels, which it is made for, leave the same border on
    both sides.
    """
    backbone = nnx.eval_shape(
        lambda: models.MAP_BACKBONES['inception_v3'](
            num_outputs=0, channels=1, width=2, depth=1, rngs=nnx.Rngs(0)
        )
    )
    for level, places in enumerate((147, 71, 35, 17, 8)):
        assert backbone.first_place(level) + backbone.strides[level] * (places - 1) / 2 == 149


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The same run with and without kept features."""
    folder = tmp_path_factory.mktemp('transfer')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('BONEAGE_CACHE', str(folder / 'cache'))
        for kind in ('float32', 'off'):
            loop.train(tiny(f'row=both-attention,cache_features={kind},epochs=2'), folder / kind)
        yield folder


def test_kept_features_give_the_same_losses(runs):
    losses = {}
    for kind in ('float32', 'off'):
        lines = [
            json.loads(line) for line in (runs / kind / 'metrics.jsonl').read_text().splitlines()
        ]
        losses[kind] = [(line['kind'], line['step'], line['loss']) for line in lines]
    assert len(losses['off']) == 10 and [x[:2] for x in losses['off']] == [
        x[:2] for x in losses['float32']
    ]
    np.testing.assert_allclose(*([x[2] for x in losses[kind]] for kind in losses), rtol=1e-3)
    kept = list((runs / 'cache' / 'features').glob('*/*.npy'))
    assert len(kept) == 3 and {np.load(path).shape for path in kept} == {
        (16, 2, 2, 32),
        (8, 2, 2, 32),
    }


def test_features_are_computed_once_whatever_the_split(runs, monkeypatch, tmp_path):
    monkeypatch.setattr(feature_cache, 'CHUNK', 4)
    monkeypatch.setenv('BONEAGE_CACHE', str(runs / 'cache'))
    split = records.open_splits(tiny('row=both-attention'))['train']
    seen = []

    def compute(images):
        if len(seen) == 2 and not (tmp_path / 'go').exists():
            raise KeyboardInterrupt
        seen.append(len(images))
        return images[:, :2, :2].astype(np.float32)

    with pytest.raises(KeyboardInterrupt):
        feature_cache._ensure(split, compute, 'a', tmp_path)
    (tmp_path / 'go').touch()
    kept = feature_cache._ensure(split, compute, 'a', tmp_path)
    assert seen == [4, 4, 4, 4]  # it went on, and no image came twice
    np.testing.assert_array_equal(
        kept.arrays([15, 3])['features'], split.arrays([15, 3])['image'][:, :2, :2]
    )
    assert kept.months is split.months
    # Another order, some twice: nothing is computed. Another backbone: all of it.
    other = source.take(split, np.array([9, 2, 2, 0]))
    np.testing.assert_array_equal(
        feature_cache._ensure(other, compute, 'a', tmp_path).arrays(range(4))['features'],
        other.arrays(range(4))['image'][:, :2, :2],
    )
    assert len(seen) == 4
    feature_cache._ensure(other, compute, 'b', tmp_path)
    assert seen[4:] == [3]


def test_damaged_features_are_named(runs, monkeypatch, tmp_path):
    monkeypatch.setenv('BONEAGE_CACHE', str(runs / 'cache'))
    split = records.open_splits(tiny('row=both-attention'))['holdout']
    feature_cache._ensure(split, lambda images: images.astype(np.float32), 'a', tmp_path)
    (chunk,) = tmp_path.glob('*/*.npy')
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf'{chunk.name}: damaged .* delete the folder'):
        feature_cache._ensure(split, None, 'a', tmp_path)


def test_maps_are_drawn_after_evaluation_and_by_command(runs, monkeypatch, tmp_path):
    monkeypatch.setenv('BONEAGE_CACHE', str(runs / 'cache'))
    assert (runs / 'off' / 'figures' / 'attention.png').exists()
    report = interpret.interpret(runs / 'off', tmp_path, split='holdout', count=3)
    assert report == json.loads((tmp_path / 'attention.json').read_text())
    assert {p.name for p in tmp_path.iterdir()} == {'attention.json', 'attention.png'}
    assert 1 <= report['places_used']['value'] <= 4 and 0 <= report['same_in_all_images'] <= 1
    figures.overlay(
        np.zeros((64, 64), np.uint8),
        'one',
        tmp_path / 'one.png',
        maps={'attention': np.eye(2)},
        boxes_of_maps={'attention': (-15.5, -15.5, 48.5, 48.5)},
    )
    assert (tmp_path / 'one.png').stat().st_size > 1000


def test_imagenets_vgg_comes_from_a_file_and_stays_as_it_came(tmp_path):
    """The paper's own way, with random weights under torchvision's names: every convolution,
    colours and classifier too.
    """
    path, arrays = tmp_path / 'vgg16.safetensors', foreign('vgg16', width=4)
    write(path, arrays)
    examples = (
        'data.stages=(),source=hand_phantom,phantom.count=24,phantom.size=(64,64),'
        'data.size=(64,64),validation=6,holdout=6,model.width=4,model.hidden_units=8,'
        'batch_size=4,epochs=1,log_every_steps=1,placement=device'
    )
    config = c.load(f'configs/attention.py:row=both-fc,init_from={path},{examples}')[1]
    assert (
        config.model.backbone == 'vgg16'
        and config.model.standardise == 'imagenet'
        and config.frozen == ('backbone',)
    )
    report = loop.train(config, tmp_path / 'run')
    assert report['splits']['holdout']['overall']['mae']['value'] > 0
    with checkpoint.Checkpoints(tmp_path / 'run') as checkpoints:
        _, kept = checkpoints.read_parameters()
    kernels = sorted(
        array.tobytes()
        for name, array in kept.items()
        if name.startswith('backbone') and array.ndim == 4
    )
    theirs = [array.transpose(2, 3, 1, 0) for name, array in arrays.items() if array.ndim == 4]
    assert len(theirs) == 13 and kernels == sorted(
        np.ascontiguousarray(array).tobytes() for array in theirs
    )


@pytest.mark.parametrize(
    'arg, message',
    [
        (
            'row=both-fc,backbone_weights=named,init_map=backbone',
            "init_from='': what is frozen would stay as it was drawn",
        ),
        (
            'row=both-fc,backbone_weights=named,init_from=fresh,frozen=head',
            'no whole frozen backbone; set cache_features=off',
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(arg, message, tmp_path):
    with pytest.raises(UserError, match=message):
        loop.train(tiny(arg), tmp_path)


def test_images_of_another_size_are_refused():
    model = nnx.eval_shape(lambda: models.build('transfer', **SMALL))
    image = jax.ShapeDtypeStruct((2, 72, 72, 1), jnp.float32)
    with pytest.raises(UserError, match=r'images of 72x72, .*data.size=\(64, 64\)'):
        nnx.eval_shape(lambda m, x: m.features(x), model, image)


def test_imagenets_normalisation_needs_its_channels():
    with pytest.raises(UserError, match='set model.channels=3'):
        models.build('transfer', **SMALL, standardise='imagenet')
    with pytest.raises(UserError, match="backbone_weights='sega'"):
        tiny('backbone_weights=sega')
