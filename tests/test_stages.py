"""Stages: annotations are stored and survive a kill, transforms replay, options build anew."""

import csv
import inspect

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax.errors import ConfigError, UserError
from boneage_jax.preprocess import contrast, enhance, resize
from boneage_jax.stages import appearance, cache, catalog, plan
from boneage_jax.stages import records as records_lib
from tfds_rsna import prepared

LOOKED = []


def halve(example, by):
    """Transforms: darker."""
    return example | {'image': (example['image'] // by).astype(np.uint8)}


def brightest(example):
    """Annotates: one key point, a mask at quarter scale; images without brightness are flagged."""
    LOOKED.append(example['id'])
    point = np.unravel_index(np.argmax(example['image']), example['image'].shape)
    return {
        'keypoints': np.array([point], np.float32),
        'hand_mask': (example['image'][::4, ::4] > 50).astype(np.uint8),
        'flags': '' if example['image'].max() > 100 else 'dark',
    }


def only_even(example):
    return example if int(example['id']) % 2 == 0 else None


def refuse_third(example):
    if example['id'] == '3':
        raise UserError('image 3: too odd')
    return example


def look_third(example):
    return refuse_third({'id': example['id']}) and {'flags': ''}


def glance(example, run):
    assert run
    LOOKED.append(example['id'])
    return {'image': resize.resize(example, (16, 16), 'pad')['image']}


def mean_of(predictor, looks, run):
    assert predictor.workdir == run
    return [{'flags': f'{look["image"].mean():.0f}'} for look in looks]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    for name, stage in {
        'halve': catalog.Stage(transform='halve'),
        'brightest': catalog.Stage(annotate='brightest'),
        'refuse_third': catalog.Stage(transform='refuse_third'),
        'look_third': catalog.Stage(annotate='look_third'),
        'only_even': catalog.Stage(transform='only_even'),
        'mean': catalog.Stage(network_input='glance', network_output='mean_of'),
    }.items():
        monkeypatch.setitem(catalog.STAGES, name, stage)
    monkeypatch.setattr(
        plan, 'resolve', lambda name, real=plan.resolve: globals().get(name) or real(name)
    )
    LOOKED.clear()
    (tmp_path / 'images').mkdir()
    for i in range(6):
        image = np.full((40, 32 + i), 10, np.uint8)
        image[-8:] = 30  # not blank
        image[4 * i + 2, 7] = 250
        Image.fromarray(image).save(tmp_path / 'images' / f'{i}.png')
    (tmp_path / 'labels.csv').write_text(
        'id,boneage,male\n' + ''.join(f'{i},{10 * i + 5},{i % 2 == 0}\n' for i in range(6))
    )
    return tmp_path


def data(folder, chosen, size=(40, 40), **options):
    base = c.base()
    base['data']['stage_options'] = options
    return c.build(
        base,
        f'source=image_folder,images={folder}/images,labels={folder}/labels.csv,size={size},'
        f'stages=({chosen})',
        {},
    ).data


def open_records(config):
    opened = prepared.open(records_lib.get_records(config))
    return dict(zip(opened.labels['train']['ids'], opened.splits['train'], strict=True))


def test_the_table_has_every_option_of_its_functions():
    """No function has a default of its own: the table alone says what a stage does unasked."""
    for name, stage in catalog.STAGES.items():
        options = {*stage.options, *stage.data_options}
        for text in (stage.transform, stage.annotate, stage.network_output):
            if not text:
                continue
            names = options_of(plan.resolve(text))
            assert names == options, f'{name}: {text}'
    assert c.base()['data']['stage_options'] == catalog.default_options()


def options_of(function):
    """The options of a stage's function; where it hands them on, those of the one it hands to."""
    if function is appearance.contrast:
        function = contrast.stretch
    elif function is appearance.enhance:
        function = enhance.enhance
    parameters = inspect.signature(function).parameters.values()
    assert all(each.default is each.empty for each in parameters)
    ours = ('example', 'predictor', 'looks', 'image', 'mask')
    return {
        each.name for each in parameters if each.kind is each.KEYWORD_ONLY or each.name not in ours
    }


def test_unknown_stages_are_refused_when_the_config_is_read():
    with pytest.raises(ConfigError, match='data.stages: unknown contrst; known: mask, unet'):
        c.build(c.base(), 'stages=(mask,contrst)', {})


def test_findings_join_the_image_and_follow_the_resize(folder):
    records = open_records(data(folder, 'halve,brightest', size=(80, 80), halve={'by': 2}))
    for i in range(6):
        scale = 80 / 40
        top = (0.5 + 4 * i + 2) * scale - 0.5
        left = (0.5 + 7) * scale - 0.5 + (80 - round((32 + i) * scale)) // 2
        np.testing.assert_allclose(records[str(i)]['keypoints'], [[top, left]], atol=0.02)
        assert (
            records[str(i)]['image'].max() <= 125 and records[str(i)]['flags'] == ''
        )  # halved, and seen so
        assert records[str(i)]['hand_mask'].shape == (80, 80, 1)


def test_a_stage_sees_what_the_stages_before_it_left(folder, capsys):
    records = open_records(data(folder, 'halve,brightest', halve={'by': 5}))  # 250 // 5 = 50
    assert {record['flags'] for record in records.values()} == {'dark'}
    assert f'their ids): dark {len(records)}\n' in capsys.readouterr().err


def test_a_stage_may_leave_images_out(folder, capsys):
    assert sorted(open_records(data(folder, 'only_even,brightest'))) == ['0', '2', '4']
    assert '3 of 6 images were left out' in capsys.readouterr().err


@pytest.mark.parametrize('chosen', ['refuse_third', 'look_third', 'look_third,brightest'])
def test_an_image_that_a_stage_refuses_is_named_and_stops_no_other(folder, chosen):
    with pytest.raises(UserError) as error:
        open_records(data(folder, chosen))
    assert 'image that a stage refuses: 1 (3 in train: image 3: too odd)' in str(error.value)
    assert 'data.on_error=skip' in str(error.value)
    config = data(folder, chosen)
    with config.unlocked():
        config.on_error = 'skip'
    assert sorted(open_records(config)) == ['0', '1', '2', '4', '5']
    with open(records_lib.get_records(config) / 'rejected.csv', newline='') as file:
        (row,) = csv.DictReader(file)
    assert row['id'] == '3' and 'too odd' in row['reason']


def test_a_few_images_are_processed_whatever_a_stage_refuses(folder):
    images = [
        {'image': np.asarray(Image.open(folder / 'images' / f'{i}.png')), 'id': str(i)}
        for i in (2, 3, 4)
    ]
    for chosen in ('refuse_third', 'look_third'):
        config = data(folder, chosen)
        two, three, four = records_lib.process(images, config)
        assert (two['id'], four['id']) == ('2', '4') and 'too odd' in str(three)
        with pytest.raises(UserError, match='image 3: too odd'):
            records_lib.apply_stages(images, plan.make_plan(config))


def test_findings_are_kept_and_a_killed_stage_goes_on(folder, monkeypatch):
    monkeypatch.setattr(cache, 'CHUNK', 2)
    write = cache._write
    monkeypatch.setattr(
        cache, '_write', lambda path, found: 1 / 0 if '000002' in path.name else write(path, found)
    )
    with pytest.raises(ZeroDivisionError):
        open_records(data(folder, 'brightest'))
    monkeypatch.setattr(cache, '_write', write)
    kept = list((folder / 'cache' / 'findings').glob('*/train-*.npz'))
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert len(kept) == 1
    open_records(data(folder, 'brightest'))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    LOOKED.clear()
    open_records(data(folder, 'brightest', size=(64, 64)))  # another size: the findings serve again
    assert not LOOKED
    open_records(data(folder, 'halve,brightest', halve={'by': 2}))
    assert LOOKED


def test_networks_answer_in_the_main_process_from_what_workers_saw(folder, monkeypatch):
    from boneage_jax.runs import predictor as predictor_lib

    class Predictor:
        def __init__(self, workdir):
            self.workdir = workdir

    monkeypatch.setattr(predictor_lib, 'Predictor', Predictor)
    run = folder / 'run'
    with pytest.raises(ConfigError, match='data.stage_options.mean.run is empty'):
        records_lib.get_records(data(folder, 'mean', mean={'run': ''}))
    with pytest.raises(ConfigError, match='no finished run is there'):
        records_lib.get_records(data(folder, 'mean', mean={'run': str(run)}))
    run.mkdir()
    (run / 'metrics.json').write_text('{}')
    (run / 'config.json').write_text('{"data": {"source": "rsna_bone_age", "stages": []}}')
    config = data(folder, 'only_even,mean', mean={'run': str(run)})
    with pytest.raises(
        ConfigError,
        match=r"saw images after the stages \[\], here \['only_even'\] come before mean",
    ):
        records_lib.get_records(config)
    (run / 'config.json').write_text(
        '{"data": {"source": "rsna_bone_age", "stages": ["only_even"]}}'
    )
    first = records_lib.get_records(config)
    labels = prepared.open(first).labels['train']
    assert sorted(labels['ids']) == ['0', '2', '4'] and all(
        int(flag) > 0 for flag in labels['flags']
    )
    (run / 'metrics.json').write_text(
        '{"step": 2}'
    )  # trained anew: its findings do not serve any more
    assert records_lib.get_records(config) != first


def test_a_few_images_go_the_same_way_without_being_stored(folder):
    config = data(folder, 'only_even,halve,brightest', size=(80, 80), halve={'by': 2})
    images = [
        {'image': np.asarray(Image.open(folder / 'images' / f'{i}.png')), 'id': str(i)}
        for i in range(3)
    ]
    one, left_out, two = records_lib.process(images, config)
    assert left_out is None
    records = open_records(config)
    for example in (one, two):
        for name in ('image', 'keypoints', 'hand_mask'):
            np.testing.assert_array_equal(example[name], records[example['id']][name])


def test_resizing_may_come_before_other_stages(folder):
    records = open_records(data(folder, 'resize,brightest', size=(80, 80)))
    assert all(record['image'].shape == (80, 80, 1) for record in records.values())


def test_prepared_images_are_taken_as_they_are(folder):
    made = records_lib.get_records(data(folder, ''))
    given = f'source=prepared,data.folder={made}'
    assert records_lib.get_records(c.build(c.base(), given + ',size=(40,40)', {}).data) == made
    with pytest.raises(ConfigError, match=r'set data.size=\(40, 40\)'):
        records_lib.get_records(c.build(c.base(), given + ',size=(64,64)', {}).data)


def test_points_go_back_to_where_they_came_from():
    for fit, size in (('pad', (64, 40)), ('stretch', (30, 90))):
        example = {
            'image': np.zeros((50, 40), np.uint8),
            'keypoints': np.array([[3.0, 7.0], [49.0, 0.0]], np.float32),
        }
        resized = resize.resize(example, size, fit)
        back = resize.restore_points(resized['keypoints'], (50, 40), size, fit)
        np.testing.assert_allclose(back, example['keypoints'], atol=1e-4)
        assert (
            resize.uncovered(resized['image'], (50, 40), fit).shape[:2]
            == resize.inner((50, 40), size, fit)[0]
        )


def test_a_stretched_image_gets_its_aspect_back():
    example = {
        'image': np.full((100, 100), 9, np.uint8),
        'keypoints': np.array([[49.5, 49.5], [-0.5, -0.5]], np.float32),
        'native_shape': (1300, 650),
    }
    padded = resize.resize(example, (130, 100), 'pad')
    assert 'native_shape' not in padded and padded['image'].any(0).sum() == 65  # columns
    np.testing.assert_allclose(padded['keypoints'], [[64.5, 49], [-0.5, 16.5]], atol=1)
    assert resize.resize(example, (130, 100), 'stretch')['image'].all()


@pytest.mark.parametrize(
    'chosen, size',
    [
        ('mask,crop', (96, 80)),
        ('snap,crop', (96, 80)),
        ('mask,contrast', (96, 80)),
        ('resize,enhance', (96, 80)),
        ('mask,contrast,register', (104, 80)),
        ('mask,region', (500, 375)),
    ],
)
def test_the_papers_stages_on_phantoms(monkeypatch, tmp_path, chosen, size):
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(records_lib, 'POOL_SECONDS', 1e9)
    config = c.build(
        c.base(),
        f'source=hand_phantom,count=3,data.phantom.size=(208,160),size={size},stages=({chosen}),'
        'data.stage_options.register.size=(104,80)',
        {},
    ).data
    images = prepared.open(records_lib.get_records(config))
    assert len(images.splits['train']) == 3
    for record, flags in zip(images.splits['train'], images.labels['train']['flags'], strict=True):
        assert record['image'].shape == (*size, 1) and np.ptp(record['image']) > 50
        inside = record['hand_mask'][..., 0] > 0
        truth = record['keypoints']
        if (
            chosen != 'resize,enhance'
        ):  # the phantoms' own mask is replaced by the one that was found
            points = np.round(truth).astype(int)
            within = [inside[r, c] for r, c in points if 0 <= r < size[0] and 0 <= c < size[1]]
            assert np.mean(within) >= 0.5
        assert 'registered_by' not in flags  # phantoms know their key points
