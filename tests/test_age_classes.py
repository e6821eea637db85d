"""Age classes: edges as pandas cuts them, the loss, the figures of a confusion matrix, the
networks, whole runs.
"""

import csv
import json
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas
import pytest
from flax import nnx
from sklearn import metrics as sklearn_metrics

from boneage_jax import config as c
from boneage_jax import models, tasks
from boneage_jax.analysis import class_edges, table
from boneage_jax.inference import members
from boneage_jax.runs import predictions
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runtime import files
from boneage_jax.tasks import classes, metrics
from boneage_jax.training import loop
from tfds_rsna.errors import UserError

CONFIG = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'age_classes.py'
RSNA = np.arange(1, 229)  # months


def options(**changed):
    return ml_collections.ConfigDict(
        {'name': 'age_classes', 'classes': 3, 'class_weights': 'none'} | changed
    )


def build(months=RSNA, **changed):
    fitted = json.loads(
        json.dumps(tasks.fit(options(**changed), np.asarray(months, np.float32)))
    )  # as task.json
    return tasks.build(options(**changed), fitted), fitted


@pytest.mark.parametrize(
    'months',
    [
        RSNA,
        [0.0, 12.5, 100, 210.25],
        [1, 4, 77, 76, 152, 153, 228, 229],
        [5, 6, 8, 11, 29, 95, 185, 240],
        np.random.default_rng(0).integers(1, 229, 200),
        np.random.default_rng(1).uniform(0, 240, 200).round(2),
    ],
    ids=len,
)
@pytest.mark.parametrize('count', [2, 3, 5, 10])
def test_classes_are_those_of_pandas(months, count):
    months = np.asarray(months, float)
    cut, edges = pandas.cut(pandas.Series(months), count, retbins=True)
    fitted = classes.fit(options(classes=count), months)
    np.testing.assert_array_equal(fitted['edges'], edges)
    np.testing.assert_array_equal(classes.class_of(months, fitted['edges']), cut.cat.codes)
    assert classes.class_of([-5.0, 900.0], fitted['edges']).tolist() == [
        0,
        count - 1,
    ]  # pandas: no class


def test_the_step_puts_ages_into_the_same_classes_as_the_report():
    count = 10
    months = np.array([0.0, 0.1, 210.25], np.float32)
    task, fitted = build(months, classes=count)
    edges = np.asarray(fitted['edges'][1:-1], np.float32)
    ages = np.concatenate(
        [edges, *(np.nextafter(edges, np.float32(end)) for end in (-1, 300)), [-3, 0, 210.25, 400]]
    )
    seen = task.per_example(jnp.zeros((len(ages), count)), {}, {'months': ages.astype(np.float32)})[
        'true_class'
    ]
    np.testing.assert_array_equal(seen, classes.class_of(ages.astype(np.float32), fitted['edges']))


def test_loss_and_columns_by_hand():
    task, _ = build(class_weights='none')
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 0.5, 3.0], [9.0, 0.0, 0.0]], np.float32)
    batch = {'months': np.array([50, 100, 200], np.float32), 'valid': np.array([True, True, False])}
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy = -np.log(probability[[0, 1], [0, 1]])
    value, sums = task.loss(logits, {}, batch)
    np.testing.assert_allclose(value, entropy.mean(), rtol=1e-5)
    assert task.selection_metric == 'loss' and [float(x) for x in sums['accuracy']] == [1.0, 2.0]
    columns = task.per_example(logits, {}, batch)
    np.testing.assert_allclose(
        columns['prediction'], probability @ [38.8333333, 114.5, 190.1666667], rtol=1e-5
    )
    np.testing.assert_array_equal(columns['class'], [0, 2, 0])
    np.testing.assert_array_equal(columns['true_class'], [0, 1, 2])
    np.testing.assert_allclose(columns['probability_1'], probability[:, 1], rtol=1e-5)
    assert task.classes(logits)['class_months'].tolist() == ['1-76', '153-228', '1-76']
    with pytest.raises(UserError, match='this network has 4 classes but task.classes=3'):
        task.loss(np.zeros((3, 4)), {}, batch)


def test_balanced_weights_give_each_class_its_say():
    months = np.array([1.0] * 6 + [100.0] * 3 + [228.0])
    _, fitted = build(months, class_weights='balanced')
    np.testing.assert_allclose(np.array(fitted['weights']) * [6, 3, 1], 10 / 3)
    task, _ = build(months, class_weights='balanced')
    batch = {'months': months.astype(np.float32), 'valid': np.ones(10, bool)}
    logits = np.tile(np.log([0.2, 0.3, 0.5]).astype(np.float32), (10, 1))
    np.testing.assert_allclose(
        task.loss(logits, {}, batch)[0], -np.log([0.2, 0.3, 0.5]).mean(), rtol=1e-5
    )


@pytest.mark.parametrize(
    'months, changed, message',
    [
        ([60.0, 60.0], {}, 'all 2 training images have the same age'),
        (RSNA, {'classes': 1}, 'task.classes=1: expected 2 or more'),
        (
            RSNA,
            {'class_weights': 'rare'},
            "task.class_weights='rare': expected one of none, balanced",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(months, changed, message):
    with pytest.raises(UserError, match=message):
        build(months, **changed)


def test_class_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.choice(
        [0, 1, 3, 4], 300, p=[0.1, 0.4, 0.4, 0.1]
    )  # class 2 of 5 has no image, yet is predicted
    predicted = np.clip(truth + rng.integers(-1, 2, 300), 0, 4)
    found = metrics.class_metrics(predicted, truth, 5, resamples=200)
    value = {name: figure['value'] for name, figure in found['overall'].items()}
    assert value['accuracy'] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert value['macro_f1'] == pytest.approx(
        sklearn_metrics.f1_score(truth, predicted, average='macro')
    )
    assert value['balanced_accuracy'] == pytest.approx(
        np.mean([sklearn_metrics.recall_score(truth == k, predicted == k) for k in (0, 1, 3, 4)])
    )
    assert value['off_by_one_accuracy'] == 1.0 and 'recall' not in found['by_class'][2]
    table_ = sklearn_metrics.confusion_matrix(truth, predicted, labels=range(5))
    np.testing.assert_array_equal(found['confusion'], table_)
    lower, upper = metrics.bootstrap((truth == predicted).astype(float), resamples=200)
    accuracy = found['overall']['accuracy']
    assert (accuracy['lower'], accuracy['upper']) == pytest.approx((lower, upper))
    for figure in [
        *found['overall'].values(),
        *(row['recall'] for row in found['by_class'] if row['images']),
    ]:
        assert figure['lower'] <= figure['value'] <= figure['upper']


def test_report_reads_as_a_line():
    task, _ = build()
    male = np.array([1, 0, 1, 0], bool)
    split = types.SimpleNamespace(
        ids=list('abcd'), months=np.array([50, 100, 200, 60]), male=male, sources=()
    )
    columns = {'prediction': np.array([40.0, 110, 180, 100]), 'class': np.array([0, 1, 2, 1])}
    report = task.report(columns, split, RSNA)
    by_hand = (50 - 38.8333 + 14.5 + 200 - 190.1667 + 54.5) / 4
    assert report['overall']['centre_mae']['value'] == pytest.approx(by_hand, abs=1e-3)
    assert report['by_class'][0]['months'] == '1-76' and report['confusion'] == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert task.summary_line(report).startswith('accuracy 75.0%, 95% interval') and json.dumps(
        report
    )


def test_the_network_reads_the_sex_only_where_asked():
    image, male = (
        jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.bool_),
    )
    for sex in (False, True):
        chosen = dict(backbone='custom', width_factor=0.125, use_sex=sex)
        model = nnx.eval_shape(lambda chosen=chosen: models.build('age_classifier', **chosen))
        model.eval()
        parts, leaves = nnx.split(model)
        apply = lambda s, x, m, p=parts: nnx.merge(p, s)(x, m)  # noqa: E731
        assert predictor_lib._reads_last(apply, leaves, image, male) is sex
        assert jax.eval_shape(apply, leaves, image, male)[0].shape == (2, 3)


def test_full_sizes():
    def size(**chosen):
        model = nnx.eval_shape(lambda: models.build('age_classifier', **chosen).backbone)
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    # torchvision's network less its head and two of the three colours of the stem.
    assert size(backbone='resnet34') == 21797672 - 513 * 1000 - 2 * 49 * 64
    convolutions = sum((9 * i + 3) * o for i, o in ((1, 32), (32, 64), (64, 128), (128, 256)))
    assert size(backbone='custom') == convolutions + 4096 * 128 + 3 * 128


@pytest.mark.parametrize(
    'chosen, message',
    [
        (dict(backbone='resnet'), "model.backbone='resnet': expected one of custom, resnet18"),
        (
            dict(backbone='custom', activation='gelu'),
            "model.activation='gelu': expected one of relu, elu",
        ),
        (
            dict(backbone='custom', regulariser='both'),
            "model.regulariser='both': expected one of norm, dropout",
        ),
        (dict(width_factor=0.0), 'model.width_factor=0.0'),
    ],
)
def test_unknown_choices_are_refused(chosen, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: models.build('age_classifier', **chosen))


@pytest.mark.parametrize('row', ['inception-5', 'custom-10,activation=elu,regulariser=dropout'])
def test_rows_can_be_traced(row):
    loop.GradientTrainer.check(c.load(f'{CONFIG}:tiny,row={row},use_sex=true')[1], fresh=True)


ARG = 'tiny,row=custom-3,epochs=9,patience=2,learning_rate=0.03,placement=host'


class Killed(Exception):
    """Stands in for a process that ends between two evaluations."""


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """One run, and the same one that died after its second evaluation and was taken up again."""
    folder = tmp_path_factory.mktemp('classes')
    loop.train(c.load(f'{CONFIG}:{ARG}')[1], folder / 'whole')
    evaluate, count = loop.GradientTrainer._evaluate, []

    def dying(run, step):
        if len(count) == 2:
            raise Killed
        count.append(step)
        evaluate(run, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.GradientTrainer, '_evaluate', dying)
        with pytest.raises(Killed):
            loop.train(c.load(f'{CONFIG}:{ARG}')[1], folder / 'broken')
    loop.train(c.load(f'{CONFIG}:{ARG}')[1], folder / 'broken')
    return folder


def test_early_stopping_restores_the_best_and_survives_a_resume(runs):
    lines = [
        json.loads(line) for line in (runs / 'whole' / 'metrics.jsonl').read_text().splitlines()
    ]
    evaluations = [line for line in lines if line['kind'] == 'eval']
    best = min(evaluations, key=lambda line: line['loss'])
    assert (
        len(evaluations) < 9 and evaluations.index(best) == len(evaluations) - 3
    )  # two without improvement
    report = json.loads((runs / 'whole' / 'metrics.json').read_text())
    assert report['step'] == best['step'] and report['selected_by'] == 'validation loss'
    found = predictions.of_split(predictions.read(runs / 'whole' / 'predictions.csv'), 'validation')
    chance = np.stack([found[f'probability_{k}'] for k in range(3)], axis=1)[
        np.arange(8), found['true_class']
    ]
    assert -np.log(chance).mean() == pytest.approx(
        best['loss'], rel=1e-2
    )  # the best epoch's, not the last one's
    assert best['accuracy'] == pytest.approx((found['class'] == found['true_class']).mean())
    again = [
        line
        for line in map(json.loads, (runs / 'broken' / 'metrics.jsonl').read_text().splitlines())
        if line['kind'] == 'eval'
    ]
    assert [line['loss'] for line in again] == [line['loss'] for line in evaluations]
    for name in ('predictions.csv', 'task.json'):
        assert (runs / 'whole' / name).read_text() == (runs / 'broken' / name).read_text()


def test_a_run_leaves_its_figures_and_fits_the_table(runs):
    assert {path.name for path in (runs / 'whole' / 'figures').glob('*.png')} >= {
        'confusion_holdout.png',
        'counts.png',
        'training.png',
        'predictions_holdout.png',
    }
    (one,) = table.results(c.Row('custom-3', {}, 0.761), 'custom-3', [runs / 'whole'], 'accuracy')
    report = json.loads((runs / 'whole' / 'metrics.json').read_text())['splits']['holdout']
    assert one.value == report['overall']['accuracy']['value'] == np.trace(report['confusion']) / 8
    _, both = table.results(
        c.Row('custom-3', {}, 0.761), 'custom-3', [runs / 'whole', runs / 'broken'], 'accuracy'
    )
    assert both.row == 'custom-3, ensemble of 2' and both.values.tolist() == one.values.tolist()


def test_prediction_uses_the_edges_of_the_training_ages(runs):
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 1), np.uint8)
    predictor = predictor_lib.Predictor(runs / 'whole')
    months, found, _ = members.ages(predictor, images, [False, True])
    fitted = json.loads((runs / 'whole' / 'task.json').read_text())
    assert found['class_months'] == [classes.names(fitted['edges'])[k] for k in found['class']]
    expected = sum(np.array(found[f'probability_{k}']) * fitted['centres'][k] for k in range(3))
    np.testing.assert_allclose(months, expected, rtol=1e-4)
    assert not predictor.needs_sex


def test_where_a_second_run_gains(runs, tmp_path):
    lines = class_edges.compare(runs / 'whole', runs / 'broken', tmp_path / 'out')
    overall = [line for line in lines if line['sex'] == 'all']
    assert overall[0]['months'] == 'any' and overall[0]['images'] == 8 == sum(
        line['images'] for line in overall[1:]
    )
    assert not any(line['gain'] for line in lines)
    assert (tmp_path / 'out' / 'class_edges_holdout.png').exists()
    with (tmp_path / 'out' / 'class_edges.csv').open() as file:
        assert len(list(csv.DictReader(file))) == len(lines)
    with pytest.raises(UserError, match='holds results already'):
        class_edges.compare(runs / 'whole', runs / 'broken', tmp_path / 'out')
    with pytest.raises(UserError, match='no task.json'):
        class_edges.compare(runs / 'whole', runs, tmp_path / 'other')


def test_a_run_that_predicts_ages_is_cut_at_the_edges_of_the_other(runs, tmp_path):
    shutil.copytree(runs / 'whole', tmp_path / 'ages', ignore=shutil.ignore_patterns('checkpoints'))
    table = predictions.read(runs / 'whole' / 'predictions.csv')
    months = np.where(np.arange(len(table['age'])) % 2, table['age'], table['age'] + 500)
    rows = zip(*(table[name].tolist() for name in ('id', 'split', 'male', 'age')), months.tolist())
    files.write_table(
        tmp_path / 'ages' / 'predictions.csv', ('id', 'split', 'male', 'age', 'prediction'), rows
    )
    (tmp_path / 'ages' / 'task.json').write_text('{"mean": 1.0}')
    line, *_ = class_edges.compare(runs / 'whole', tmp_path / 'ages', tmp_path / 'out')
    holdout = table['split'] == 'holdout'
    last = table['true_class'] == 2
    assert line['second'] == np.mean(last[holdout] | (np.arange(len(last)) % 2 == 1)[holdout])
    with pytest.raises(UserError, match='tell no classes apart'):
        class_edges.compare(tmp_path / 'ages', tmp_path / 'ages', tmp_path / 'none')


def test_gain_by_distance_by_hand():
    age, edges = np.array([99.0, 102, 110, 150]), [0, 100, 200]
    first, second = np.array([0, 0, 1, 1], bool), np.array([1, 0, 1, 1], bool)
    every, near, middle, far = class_edges.by_distance(age, edges, first, second)
    assert (every['months'], every['images'], every['gain']) == ('any', 4, 0.25)
    assert (near['months'], near['images'], near['first'], near['second'], near['gain']) == (
        '0-3',
        2,
        0.0,
        0.5,
        0.5,
    )
    assert (middle['months'], middle['images']) == ('6-12', 1) and (far['months'], far['gain']) == (
        '24+',
        0.0,
    )
