"""The one reader of predictions.csv: columns, splits, sexes, order, and what kind of run it is."""

import json

import numpy as np
import pytest

from boneage_jax.runs import predictions
from tfds_rsna.errors import UserError

AGES = """id,split,male,age,prediction,lower,upper
a,validation,True,10,12,9,15
b,holdout,false,20,19,16,22
c,holdout,1,30,33,30,36
"""
MASKS = 'id,split,male,age,iou\na,holdout,True,10,0.5\nb,holdout,False,20,0.75\n'


@pytest.fixture
def ages(tmp_path):
    path = tmp_path / 'predictions.csv'
    path.write_text(AGES)
    return predictions.read(path)


def test_columns_have_their_types(ages):
    assert ages['id'].tolist() == ['a', 'b', 'c'] and ages['male'].tolist() == [True, False, True]
    assert ages['upper'].tolist() == [15.0, 22.0, 36.0]
    assert predictions.splits(ages) == ['validation', 'holdout']
    holdout = predictions.of_split(ages, 'holdout')
    assert holdout['prediction'].tolist() == [19.0, 33.0]
    assert predictions.of_sex(holdout, True)['id'].tolist() == ['c']


def test_masks_and_points_are_read_by_the_same_reader(tmp_path):
    path = tmp_path / 'predictions.csv'
    path.write_text(MASKS)
    assert predictions.read(path, ('id', 'split'))['iou'].tolist() == [0.5, 0.75]
    with pytest.raises(UserError, match='column prediction missing; found .*iou'):
        predictions.read(path)
    path.write_text(MASKS.replace('0.75', 'much'))
    assert 'iou' not in predictions.read(path, ('id', 'split'))
    with pytest.raises(UserError, match='line 3: .*much'):
        predictions.read(path, ('id', 'split', 'iou'))


def test_classes_are_whole_numbers_and_must_be_readable(tmp_path):
    path = tmp_path / 'predictions.csv'
    text = 'id,split,male,age,prediction,class,true_class,probability_0\na,test,True,9,9,1,0,0.4\n'
    path.write_text(text)
    table = predictions.read(path)
    assert table['class'].dtype == int and table['probability_0'].tolist() == [0.4]
    path.write_text(text.replace('0.4', '?'))
    with pytest.raises(UserError, match='line 2'):
        predictions.read(path)


def test_rows_without_age_or_sex_can_be_left_out(tmp_path):
    path = tmp_path / 'ages.csv'
    path.write_text('id,file,male,age,prediction\na,a.png,,9,9\nb,b.png,F,,9\nc,c.png,M,8,9\n')
    required = ('id', 'male', 'age', 'prediction')
    table = predictions.read(path, required, skip_incomplete=True)
    assert table['id'].tolist() == ['c'] and table['male'].tolist() == [True]
    assert 'file' not in table
    with pytest.raises(UserError, match='line 2'):
        predictions.read(path, required)


def test_a_table_is_brought_into_the_order_of_another(ages):
    turned = predictions.rows(ages, [2, 0, 1])
    told = {'where': 'holdout', 'name': 'run0', 'other': 'run1'}
    back = predictions.align(turned, ages, **told)
    np.testing.assert_array_equal(back['prediction'], ages['prediction'])
    fewer = predictions.rows(ages, [1, 2])
    with pytest.raises(UserError, match='1 of the 3 images of run1 are not in run0, the first: a'):
        predictions.align(fewer, ages, **told)
    with pytest.raises(UserError, match='1 of the 3 images of run0 are not in run1, the first: a'):
        predictions.align(ages, fewer, **told)


def test_tables_join_and_the_first_one_decides(ages):
    other = predictions.rows(ages, [2, 0]) | {'prediction': np.array([1.0, 2.0])}
    del other['lower'], other['upper']
    whole = predictions.join([predictions.rows(ages, [1, 2]), other])
    assert whole['id'].tolist() == ['b', 'c', 'a']
    assert whole['prediction'].tolist() == [19.0, 33.0, 2.0]
    assert list(whole) == ['id', 'split', 'male', 'age', 'prediction']


@pytest.mark.parametrize(
    'report, kind',
    [
        ({'kind': 'similarity', 'splits': {}}, 'similarity'),
        ({'splits': {'test': {'overall': {'mae': 1, 'accuracy': 1}}}}, 'age_classes'),
        ({'splits': {'test': {'overall': {'mae': 1}}}}, 'age'),
        ({'splits': {'test': {'overall': {'iou': 1}}}}, 'segmentation'),
        ({'splits': {'test': {'overall': {'error_percent': 1, 'degrees': 1}}}}, 'similarity'),
        ({'splits': {'test': {'overall': {'error_percent': 1}}}}, 'keypoints'),
    ],
)
def test_metrics_tell_what_a_run_predicts(tmp_path, report, kind):
    (tmp_path / 'metrics.json').write_text(json.dumps(report))
    assert predictions.kind_of(tmp_path) == kind


def test_columns_tell_it_where_nothing_else_does(tmp_path):
    with pytest.raises(FileNotFoundError, match='predictions.csv'):
        predictions.kind_of(tmp_path)
    (tmp_path / 'predictions.csv').write_text(MASKS)
    assert predictions.kind_of(tmp_path) == 'segmentation'
    (tmp_path / 'predictions.csv').write_text(AGES)
    assert predictions.kind_of(tmp_path) == 'age'


@pytest.mark.parametrize(
    'text, found',
    [
        (AGES.replace('20,19', '20,5,19,2'), 'line 3: more cells than columns; is a comma part'),
        (AGES.replace('upper\n', 'age\n'), 'column age occurs twice'),
        (
            AGES + 'b,holdout,M,90,19,16,22\n',
            'line 5: image b is in holdout twice, first in line 3',
        ),
        (AGES.replace('b,hold', '"b,hold'), 'damaged, or no CSV'),
        (AGES.replace('20,19', '2_0,19'), 'line 3: cannot read'),
    ],
)
def test_what_another_program_made_of_it_is_refused(text, found, tmp_path):
    path = tmp_path / 'predictions.csv'
    path.write_text(text)
    with pytest.raises(UserError, match=found):
        predictions.read(path)


def test_an_image_may_be_in_two_splits_and_a_status_in_any_case(tmp_path):
    path = tmp_path / 'predictions.csv'
    rows = 'a, validation,M,1,1,ok\na,holdout,M,2,2,OK\nb,holdout,M,3,3,Refused\n'
    path.write_text('id,split,male,age,prediction,status\n' + rows)
    table = predictions.read(path)
    assert predictions.splits(table) == ['validation', 'holdout']
    assert table['age'].tolist() == [1.0, 2.0]
