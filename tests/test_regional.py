"""Regional age nets: sizes and parameters by hand, the expectation over ages, what is refused, one
sex's images.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax import config as c
from boneage_jax import models, tasks
from boneage_jax.data import source
from boneage_jax.errors import ConfigError
from boneage_jax.models import regional
from boneage_jax.runs import predictor
from boneage_jax.stages import appearance, plan, records, registration
from boneage_jax.tasks import losses
from tfds_rsna.errors import UserError

CONFIG = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'regions.py'


def load(arg):
    return c.load(f'{CONFIG}:{arg}')[1]


def abstract(config):
    return nnx.eval_shape(lambda: predictor.build_model(config))


def count(model):
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize('row, last', [('A', (6, 4)), ('B', (4, 4)), ('C', (3, 9))])
def test_parameters_by_hand(row, last):
    widths, flat = [1, 32, 64, 128, 128, 256, 384], last[0] * last[1] * 384
    blocks = [(9 * i * o + o) + 2 * o + (o * o + o) + 2 * o for i, o in zip(widths, widths[1:])]
    dense = flat * 2048 + 2048 + 2048 * 2048 + 2048
    one, many = (load(f'row={form}-both-{row}') for form in ('regression', 'classification'))
    model = abstract(one)
    assert model.flat == flat and (row != 'A' or flat == 9216)
    assert count(model) == sum(blocks) + dense + 2048 + 1
    assert count(abstract(many)) == sum(blocks) + dense + 2048 * 240 + 240
    wide = abstract(load(f'row=regression-both-{row},second=3x3'))
    assert count(wide) - count(model) == sum(8 * o * o for o in widths[1:])
    image = jax.ShapeDtypeStruct((2, *one.data.size, 1), jnp.float32)
    model.eval()
    assert jax.eval_shape(lambda m, x: m(x, None)[0], model, image).shape == (2,)


def test_the_paper_s_recipe():
    config = load('row=classification-male-B')
    options = config.optimizer
    assert (options.name, options.learning_rate, options.momentum, options.b2) == (
        'adam',
        2e-5,
        0.5,
        0.999,
    )
    assert (config.batch_size, config.epochs, config.data.sex, config.data.size) == (
        8,
        50,
        'male',
        (375, 375),
    )
    assert tasks.fit(config.task, np.array([3.0])) == {'centre': 120.0, 'scale': 120.0}
    rows = [row.name for row in c.load_module(CONFIG).sweep()]
    assert len(rows) == 21 and rows[18:] == ['original', 'restored', 'segmented']
    assert load('rsna100,row=regression-female-C').data.size == (75, 175)
    assert load('rsna100,row=segmented').data.stages == ('aspect', 'mask', 'contrast', 'region')
    assert load('rsna100,row=original').data.stages == ()
    squashed = load('rsna100,hands,row=original').data
    restored = load('rsna100,hands,row=restored').data
    assert squashed.stages == restored.stages == ()
    assert squashed.native_sizes == '' and restored.native_sizes.endswith('native_sizes.csv')


def test_small_images_are_refused_with_the_least_size():
    with pytest.raises(
        UserError, match=r'data.size=\(126, 375\): 6 blocks .* need at least 127 pixels a side'
    ):
        models.build('regional', size=(126, 375))
    for blocks in (1, 4, 6):
        least = regional.smallest_side(blocks)
        assert regional.map_size((least, least - 1), blocks) == (1, 0)
    with pytest.raises(UserError, match="model.second='5x5': expected one of 1x1, 3x3"):
        models.build('regional', second='5x5')
    model = nnx.eval_shape(
        lambda: models.build('regional', size=(15, 15), widths=(2, 2), hidden_units=4)
    )
    with pytest.raises(
        UserError, match='takes images of 15x15, found 15x14; give it images of data.size'
    ):
        model(jnp.zeros((1, 15, 14, 1)), None)


def test_the_expectation_is_over_whole_months_from_0():
    logits = np.full((3, 240), -1e9, np.float32)
    logits[0, 239] = logits[1, [10, 20]] = logits[2, :] = 0.0
    np.testing.assert_allclose(losses.expected_age(logits), [239.0, 15.0, 119.5], rtol=1e-5)


def test_both_forms_are_trained_on_the_same_normalised_error():
    batch = {'months': jnp.array([60.0, 180.0]), 'valid': jnp.array([True, True])}
    logits = np.full((2, 240), -1e9, np.float32)
    logits[:, [66, 168]] = [[0.0, -1e9], [-1e9, 0.0]]
    one, many = (load(f'tiny,row={form}-both-A').task for form in ('regression', 'classification'))
    one, many = (
        tasks.build(options, tasks.fit(options, np.array([1.0]))) for options in (one, many)
    )
    for task, prediction in (
        (one, jnp.array([(66 - 120) / 120, (168 - 120) / 120])),
        (many, jnp.asarray(logits)),
    ):
        loss, sums = task.loss(prediction, {}, batch)
        assert float(loss) == pytest.approx((6 + 12) / 2 / 120, rel=1e-4) and float(
            sums['mae'][0]
        ) == pytest.approx(18, rel=1e-4)
        np.testing.assert_allclose(task.months(prediction), [66, 168], rtol=1e-5)
    with pytest.raises(
        UserError, match='takes 240 logits an image, found .2.; set model.outputs=240'
    ):
        many.loss(jnp.zeros(2), {}, batch)
    with pytest.raises(
        UserError,
        match="this network gives 240; set model.outputs=1 or task.name='age_expectation'",
    ):
        one.loss(jnp.asarray(logits), {}, batch)


def test_ages_without_a_class_are_refused_by_id():
    months, male = np.array([0.0, 239.9, 240.0]), np.ones(3, bool)
    split = source.Split('train', None, np.arange(3), ['a', 'b', 'c'], months, male)
    expectation, regression = (
        load(f'row={form}-both-A').task for form in ('classification', 'regression')
    )
    with pytest.raises(
        UserError, match=r'1 of the 3 train images are outside 0 to 240 months.*: c \(240\)'
    ):
        tasks.validate_labels(expectation, {'train': split})
    tasks.validate_labels(regression, {'train': split})
    with pytest.raises(UserError, match=r'a \(-0.5\)'):
        tasks.validate_labels(
            expectation, {'train': dataclasses.replace(split, months=months - 0.5)}
        )


def test_networks_of_one_sex_have_their_part_of_the_same_splits():
    splits = {
        sex: records.open_splits(load(f'tiny,row=regression-{sex}-A'))
        for sex in ('male', 'female', 'both')
    }
    assert {len(split) for split in splits['both'].values()} > {12}
    for name, both in splits['both'].items():
        for sex, male in (('male', True), ('female', False)):
            own = splits[sex][name]
            assert own.ids == [
                example for example, boy in zip(both.ids, both.male) if boy == male
            ] and len(own)
            first = both.ids.index(own.ids[0])
            np.testing.assert_array_equal(own.arrays([0])['image'], both.arrays([first])['image'])


def test_a_lost_aspect_and_a_image_as_it_lies():
    example = {
        'id': '1',
        'image': np.arange(100, dtype=np.uint8).reshape(10, 10),
        'keypoints': np.array([[4.5, 4.5]], np.float32),
    }
    out = appearance.aspect(example, ratio=1.33)
    assert out['image'].shape == (13, 10)
    np.testing.assert_allclose(out['keypoints'], [[6.0, 4.5]])
    assert registration.region(example, region='image') is example


def test_what_changes_no_pixel_may_come_before_a_network(tmp_path):
    (tmp_path / 'metrics.json').write_text('{}')
    (tmp_path / 'config.json').write_text(
        '{"data": {"source": "rsna_bone_age", "stages": ["points"]}}'
    )
    runs = f'data.stage_options.keypoints.run={tmp_path},data.stage_options.unet.run={tmp_path}'
    config = load(f'rsna100,networks,{runs},stages=(aspect,unet,keypoints,contrast,region)')
    assert [step.name for step in plan.make_plan(config.data)] == [
        'aspect',
        'unet',
        'keypoints',
        'contrast',
        'region',
    ]
    with pytest.raises(ConfigError, match=r"here \['contrast'\] come before keypoints"):
        # the paper's order: for key points trained on normalised images
        plan.make_plan(load(f'{runs},stages=(unet,contrast,keypoints,region)').data)
