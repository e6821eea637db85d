"""PRSNet: anchors, selection, crops, the ranking loss, what each switch changes, and where
gradients go.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from boneage_jax import config as c
from boneage_jax import models, tasks
from boneage_jax.models import parts
from boneage_jax.tasks import losses

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.random((3, 64, 64, 1)), jnp.float32)
MALE = jnp.array([True, False, True])
FULL = {'relation': True, 'selection': True}
CENTRE = 120.0
SCALE = 40.0
# Compiling is what takes time.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def abstract(**options):
    options = {'backbone': 'resnet18', 'width': 8, 'depth': 1, 'part_size': 32} | options
    return nnx.eval_shape(lambda: models.build('prsnet', **options))


def tiny(**options):
    """A small network, its parameters drawn by NumPy: compiling the initial values takes longer
    than these tests.
    """
    model = abstract(**options)
    state, draw = nnx.state(model, (nnx.Param, nnx.BatchStat)), np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(state):
        if path[-1] == 'kernel':
            value = draw.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        else:
            value = np.full(leaf.shape, path[-1] in ('scale', 'var'))
        leaf.set_value(jnp.asarray(value, jnp.float32))
    nnx.update(model, state)
    return model


@functools.cache  # tests share compiled networks
def applied(image=(3, 64, 64), **options):
    model = tiny(**options)
    model.eval()
    images = IMAGE if image == (3, 64, 64) else jnp.asarray(RNG.random((*image, 1)), jnp.float32)
    graph, state = nnx.split(model)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(state, images, male):
        return nnx.merge(graph, state)(images, male)

    return jax.device_get(run(state, images, MALE[: image[0]]))


def shapes(side, **options):
    """What the network gives for two images of `side` pixels, as shapes: nothing is computed."""
    example = jax.ShapeDtypeStruct((2, side, side, 1), jnp.float32)
    return jax.eval_shape(
        lambda m, *x: m(*x), abstract(**options), example, jax.ShapeDtypeStruct((2,), jnp.bool_)
    )


# Anchors


@pytest.mark.parametrize(
    'size, count', [((512, 512), 33_024), ((100, 100), 1_452), ((96, 96), 1_161), ((64, 96), 774)]
)
def test_anchor_counts(size, count):
    boxes, level = parts.anchors(size)
    assert boxes.shape == (count, 4) and level.shape == (count,)
    assert (boxes.dtype, level.dtype) == (np.float32, np.int32)


def test_anchors_at_512_pixels():
    boxes, level = parts.anchors((512, 512))
    assert np.bincount(level).tolist() == [24_576, 6_144, 2_304]
    centres, sides = (boxes[:, 2:] + boxes[:, :2]) / 2, boxes[:, 2:] - boxes[:, :2]
    for number, (stride, count, base) in enumerate([(8, 6, 48), (16, 6, 96), (32, 9, 192)]):
        chosen = centres[level == number].reshape(512 // stride, 512 // stride, count, 2)
        np.testing.assert_allclose(chosen[2, 5, 3], [2.5 * stride, 5.5 * stride], atol=1e-4)
        assert np.ptp(chosen, axis=2).max() < 1e-3  # one place, all shapes
        sizes = np.prod(sides[level == number][:count:3], -1) ** 0.5 / (base * 512 / 448)
        np.testing.assert_allclose(sizes, 2 ** np.array([1 / 3, 2 / 3, 0][: count // 3]), rtol=1e-5)
    ratios = (sides[:, 1] / sides[:, 0]).reshape(-1, 3)
    np.testing.assert_allclose(ratios, np.broadcast_to([2 / 3, 1, 3 / 2], ratios.shape), rtol=1e-4)


@pytest.mark.parametrize('size', [(96, 96), (100, 100), (90, 130)])
def test_anchors_lie_mirror_symmetric_with_their_centres_on_the_image(size):
    boxes, _ = parts.anchors(size)
    mirrored = np.stack([boxes[:, 0], size[1] - boxes[:, 3], boxes[:, 2], size[1] - boxes[:, 1]], 1)
    assert {tuple(b) for b in boxes.round(2) + 0.0} == {tuple(b) for b in mirrored.round(2) + 0.0}
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    assert (centres > 0).all() and (centres < size).all()


def test_anchors_grow_with_the_image():
    small, large = (
        np.ptp(parts.anchors((side, side))[0][:6].reshape(-1, 2, 2), axis=1) for side in (128, 256)
    )
    np.testing.assert_allclose(2 * small, large, rtol=1e-5)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: parts.anchors((512, 512), sizes=(0, 0, 0)), 'no level yields an anchor'),
        (lambda: tiny(selection=True, anchor_sizes=(0, 0, 0)), 'no level yields an anchor'),
        (lambda: tiny(selection=True, anchor_sizes=(48, 96)), 'expected 3 sizes'),
        (
            lambda: tiny(selection=True, anchor_sizes=(48, 96, 400)),
            'the largest anchor of level res5 is 778 x 778',
        ),
        (
            lambda: parts.select(jnp.zeros((1, 4)), jnp.zeros((4, 4)), 5),
            'parts=5: expected 1 to 4, the number of',
        ),
        (lambda: shapes(64, **FULL, parts=517), 'parts=517: expected 1 to 516'),
        (lambda: tiny(part_features='head'), "part_features='head': expected 'crop' or 'level'"),
        (lambda: tiny(part_size=16), 'part_size=16: expected at least 32 pixels'),
        (lambda: tiny(nms_iou=1.0), 'nms_iou=1.0'),
        (
            lambda: losses.part_ranking(jnp.zeros((1, 3)), jnp.zeros((1, 3)), form='printed'),
            "form='printed': expected one of",
        ),
        (
            lambda: build_task(ranking_form='printed'),
            "task.ranking_form='printed': expected one of corrected, literal",
        ),
        (lambda: tiny(backbone_size=-1), 'backbone_size=-1'),
        (lambda: tiny(selection=True, on_hand=1.5), 'on_hand=1.5: expected a share'),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Selection and crops


def greedy(scores, boxes, top, iou):
    """Plain non-maximum suppression: best first, dropping what overlaps a kept one."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if len(kept) == top:
            break
        for k in kept:
            low, high = (
                np.maximum(boxes[i, :2], boxes[k, :2]),
                np.minimum(boxes[i, 2:], boxes[k, 2:]),
            )
            common = np.prod(np.maximum(high - low, 0))
            first, second = (np.prod(boxes[n, 2:] - boxes[n, :2]) for n in (i, k))
            if common / (first + second - common) > iou:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize('iou', [0.0, 0.25, 0.7])
def test_selection_is_greedy_suppression(iou):
    boxes, _ = parts.anchors((96, 96))
    scores = RNG.normal(size=(6, len(boxes))).astype(np.float32)
    scores[3:] = scores[3:].round(1)  # ties
    index, valid = jax.jit(lambda s: parts.select(s, boxes, 4, iou))(scores)
    assert index.shape == valid.shape == (6, 4)
    for i, v, s in zip(np.asarray(index), np.asarray(valid), scores):
        assert i[v].tolist() == greedy(s, boxes, 4, iou)


def test_fewer_survivors_than_wanted_are_marked():
    boxes = np.float32([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 1, 10, 11]])
    index, valid = parts.select(jnp.float32([[1, 4, 2, 3], [4, 1, 3, 2]]), boxes, 4)
    assert valid.tolist() == [[True, True, False, False]] * 2
    assert index.tolist() == [[1, 2, 0, 0], [0, 2, 0, 0]]


def test_only_allowed_boxes_are_taken():
    boxes = np.float32([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    allowed = jnp.array([[True, False, True], [False, False, True]])
    index, valid = parts.select(jnp.float32([[1, 4, 2], [4, 1, 3]]), boxes, 2, allowed=allowed)
    assert index.tolist() == [[2, 0], [2, 0]]
    assert valid.tolist() == [[True, True], [True, False]]


def test_the_share_of_a_box_inside_a_mask():
    mask = RNG.random((2, 12, 20)) < 0.6
    boxes = np.float32([[2, 3, 8, 9], [0, 0, 12, 20], [-4, 5, 4, 11], [9.6, 14.2, 15.8, 23.9]])
    found = parts.share_inside(jnp.asarray(mask), boxes)
    padded = np.pad(mask, ((0, 0), (4, 10), (4, 10)))
    for box, shares in zip(np.rint(boxes).astype(int) + 4, np.asarray(found).T):
        expected = padded[:, box[0] : box[2], box[1] : box[3]].mean((1, 2))
        np.testing.assert_allclose(shares, expected, rtol=1e-6)


def test_crops_are_those_of_pillow():
    image = RNG.normal(size=(2, 40, 50, 1)).astype(np.float32)
    inside = [[3.3, 5.1, 30.9, 44.4], [10, 10, 22, 18.5], [0, 0, 40, 50]]  # shrunk, grown, whole
    outside = [[-15.5, 30.2, 20.5, 66.2], [100, 100, 120, 120], [-12, -8, 12, 16]]
    boxes = np.float32([inside, outside])
    crops = np.asarray(jax.jit(parts.crop, static_argnums=2)(image, boxes, 24)).reshape(
        2, 3, 24, 24
    )
    margin = 100
    for example, of_image, found in zip(image[..., 0], boxes, crops):
        padded, ones = (
            Image.fromarray(np.pad(x, margin)) for x in (example, np.ones_like(example))
        )
        for box, crop in zip(of_image + margin, found):
            where = {
                'size': (24, 24),
                'resample': Image.Resampling.BILINEAR,
                'box': box[[1, 0, 3, 2]].tolist(),
            }
            expected, weight = np.asarray(padded.resize(**where)), np.asarray(ones.resize(**where))
            whole, none = (
                weight > 0.9999,
                weight < 1e-4,
            )  # between them, at the image's border, the two differ
            np.testing.assert_allclose(crop[whole], expected[whole], atol=1e-4)
            np.testing.assert_array_equal(crop[none], 0)
            assert (~whole & ~none).mean() < 0.25
    assert (crops[1, 1] == 0).all() and (crops[0] != 0).all()


def test_boxes_carry_no_gradient():
    boxes = jnp.float32([[[3, 5, 30, 44]]])
    gradient = jax.grad(lambda b: parts.crop(IMAGE[:1], b, 16).sum())(boxes)
    np.testing.assert_array_equal(gradient, 0)


# The ranking loss


def by_hand(scores, errors, form, valid):
    """Both forms as loops over ordered pairs."""
    total = 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if not (valid[i] and valid[j]):
                continue
            if form == 'corrected' and abs(errors[i]) < abs(errors[j]):  # i is the better part
                total += max(0.0, 1 - (scores[i] - scores[j]))
            if form == 'literal':
                confidence = [
                    np.float32(1) - 1 / (1 + np.exp(np.float32(abs(e))))
                    for e in (errors[i], errors[j])
                ]
                if confidence[1] > confidence[0]:
                    total += max(1 - scores[i] - scores[j], 0.0)
    return total


@pytest.mark.parametrize('form', ['corrected', 'literal'])
def test_ranking_loss_is_the_sum_over_pairs(form):
    scores = RNG.normal(size=(20, 4)).astype(np.float32)
    errors = RNG.normal(0, 6, (20, 4)).astype(np.float32).clip(-15, 15)
    errors[:5, 1] = -errors[:5, 0]  # ties: the same distance from the truth
    valid = RNG.random((20, 4)) < 0.8
    found = losses.part_ranking(scores, errors, form=form, valid=valid)
    expected = [by_hand(*row, form, v) for *row, v in zip(scores, errors, valid)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(
        losses.part_ranking(scores, errors, form=form),
        losses.part_ranking(scores, errors, form=form, valid=np.ones_like(valid)),
    )


def test_forms_differ_as_the_misprints_do():
    scores, errors = jnp.float32([[3.0, 0.0]]), jnp.float32([[1.0, -9.0]])
    corrected, literal = (
        functools.partial(losses.part_ranking, form=form) for form in ('corrected', 'literal')
    )
    assert (
        corrected(scores, errors) == 0 and corrected(scores, errors[:, ::-1]) == 4
    )  # right, wrong order
    assert (
        literal(scores, errors) == literal(scores, errors[:, ::-1]) == 0
    )  # a sum of scores knows no order
    shifted = scores - 2
    assert (
        corrected(shifted, errors) == 0 and literal(shifted, errors) == 2
    )  # and depends on their level
    far = jnp.float32([[30.0, -40.0]])  # months: the sigmoid is 1 for both, the pair is lost
    assert literal(shifted, far) == 0 and corrected(shifted, far[:, ::-1]) == 4


def test_the_rank_correlation_of_parts():
    errors = jnp.float32([[1, -2, 3, 9], [1, 2, 3, 4], [5, 5, -5, 5], [1, 2, 3, 4]])
    scores = jnp.float32([[9, 5, 1, -40], [1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 9, 9]])
    valid = np.ones((4, 4), bool)
    valid[3, 2:] = False
    found = losses.part_ranking(scores, errors, form='correlation', valid=valid)
    # the right order, the reverse, equal errors, the right order of the parts that count
    np.testing.assert_allclose(found, [0, 2, 0, 0], atol=0.05)
    again = losses.part_ranking(100 * scores + 7, errors, form='correlation', valid=valid)
    np.testing.assert_allclose(again, found, rtol=1e-4)  # scale and level do not matter
    of_errors = jax.grad(lambda e: losses.part_ranking(scores, e, form='correlation').sum())
    np.testing.assert_array_equal(of_errors(errors), 0)


@pytest.mark.parametrize('form', ['corrected', 'literal'])
def test_ranking_loss_trains_scores_and_not_errors(form):
    scores, errors = jnp.zeros((1, 3)), jnp.float32([[1.0, 2.0, 3.0]])
    to_scores, to_errors = jax.grad(lambda *x: losses.part_ranking(*x, form=form).sum(), (0, 1))(
        scores, errors
    )
    np.testing.assert_array_equal(to_errors, 0)
    expected = {'corrected': [-2, 0, 2], 'literal': [-2, -2, -2]}[form]
    np.testing.assert_array_equal(to_scores[0], expected)


# The task


def build_task(**options):
    config = c.load('configs/prsnet.py')[1].task.to_dict() | options
    return tasks.build(c.ml_collections.ConfigDict(config), {'centre': CENTRE, 'scale': SCALE})


def example():
    batch = {'months': jnp.float32([100, 140, 60]), 'valid': jnp.array([True, True, False])}
    aux = {
        'part_scores': jnp.float32([[2, 1, 0], [0, 1, 5], [9, 8, 7]]),
        'part_ages': jnp.float32([[-0.5, 0.5, 1], [0.5, 1, 9], [3, 2, 1]]),
        'part_valid': jnp.array([[True] * 3, [True, True, False], [True] * 3]),
    }
    return jnp.float32([-0.25, 1.0, 7.0]), aux, batch


def test_parts_task_adds_up_and_padding_counts_nowhere():
    total, metrics = build_task(rank_weight=2.0, part_weight=0.5).loss(*example())
    assert {float(count) for _, count in metrics.values()} == {2.0}
    sums = {name: float(value) for name, (value, _) in metrics.items()}
    np.testing.assert_allclose(sums['age_loss'], 0.25**2 + 0.5**2)  # truth -0.5 and 0.5
    np.testing.assert_allclose(sums['mae'], (0.25 + 0.5) * SCALE)
    np.testing.assert_allclose(sums['part_loss'], (0 + 1 + 2.25) / 3 + (0 + 0.25) / 2)
    np.testing.assert_allclose(sums['rank_loss'], 0 + 2)  # the first image's parts are in order
    assert sums['parts'] == 5
    np.testing.assert_allclose(
        total, (sums['age_loss'] + 2 * sums['rank_loss'] + 0.5 * sums['part_loss']) / 2
    )
    np.testing.assert_allclose(total * 2, sums['loss'])


def test_literal_form_takes_months():
    prediction, aux, batch = example()
    errors = (aux['part_ages'] * SCALE + CENTRE) - batch['months'][:, None]
    expected = losses.part_ranking(
        aux['part_scores'], errors, form='literal', valid=aux['part_valid']
    )
    np.testing.assert_allclose(
        build_task(ranking_form='literal').loss(prediction, aux, batch)[1]['rank_loss'][0],
        expected[:2].sum(),
    )


def test_without_parts_it_is_the_age_task():
    prediction, _, batch = example()
    one, two = (build_task(name=name).loss(prediction, {}, batch) for name in ('age', 'age_parts'))
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, one, two))


# The network


@functools.cache
def gradients(detach):
    """Of each loss: its value, and {name: {parameter: largest absolute gradient}}.

    Parts come from res5 alone: only what lies below a chosen part's level is reached.
    """
    model = tiny(**FULL, anchor_sizes=(0, 0, 192), detach_scores=detach)
    model.train()
    graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    batch = {'months': jnp.float32([30, 100, 200]), 'valid': jnp.ones(3, bool)}
    names, task = ('rank_loss', 'part_loss', 'age_loss', 'boxes'), build_task()

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(parameters, weights):
        def weighted(parameters):
            prediction, aux = nnx.merge(graph, parameters, statistics, copy=True)(IMAGE, MALE)
            metrics = task.loss(prediction, aux, batch)[1] | {'boxes': (aux['part_boxes'].sum(), 1)}
            values = jnp.stack([metrics[name][0] for name in names])
            return values @ weights, values

        found, values = jax.grad(weighted, has_aux=True)(parameters)
        return values, jax.tree.map(lambda g: jnp.abs(g).max(), found)

    largest = {}
    for name, weights in zip(names, np.eye(len(names), dtype=np.float32)):
        values, found = jax.device_get(run(nnx.to_pure_dict(parameters), weights))
        largest[name] = {
            jax.tree_util.keystr(path, simple=True, separator='/'): value
            for path, value in jax.tree_util.tree_leaves_with_path(found)
        }
    assert (values > 0).all()
    return values, largest


def reached(found):
    """The top-level parts with a gradient that is not zero."""
    return {path.partition('/')[0] for path, value in found.items() if value > 0}


def test_ranking_loss_reaches_scorer_and_relation_and_no_part_network():
    found = gradients(False)[1]['rank_loss']
    assert reached(found) == {'scorer', 'relation', 'backbone'}
    kernels = {path for path in found if path.startswith('relation') and path.endswith('kernel')}
    assert len(kernels) == 9 and all(found[path] > 0 for path in kernels)


def test_detached_scores_train_the_scorer_alone():
    values, found = gradients(True)
    assert reached(found['rank_loss']) == {'scorer'}
    np.testing.assert_allclose(values, gradients(False)[0], rtol=1e-5)  # of gradients alone


def test_other_losses_go_where_they_should():
    found = gradients(False)[1]
    assert reached(found['part_loss']) == {'part_backbone', 'part_head'}
    assert reached(found['age_loss']) == {
        'backbone',
        'relation',
        'part_backbone',
        'head',
    }  # and no part's own age
    assert reached(found['boxes']) == set()


def test_everything_runs_inside_one_jit():
    prediction, aux = applied((2, 100, 100), **FULL)
    boxes, _ = parts.anchors((100, 100))
    assert prediction.shape == (2,) and np.isfinite(prediction).all()
    assert all(((m > 0) & (m < 1)).all() for m in aux['relation_maps'])
    assert aux['part_scores'].shape == aux['part_ages'].shape == (2, 3) and aux['part_valid'].all()
    known = {tuple(box) for box in boxes}
    assert all(tuple(box) in known for box in aux['part_boxes'].reshape(-1, 4))
    assert (np.diff(aux['part_scores']) <= 0).all()


@pytest.mark.parametrize(
    'side, sides, options',
    [
        (96, [12, 6, 3], {}),
        (100, [13, 7, 4], {}),
        (40, [20, 10, 5], {'stem': 'small'}),
        (
            512,
            [64, 32, 16],
            {
                'backbone': 'resnet34',
                'depth': 0,
                'width': 64,
                'part_size': 224,
                'dtype': jnp.bfloat16,
            },
        ),
    ],
)
def test_shapes(side, sides, options):
    prediction, aux = shapes(side, **FULL, **options)
    assert (prediction.shape, prediction.dtype) == ((2,), jnp.float32)
    assert [m.shape for m in aux['relation_maps']] == [(2, s, s) for s in sides]
    assert aux['embeddings'].shape == (2, 512 if side == 512 else 64) and aux[
        'part_boxes'
    ].shape == (2, 3, 4)
    assert aux['part_scores'].shape == aux['part_ages'].shape == aux['part_valid'].shape == (2, 3)
    assert aux['part_scores'].dtype == jnp.float32


@pytest.mark.parametrize(
    'options, expected',
    [
        ({}, {'backbone', 'head'}),
        ({'relation': True}, {'backbone', 'head', 'relation'}),
        ({'selection': True}, {'backbone', 'head', 'scorer', 'part_backbone', 'part_head'}),
        (FULL, {'backbone', 'head', 'relation', 'scorer', 'part_backbone', 'part_head'}),
        (
            FULL | {'part_features': 'level'},
            {'backbone', 'head', 'relation', 'scorer', 'part_backbone', 'part_head', 'projections'},
        ),
    ],
)
def test_switches_decide_what_there_is(options, expected):
    model = abstract(**options)
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert set(state) == expected
    assert state['head']['kernel'].shape == (64 * (2 if 'selection' in options else 1) + 2, 1)


def test_each_switch_changes_the_prediction():
    rows = [{}, {'relation': True}, {'selection': True}, FULL, FULL | {'part_features': 'level'}]
    found = [applied(**options) for options in rows]
    ages = np.stack([prediction for prediction, _ in found])
    assert len(np.unique(ages[:, 0])) == len(rows)
    assert ['part_ages' in aux for _, aux in found] == [False, False, True, True, True]
    assert [len(aux['relation_maps']) for _, aux in found] == [0, 3, 0, 3, 3]


def test_levels_without_anchors_have_no_parts():
    _, aux = applied(**FULL, anchor_sizes=(48, 0, 0), parts=1)
    assert aux['part_boxes'].shape == (3, 1, 4)
    sides = aux['part_boxes'][..., 2:] - aux['part_boxes'][..., :2]
    assert (sides < 0.25 * 64).all()


def test_parts_that_did_not_survive_add_nothing():
    """With no overlap allowed a dozen parts fit the image; asking for more changes no age."""
    (one, few), (two, many) = (
        applied(**FULL, nms_iou=0.0, anchor_sizes=(0, 0, 192), parts=n) for n in (9, 12)
    )
    assert few['part_valid'].sum(1).max() < 9
    np.testing.assert_allclose(one, two, rtol=1e-5)
    np.testing.assert_array_equal(few['part_valid'].sum(1), many['part_valid'].sum(1))


def test_the_backbone_sees_less_than_the_parts_show():
    """Parts of a larger image lie where those of the small one do, in its pixels."""
    assert [m.shape[1:3] for m in applied(**FULL)[1]['relation_maps']] == [(8, 8), (4, 4), (2, 2)]
    finer = shapes(192, **FULL, backbone_size=64)[1]
    assert [m.shape[1:3] for m in finer['relation_maps']] == [(8, 8), (4, 4), (2, 2)]
    small, level = tiny(**FULL).candidates((64, 64))
    large, same = tiny(**FULL, backbone_size=64).candidates((192, 96))
    assert len(large) < len(small) and large[:, 3].max() <= 110  # of 64 rows and 32 columns
    large, same = tiny(**FULL, backbone_size=64).candidates((192, 192))
    np.testing.assert_allclose(large, 3 * small, rtol=1e-6)
    np.testing.assert_array_equal(same, level)
    unchanged, _ = tiny(**FULL, backbone_size=512).candidates((64, 64))
    np.testing.assert_array_equal(unchanged, small)


def test_parts_on_the_hand_of_a_masked_image():
    model = tiny(**FULL, on_hand=0.9, anchor_sizes=(48, 0, 0))
    model.eval()
    hand = jnp.zeros((3, 64, 64, 1)).at[:, 16:48, 8:40].set(IMAGE[:, 16:48, 8:40] + 0.1)
    _, aux = jax.jit(lambda m, *x: m(*x))(model, hand, MALE)
    boxes = aux['part_boxes'][aux['part_valid']]
    assert len(boxes) and (boxes[:, 0] >= 14).all() and (boxes[:, 3] <= 42).all()


# The config


def test_rows_are_those_of_the_paper():
    module, _ = c.load('configs/prsnet.py')
    printed = [row for row in module.sweep() if row.paper_value is not None]
    assert [(row.name, row.paper_value) for row in printed] == [
        ('baseline', 6.52),
        ('without relation', 5.05),
        ('without selection', 5.20),
        ('full', 4.49),
    ]
    switches = lambda arg: tuple(module.get_config(arg).model[k] for k in ('relation', 'selection'))  # noqa: E731
    assert [switches(f'rsna100,row={row.name}') for row in printed] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert switches('rsna100') == switches('') == switches('phantom,row=full') == (True, True)
    assert switches('phantom') == (False, False)  # the newcomer's run stays short
