"""Positive mining: rules, verdicts, what is accepted, and whole rounds, stopped and continued."""

import csv
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from boneage_jax import config as c
from boneage_jax.errors import ConfigError
from boneage_jax.mine import images as images_lib
from boneage_jax.mine import page, rounds, verdicts, views
from boneage_jax.preprocess import hand_mask
from tfds_rsna import prepared
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom import render

CONFIG = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'unet.py'
OPTIONS = c.load(f'{CONFIG}:tiny,mine.stability=0.97')[1].mine


@pytest.fixture(scope='module')
def phantoms():
    return [render.phantom(5, i, (40, 40)) for i in range(16)]


@pytest.fixture(scope='module')
def source(phantoms, tmp_path_factory):
    """Prepared images 'f0' .. 'f15' without masks."""
    folder = tmp_path_factory.mktemp('images') / 'records'
    prepared.write(
        folder,
        {
            'train': [
                {
                    'image': example['image'][..., None],
                    'id': f'f{i}',
                    'months': example['months'],
                    'male': example['male'],
                    'width': 80,
                    'height': 80,
                }
                for i, example in enumerate(phantoms)
            ]
        },
        metadata={},
    )
    return folder


@pytest.fixture(scope='module')
def drawn(phantoms, tmp_path_factory):
    """A folder of masks of the first 12 images, drawn on images of 80x80."""
    folder = tmp_path_factory.mktemp('drawn')
    for i, example in enumerate(phantoms[:12]):
        Image.fromarray(example['hand_mask'] * np.uint8(255)).resize(
            (80, 80), Image.Resampling.NEAREST
        ).save(folder / f'f{i}.png')
    return folder


def config(source, extra=''):
    quick = 'epochs=1,depth=1,rotation=0,shift=0,scale=0,shear=0'  # less to compile
    return rounds.checked(
        c.load(f'{CONFIG}:tiny,{quick},mine.source=prepared,mine.folder={source}{extra}')[1]
    )


def blob(shift=0):
    y, x = np.mgrid[:60, :60]
    hand = (y - 35) ** 2 + (x - 30 - shift) ** 2 < 15**2
    fingers = (abs(abs(x - 30 - shift) - 6) < 3) & (y > 6) & (y < 35)
    return (hand | fingers).astype(np.uint8)


def test_rule_wants_the_classical_mask_or_the_last_round_to_agree():
    mask = blob()
    measured, reasons = verdicts.by_rule(mask, 1, mask, None, OPTIONS)
    assert reasons == [] and measured['agreement'] == 1 and 'stability' not in measured
    _, (reason,) = verdicts.by_rule(mask, 1, blob(9), None, OPTIONS)
    assert reason.startswith('agreement: 0.') and 'round before' not in reason
    assert (
        verdicts.by_rule(mask, 1, blob(9), mask, OPTIONS)[1] == []
    )  # it did not move since the last round
    _, (reason,) = verdicts.by_rule(mask, 1, blob(9), blob(3), OPTIONS)
    assert 'with the round before, not 0.97' in reason
    assert [r.partition(':')[0] for r in verdicts.by_rule(mask, 2, mask, None, OPTIONS)[1]] == [
        'components'
    ]
    assert verdicts.by_rule(0 * mask, 0, mask, None, OPTIONS)[1][0] == 'area: the mask is empty'


class Thresholds:
    """A network that takes for hand what is bright, above row 30 only: it knows upright hands."""

    def __call__(self, images):
        logits = images[..., 0].astype(np.float32) - 100
        logits[:, 30:] = np.where(logits[:, 30:] > 0, 10, logits[:, 30:])
        logits[:, :30] = np.where(logits[:, :30] > 0, 20, logits[:, :30])
        logits[:, 50:, :10] = -30
        return logits, {}


def test_views_are_turned_back_and_the_least_alike_one_is_kept():
    images = np.stack([blob() * np.uint8(200), blob(5) * np.uint8(200)])[..., None]
    images[1, 52:58, 2:8] = 200  # seen in the turned view alone, and hardly
    for image, found in zip(images, views.masks(Thresholds(), images), strict=True):
        assert (found['hand_mask'] == hand_mask.largest_component(image[..., 0] > 0)).all()
        assert (found['other_view'] == found['hand_mask']).all() and found['pieces'] == 1


def test_a_view_that_differs_is_what_a_rule_compares_with():
    class Upright:
        """Sees nothing in the lower half of what it is shown."""

        def __call__(self, images):
            logits = np.where(images[..., 0] > 0, 3.0, -1.0)
            logits[:, 30:] = -1.0
            return logits, {}

    (found,) = views.masks(Upright(), (blob() * np.uint8(200))[None, ..., None])
    assert found['hand_mask'].sum() == blob().sum()
    assert found['other_view'].sum() < 0.9 * blob().sum()
    options = c.load(f'{CONFIG}:tiny,mine.agreement_with=views')[1].mine
    mask, other = found['hand_mask'], found['other_view']
    _, (reason,) = verdicts.by_rule(mask, 1, other, None, options)
    assert reason.startswith('agreement: 0.') and 'with another view, not 0.9' in reason


def test_the_training_of_a_round(source):
    more = (
        ',mine.first_epochs=40,mine.seed_repeats=7,mine.epochs=3,data.extra_train_folders=(EXTRA)'
    )
    mining = config(source, more)
    runs = pathlib.Path('runs')
    first = rounds.run_config(mining, runs, 1, drawn=20)
    assert first.data.train_repeats == 1
    assert first.epochs == 40 and first.data.source == 'prepared' and first.data.validation == 2
    second = rounds.run_config(mining, runs, 2, drawn=20)
    assert second.epochs == 3 and second.data.train_repeats == 7
    assert second.data.extra_train_folders == ('EXTRA', 'runs/round_1/accepted')
    phantoms = rounds.run_config(config(source, f'{more},holdout_ids=FILE'), runs, 1)
    assert phantoms.epochs == 1 and phantoms.data.holdout_ids == ''


def test_verdicts_survive_a_line_cut_short(tmp_path):
    path = tmp_path / 'verdicts.csv'
    one = verdicts.Verdicts(path)
    for example, verdict in (('a', 'accept'), ('b', 'reject'), ('a', 'undo'), ('c,1', 'accept')):
        one.add(example, verdict)
    assert verdicts.read(path) == one.current == {'b': 'reject', 'c,1': 'accept'}
    with path.open('a') as file:
        file.write('d,acc')  # the power went
    again = verdicts.Verdicts(path)
    again.add('e', 'accept')
    assert verdicts.read(path) == {'b': 'reject', 'c,1': 'accept', 'e': 'accept'}
    with pytest.raises(ValueError, match="verdict 'like'"):
        again.add('e', 'like')


def test_eyes_go_over_rules_and_their_masks_stay():
    refused = {
        'rule': [],
        'again': [],
        'refused': ['area'],
        'seen': ['area'],
        'kept': ['area'],
        'old': ['area'],
        'bad': [],
    }
    kept = {'again': (1, 'rule'), 'kept': (1, 'eye'), 'old': (1, 'rule'), 'bad': (1, 'eye')}
    eye = {'seen': 'accept', 'bad': 'reject'}
    assert verdicts.combine(list(refused), refused, eye, kept, 2, classical=False) == {
        'rule': (2, 'rule'),
        'again': (1, 'rule'),
        'seen': (2, 'eye'),
        'kept': (1, 'eye'),
    }
    assert verdicts.combine(list(refused), refused, eye, {}, 1, classical=True) == {
        'rule': (0, 'rule'),
        'again': (0, 'rule'),
        'seen': (1, 'eye'),
    }


def test_images_are_resized_as_mining_asks(source):
    assert images_lib.native_data(config(source, ',mine.resize=stretch')).resize == 'stretch'
    assert images_lib.native_data(config(source, ',mine.resize=pad')).resize == 'pad'


def test_drawn_masks_lie_on_their_images(phantoms, source, drawn, tmp_path):
    ids = images_lib.write_seeds(config(source), drawn, tmp_path / 'seeds', None)
    assert ids == [f'f{i}' for i in range(12)]
    records = prepared.open(tmp_path / 'seeds').splits['train']
    for record, example in zip(records, phantoms):
        np.testing.assert_array_equal(record['hand_mask'][..., 0], example['hand_mask'])


def test_masks_of_other_images_are_refused(source, drawn, tmp_path):
    for i in range(5):
        (tmp_path / f'f{i}.png').write_bytes((drawn / f'f{i}.png').read_bytes())
    (tmp_path / 'x.png').write_bytes((drawn / 'f0.png').read_bytes())
    with pytest.raises(
        UserError,
        match='6 masks, of which 5 are of images in .* found f0, f1, f2, f3; images are f0',
    ):
        images_lib.write_seeds(config(source), tmp_path, tmp_path / 'seeds', None)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'rounds': 0}, 'mine.rounds=0: expected at least 1'),
        ({'review': 'ear'}, "mine.review='ear': expected 'rule' or 'web'"),
    ],
)
def test_refused_options(changes, message):
    with pytest.raises(ConfigError, match=message):
        rounds.checked(c.load(f'{CONFIG}:tiny')[1], **changes)
    with pytest.raises(ConfigError, match='take configs/unet.py'):
        rounds.checked(c.load(f'{CONFIG.with_name("prsnet.py")}:tiny')[1])


def test_rounds_go_on_where_they_were_stopped(source, drawn, tmp_path, monkeypatch):
    """Two rounds by eye from drawn masks, stopped in the second one's review."""
    settings = config(source, ',mine.review=web,mine.rounds=1')
    seen = []

    def look(examples, mask_of, rows, eye, **_):
        seen.append([row['id'] for row in rows])
        assert mask_of(0).shape == (40, 40) and examples[0]['image'].shape == (40, 40, 1)
        eye.add('f12', 'accept')
        if len(seen) == 2:
            raise KeyboardInterrupt
        eye.add('f13', 'accept' if len(seen) == 1 else 'reject')

    monkeypatch.setattr(page, 'review', look)
    (first,) = rounds.mine(settings, tmp_path, seed_masks=drawn)
    assert seen == [['f12', 'f13', 'f14', 'f15']]  # what has a drawn mask is not asked about
    assert first['images'] == 4 and first['by_eye'] == 2 and first['new'] == first['accepted'] >= 2

    settings = rounds.checked(settings, rounds=2)
    with pytest.raises(KeyboardInterrupt):
        rounds.mine(settings, tmp_path, seed_masks=drawn)
    weights = tmp_path / 'round_2' / 'train' / 'metrics.json'
    before = weights.stat().st_mtime_ns
    masks = sorted((tmp_path / 'round_2' / 'masks').iterdir())
    times = [path.stat().st_mtime_ns for path in masks]
    done, second = rounds.mine(settings, tmp_path, seed_masks=drawn)
    assert (
        done == first
        and weights.stat().st_mtime_ns == before
        and [path.stat().st_mtime_ns for path in masks] == times
    )
    assert (
        second['by_eye'] == 1
        and second['rejected_by_eye'] == 1
        and 0 <= second['iou_with_previous'] <= 1
    )

    with (tmp_path / 'round_2' / 'accepted.csv').open() as file:
        accepted = {row['id']: row for row in csv.DictReader(file)}
    assert accepted['f12'] == {'id': 'f12', 'round': '2', 'by': 'eye'} and 'f13' not in accepted
    assert prepared.open(tmp_path / 'round_2' / 'accepted').labels['train']['ids'] == [
        f'mined-{i}' for i in accepted
    ]
    with (tmp_path / 'round_2' / 'review.csv').open() as file:
        assert {row['id'] for row in csv.DictReader(file) if row['stability']} == set(seen[0])
    trained = json.loads((tmp_path / 'round_2' / 'train' / 'splits.json').read_text())
    assert {'mined-f12', 'mined-f13'} <= set(trained['train']) and len(
        trained['validation']
    ) == len(trained['holdout']) == 1
    assert (tmp_path / 'round_1' / 'accepted.png').exists()
    assert rounds.mine(settings, tmp_path, seed_masks=drawn) == [first, second]
    with pytest.raises(UserError, match=r'holds another mining:\n  seed: 0 -> 1'):
        rounds.mine(config(source, ',seed=1'), tmp_path, seed_masks=drawn)


def test_nothing_accepted_says_what_to_do(source, tmp_path):
    with pytest.raises(UserError, match='none of 6 masks was accepted; look at refused.png'):
        rounds.mine(config(source, ',mine.count=6'), tmp_path)
    assert (tmp_path / 'round_1' / 'review.csv').exists() and not (
        tmp_path / 'round_1' / 'metrics.json'
    ).exists()
