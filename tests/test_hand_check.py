"""What is no hand gets no age, and a hand comes bright and upright before its age is predicted."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import other_images
from boneage_jax.errors import UnreadableError
from boneage_jax.inference import calibrate, hand_check, hand_look, hand_report, predict
from boneage_jax.runs import predictions, shipped
from tfds_rsna.hand_phantom.render import phantom

has_networks = pytest.mark.skipif(
    any(shipped.find(name) is None for name in hand_look.NAMES),
    reason='a checkout without the network of key points',
)


@pytest.fixture(scope='module')
def hands():
    """Eight phantoms that are neither inverted nor turned, uint8 [H, W]."""
    return [phantom(91, i, (200, 160))['image'] for i in (0, 1, 2, 3)]


def judged(images):
    return hand_check.judge(images, hand_look.networks(), hand_check.fitted())


@pytest.mark.parametrize(
    ('degrees', 'turns'), [(0, 0), (40, 0), (-50, 0), (90, 1), (60, 1), (180, 2), (-90, 3)]
)
def test_fingers_come_up(degrees, turns):
    """`degrees` with the clock from upright; a hand that leans is left as it is."""
    angle = np.radians(degrees)
    capitate = np.array([50.0, 40.0])
    tip = capitate + 30 * np.array([-np.cos(angle), np.sin(angle)])
    assert hand_look.turns_to_upright(np.stack([tip, capitate])) == turns


def test_righting_is_a_negative_and_quarter_turns():
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    verdict = hand_check.Verdict(1.0, True, 1, (), '')
    assert hand_check.righted(image, verdict).tolist() == [[252, 249], [253, 250], [254, 251]]
    assert hand_check.righted(image, hand_check.Verdict(1.0, False, 0, (), '')).tolist() == (
        image.tolist()
    )


def test_the_regression_has_every_feature_and_a_strict_order_of_thresholds():
    table = json.loads(hand_check.TABLE.read_text())
    assert tuple(table['features']) == hand_look.FEATURES
    assert 0 < table['least'] <= table['convincing'] < 1


def test_what_is_blank_is_refused_before_any_network():
    flat = np.full((80, 60), 7, np.uint8)
    (verdict,) = hand_check.judge([flat], None, hand_check.fitted())
    assert verdict.reason.startswith('blank') and verdict.score == 0


@has_networks
def test_phantoms_are_put_right_from_every_turn_and_polarity(hands):
    """The verdict of a hand that was turned is that of the hand, and the turn beside it."""
    for inverted in (False, True):
        for turns in range(4):
            changed = []
            for hand in hands:
                image = np.rot90(hand, -turns)
                changed.append(np.ascontiguousarray(255 - image if inverted else image))
            for hand, image, verdict in zip(hands, changed, judged(changed)):
                assert (verdict.reason, verdict.turns, verdict.inverted) == ('', turns, inverted)
                assert (hand_check.righted(image, verdict) == hand).all()
                assert (f'turned_{90 * turns}' in verdict.flags) == (turns > 0)
                assert ('inverted' in verdict.flags) == inverted


@has_networks
def test_a_mirrored_hand_is_no_fault(hands):
    mirrored = [np.ascontiguousarray(hand[:, ::-1]) for hand in hands]
    assert [(v.reason, v.turns, v.inverted) for v in judged(mirrored)] == [('', 0, False)] * 4


@has_networks
def test_what_is_no_hand_is_refused():
    """One of these is accepted: a tree of five branches. Of more images about one in 200 is."""
    accepted = []
    for kind, make in other_images.KINDS.items():
        verdicts = judged(make(np.random.default_rng(11), 4))
        accepted += [kind for verdict in verdicts if not verdict.reason]
        refused = [verdict for verdict in verdicts if verdict.reason]
        assert not any(verdict.inverted or verdict.turns for verdict in refused)
    assert len(accepted) <= 1, accepted


@has_networks
def test_what_is_unusual_about_a_hand_is_said(hands):
    small = np.asarray(Image.fromarray(hands[0]).resize((50, 62)))
    faint = (hands[0] // 12 + 60).astype(np.uint8)
    first, second = judged([small, faint])
    assert 'low_resolution' in first.flags
    assert second.reason or 'low_contrast' in second.flags  # never without a word


class _Refusing:
    """A check that refuses images that are darker on the left, and turns those of 40 columns."""

    def __call__(self, images):
        verdicts = []
        for image in images:
            half = image.shape[1] // 2
            if image[:, :half].mean() < image[:, half:].mean():
                verdicts.append(hand_check.Verdict(0.0, False, 0, (), 'no hand was found'))
            else:
                verdicts.append(hand_check.Verdict(1.0, True, 2, ('inverted', 'turned_180'), ''))
        return verdicts


@pytest.fixture
def predicted(finished_run, tmp_path, monkeypatch):
    """A folder with `a` (refused) and `b` (accepted, inverted and turned), and its prediction."""
    from conftest import PRSNET

    monkeypatch.setattr(hand_check, 'checker', lambda accept_all: _Refusing())
    folder = tmp_path / 'images'
    folder.mkdir()
    ramp = np.tile(np.linspace(20, 220, 48).astype(np.uint8), (64, 1))
    Image.fromarray(ramp).save(folder / 'a.png')
    Image.fromarray(np.ascontiguousarray(ramp[:, ::-1])).save(folder / 'b.png')
    labels = tmp_path / 'labels.csv'
    labels.write_text('id,male,boneage\na,True,100\nb,True,120\n')
    output = tmp_path / 'ages.csv'
    workdir = finished_run(PRSNET)
    with pytest.raises(UnreadableError, match='1 of 2 images were not predicted'):
        predict.predict(workdir, folder, output, labels=labels, overlays=tmp_path / 'pictures')
    return workdir, folder, output


def test_a_refused_image_keeps_its_row_without_an_age(predicted):
    _, _, output = predicted
    with output.open(newline='') as file:
        first, second = csv.DictReader(file)
    assert (first['id'], first['prediction'], first['lower'], first['years']) == ('a', '', '', '')
    assert (first['status'], first['flags']) == ('refused', 'no_hand: no hand was found')
    assert float(first['age']) == 100
    assert second['status'] == 'ok'
    assert second['flags'].split(';')[:2] == ['inverted', 'turned_180']
    assert float(second['prediction']) > 0
    rejected = (output.parent / 'ages_rejected.csv').read_text()
    assert 'image that shows no hand' in rejected
    assert {path.stem for path in (output.parent / 'pictures').iterdir()} == {'a', 'b'}


def test_the_age_is_that_of_the_image_put_right(predicted, tmp_path, monkeypatch):
    """The negative of `b`, turned by hand, has the very age that `b` got."""
    workdir, folder, output = predicted
    with output.open(newline='') as file:
        expected = [row['prediction'] for row in csv.DictReader(file)][1]
    monkeypatch.setattr(hand_check, 'checker', lambda accept_all: None)
    image = np.asarray(Image.open(folder / 'b.png'))
    Image.fromarray(np.ascontiguousarray(255 - image[::-1, ::-1])).save(tmp_path / 'c.png')
    (row,) = predict.predict(workdir, tmp_path / 'c.png', tmp_path / 'c.csv', sex='male')
    assert row['prediction'] == pytest.approx(float(expected), abs=0.01)


def test_readers_skip_and_count_refused_rows(predicted, capsys):
    _, _, output = predicted
    table = predictions.read(output, ('id', 'prediction'))
    assert table['id'].tolist() == ['b']
    assert '1 of 2 images were not predicted' in capsys.readouterr().err
    assert calibrate.read(output, 'validation')['id'].tolist() == ['b']


def test_a_status_of_another_kind_leaves_all_rows(tmp_path):
    path = tmp_path / 'own.csv'
    path.write_text('id,split,male,age,prediction,status\na,x,True,10,11,final\n')
    assert predictions.read(path)['id'].tolist() == ['a']


@has_networks
def test_accept_all_predicts_what_shows_no_hand_as_it_is():
    noise = other_images.noise(np.random.default_rng(0), 1)
    (verdict,) = hand_check.checker(accept_all=True)(noise)
    assert verdict.reason == ''
    assert verdict.flags[0].startswith('no_hand: ')
    assert (hand_check.righted(noise[0], verdict) == noise[0]).all()


def test_a_checkout_without_the_networks_checks_nothing(monkeypatch, capsys):
    monkeypatch.setattr(shipped, 'find', lambda name: None)
    assert hand_check.checker() is None
    assert 'not checked for hands' in capsys.readouterr().err


def test_a_folder_is_reported_on_before_records_are_built(tmp_path, monkeypatch):
    monkeypatch.setattr(hand_check, 'checker', lambda: _Refusing())
    ramp = np.tile(np.linspace(20, 220, 48).astype(np.uint8), (64, 1))
    folder = tmp_path / 'images'
    folder.mkdir()
    Image.fromarray(ramp).save(folder / 'a.png')
    Image.fromarray(np.ascontiguousarray(ramp[:, ::-1])).save(folder / 'b.png')
    whole = (folder / 'a.png').read_bytes()
    (folder / 'c.png').write_bytes(whole[: len(whole) // 2])
    output = tmp_path / 'hands.csv'
    hand_report.write(folder, output)
    with output.open(newline='') as file:
        rows = {row['id']: row for row in csv.DictReader(file)}
    statuses = {name: row['status'] for name, row in rows.items()}
    assert statuses == {'a': 'refused', 'b': 'ok', 'c': 'unreadable'}
    assert rows['b']['flags'] == 'inverted;turned_180'
    assert rows['a']['flags'] == 'no_hand: no hand was found'


def test_what_cannot_be_looked_into_is_in_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hand_check, 'checker', lambda: _Refusing())
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1))).save(tmp_path / 'a.png')
    (tmp_path / 'b.zip').write_bytes(b'PK cut short')
    (tmp_path / 'notes.txt').write_text('no image')
    rows = hand_report.write(tmp_path, tmp_path / 'out' / 'hands.csv')
    assert (rows[0]['file'], rows[0]['status']) == ('b.zip', 'unreadable')
    said = capsys.readouterr().err
    assert 'b.zip: not a whole zip' in said and '1 file left out: notes.txt (no image)' in said
