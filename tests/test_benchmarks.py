"""Every benchmark runs at a tiny size and leaves what it promises; its figures' arithmetic."""

import importlib.util
import json
import os
import sys
import time
import types

import jax
import ml_collections
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from benchmarks import (
    backbones,
    better_copies,
    convolutions,
    everything,
    machine,
    one_device,
    preparing,
    prsnet,
    reading,
    regions,
    registered,
    report,
    start_up,
    traced,
    train_step,
)
from boneage_jax import models


def run(main, tmp_path, *arguments):
    """The result of a benchmark, which must be what lies in its JSON file."""
    output = tmp_path / 'out' / 'result.json'
    result = main([*arguments, '--repeats', '2', '--output', str(output)])
    assert json.loads(output.read_text()) == result
    assert os.listdir(output.parent) == ['result.json']
    assert {'processor', 'cores', 'versions', 'commit', 'load_average'} <= set(result['machine'])
    for row in result['rows']:
        assert 0 < row['median'] < 1e9 and row['what'] in report.table(result['rows'])
    return result['rows']


def run_once(main, tmp_path, *arguments):
    return main([*arguments, '--output', str(tmp_path / 'result.json')])['rows']


def test_reading(tmp_path):
    rows = run(
        reading.main,
        tmp_path,
        '--records',
        '12',
        '--side',
        '16',
        '--reads',
        '48',
        '--batch_size',
        '8',
    )
    assert [row.get('threads') for row in rows] == [1, 2, 4, None]
    assert not any(row['note'] for row in rows), 'the target is for 512 px only'


def test_preparing(tmp_path):
    (tmp_path / 'images').mkdir()
    for i in range(2):
        image = np.full((40, 30), 100 + i, np.uint8)
        image[10:30, 5:25] = 200  # a blank one would be refused
        Image.fromarray(image).save(tmp_path / 'images' / f'{i}.png')
    rows = run(
        preparing.main,
        tmp_path,
        '--images',
        str(tmp_path / 'images'),
        '--count',
        '40',
        '--side',
        '16',
    )
    assert rows[0]['images'] == 2 and [row['workers'] for row in rows[1:]] == sorted(
        {1, machine.cores()}
    )


def test_preparing_asks_for_images(tmp_path):
    with pytest.raises(SystemExit, match='no images there'):
        preparing.main(['--images', str(tmp_path)])


def test_train_step(tmp_path):
    rows = run(
        train_step.main,
        tmp_path,
        '--networks',
        'resnet18:4:1',
        '--sizes',
        '32:2',
        '--seconds',
        '0',
        '--optimizer',
        'sgd',
    )
    ours, theirs = rows[:2], rows[2:]
    assert [row['contender'] for row in ours] == ['ours, float32', 'ours, augmenting, float32']
    assert len(theirs) == (2 if importlib.util.find_spec('torch') else 0)
    for row in ours:
        expected = row['best'] / max(r['best'] for r in theirs) if theirs else None
        assert row['ratio'] == (expected and pytest.approx(expected))


def test_operations_by_hand():
    """A convolution, a matrix product inside a scan, and XLA's count of the same convolution."""
    net = nnx.Conv(3, 8, (3, 3), 2, padding='VALID', rngs=nnx.Rngs(0))
    image = np.zeros((2, 9, 9, 3), np.float32)
    assert traced.products(net, image) == 2 * (2 * 4 * 4 * 8) * (3 * 3 * 3)
    square = np.eye(4, dtype=np.float32)
    assert (
        traced.products(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: y @ x, x), square)
        == 5 * 2 * 4**3
    )


def test_one_device(tmp_path, monkeypatch):
    """The arithmetic of its rows; the times are stand-ins, and the plan of memory is made once."""
    ours = train_step.ours
    plans = []

    def with_one_plan(*arguments):
        work = ours(*arguments)
        if not plans:
            plans.append(work.memory())  # compiles the whole step
        work.memory = lambda: plans[0]
        return work

    monkeypatch.setattr(train_step, 'ours', with_one_plan)

    def in_turns(works, batch, rounds, seconds):
        times = {
            'step': 0.1,
            'augmentation': 0.01,
            'forward': 0.02,
            'gradient': 0.07,
            'step, images on the device': 0.101,
            'step, images on the host': 0.12,
            'one': 0.003,
            'many': 0.004,
        }
        assert set(times) == set(works)
        return {name: [1 / time] for name, time in times.items()}

    monkeypatch.setattr(train_step, 'in_turns', in_turns)
    monkeypatch.setattr(one_device, '_fed', lambda *_: dict.fromkeys(('device', 'host')))
    rows = {
        row['what']: row['best']
        for row in run_once(one_device.main, tmp_path, *everything.QUICK['one_device'])
    }
    shares = {
        what.partition('share of ')[2]: value
        for what, value in rows.items()
        if what.startswith('PRSNet: share')
    }
    assert shares == pytest.approx(
        {
            'augmentation': 10,
            'forward': 20,
            'backward': 50,
            'update, and what fusing saves': 20,
            'input, images on the device': 1,
            'input, images on the host': 20,
        }
    )
    assert rows['PRSNet: one image'] == pytest.approx(3) and rows[
        'PRSNet: inference, batch 2'
    ] == pytest.approx(500)
    assert rows['baseline: 100 epochs of 12,611 images'] == pytest.approx(1261100 / 20 / 60)
    for name in ('baseline', 'PRSNet'):
        ratio = (
            rows[f'{name}: operations an image, XLA, whole step']
            / rows[f'{name}: operations an image, by hand']
        )
        assert 0.7 < ratio < 2.5, 'the two counts speak of the same network'


class Net(nnx.Module):
    """A network that compiles at once, for what does not depend on the network."""

    def __init__(self):
        self.conv = nnx.Conv(1, 4, (8, 8), 8, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4 * 25, 1, rngs=nnx.Rngs(1))

    def __call__(self, image, male, *, rngs=None):
        return self.head(nnx.relu(self.conv(image)).reshape(len(image), -1))[:, 0], {}


def test_both_places_of_the_images_feed_a_step():
    works = one_device._fed(Net, train_step.random_images(40, 2))
    assert list(works) == ['device', 'host']
    for work in works.values():  # one after the other, then again: neither takes the other's arrays
        work(2)


def test_backbones(tmp_path):
    rows = run(
        backbones.main,
        tmp_path,
        '--networks',
        'vgg16',
        '--width',
        '8',
        '--side',
        '32',
        '--batch',
        '2',
        '--seconds',
        '0',
    )
    assert [row['kind'] for row in rows[:2]] == ['forward', 'training step']
    assert len(rows) == (
        6 if importlib.util.find_spec('torch') and importlib.util.find_spec('torchvision') else 2
    )
    for row in rows[:2]:
        theirs = [r['best'] for r in rows[2:] if r['kind'] == row['kind']]
        assert row['ratio'] == (pytest.approx(row['best'] / max(theirs)) if theirs else None)


def test_prsnet(tmp_path):
    rows = run(
        prsnet.main,
        tmp_path,
        '--backbone',
        'resnet18',
        '--width',
        '4',
        '--depth',
        '1',
        '--side',
        '64',
        '--batch',
        '2',
        '--part_sizes',
        '32',
        '48',
        '--seconds',
        '0',
        '--count_only',
    )
    assert [row['network'] for row in rows[:4]] == [
        'baseline',
        'relation alone',
        'full, parts of 32 px',
        'full, parts of 48 px',
    ]
    for kind in (rows[:4], rows[4:]):
        ratios = [row['ratio'] for row in kind]
        assert ratios[0] == 1 and ratios == sorted(ratios) and ratios[-1] > 1.5


def test_regions(tmp_path):
    rows = run(
        regions.main,
        tmp_path,
        '--size',
        '20',
        '15',
        '--widths',
        '4',
        '4',
        '--dense',
        '8',
        '--batch',
        '2',
        '--seconds',
        '0',
    )
    assert [row['unit'] for row in rows] == ['GFLOP'] * 6 + ['ms'] * 6
    one, _, three = (row['best'] for row in rows[:3])
    assert three > one


def test_better_copies_are_paired_with_the_coarse_images(tmp_path, monkeypatch):
    """Only images that have a copy count; the difference is of the same image's errors."""
    (tmp_path / 'half').mkdir()
    for name in ('1.png', '2.png'):
        (tmp_path / 'half' / name).write_bytes(b'')

    class Images:
        ids = ('1', '2', '3')
        months = np.array([100.0, 100.0, 100.0])
        male = np.array([True, False, True])

        def __init__(self, pixels):
            self.pixels = np.array(pixels, np.float32)

        def arrays(self, places):
            return {'image': self.pixels[places]}

    class Predictor:
        config = ml_collections.ConfigDict({'data': {'better_copies': ('half',)}})
        task = types.SimpleNamespace(months=lambda prediction: prediction)

        def __init__(self, place):
            assert place == 'bone_age'

        def predict_tta(self, images, male):
            return images, {}

    def open_splits(place, config, data_dir):
        fine = config.data.better_copies == ('half',)
        return {'holdout': Images([104, 98, 300] if fine else [110, 100, 0])}

    monkeypatch.setattr(better_copies, 'Predictor', Predictor)
    monkeypatch.setattr(better_copies.own_images, 'open_splits', open_splits)
    arguments = ['--data', str(tmp_path), '--split', 'holdout']
    rows = run_once(better_copies.main, tmp_path, *arguments)
    assert [row['best'] for row in rows] == [3.0, 5.0, -2.0]
    assert '2 images' in rows[0]['note']


def test_missing_torch_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torch', None)
    assert train_step.import_torch() is None
    assert "pip install 'boneage_jax[parity]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    'name, width, sides, pools', [('resnet34', 8, (96, 96), 1), ('regional', 0, (130, 127), 6)]
)
def test_convolutions_are_those_of_the_network(name, width, sides, pools):
    options = {'width': 8, 'channels': 1} if width else {'size': sides}
    model = nnx.eval_shape(lambda: models.build(name, **options))
    kernels = [x.shape for x in jax.tree.leaves(nnx.state(model, nnx.Param)) if x.ndim == 4]
    found = convolutions.layers(name, width, sides)
    assert sorted(
        (*layer.window, layer.inputs, layer.outputs) for layer in found.elements() if layer.outputs
    ) == sorted(kernels)
    assert sum(not layer.outputs for layer in found.elements()) == pools
    first = next(iter(found))
    assert (first.rows, first.columns, first.pads) == (*sides, (3, 3) if width else (1, 1))


def test_each_convolution(tmp_path, monkeypatch):
    few = {
        convolutions.Layer(9, 7, 1, 4, (7, 7), 2, (3, 3)): 1,
        convolutions.Layer(5, 4, 4, 8, (3, 1), 1, (1, 0)): 3,
        convolutions.Layer(9, 7, 4, 0, (3, 3), 2, (1, 1)): 1,
    }
    monkeypatch.setattr(convolutions, 'layers', lambda *_: few)
    rows = run(convolutions.main, tmp_path, '--size', '9x7:2', '--seconds', '0')
    layers, totals = (
        [row for row in rows if 'each' in row],
        [row for row in rows if 'each' not in row],
    )
    assert sorted(row['kind'] for row in layers) == [
        'forward',
        'forward',
        'input',
        'kernel',
        'kernel',
        'pool',
    ]
    assert [row['who'] for row in totals] == ['ours', 'XLA', 'PyTorch'][
        : 3 if importlib.util.find_spec('torch') else 2
    ]
    for row in totals:
        assert row['best'] == pytest.approx(
            sum(other['each'][row['who']] * other['count'] for other in layers)
        )


def test_start_up_measures_every_phase(tmp_path, monkeypatch):
    monkeypatch.setenv(start_up._BEGAN, repr(time.time()))
    start_up.main(
        [
            '--configs',
            'configs/prsnet.py:tiny,row=baseline,epochs=1',
            '--child',
            str(tmp_path / 'child.json'),
        ]
    )
    found = json.loads((tmp_path / 'child.json').read_text())
    assert tuple(found['seconds']) == start_up.PHASES and min(found['seconds'].values()) >= 0
    assert found['peak_memory_mib'] > 50
    slower = {**found, 'seconds': {phase: 2 * s for phase, s in found['seconds'].items()}}
    row = start_up._row('both', [slower, found])
    assert row['best'] == pytest.approx(
        sum(found['seconds'].values()) - found['seconds']['second step']
    )


def test_everything_joins_the_parts(tmp_path, capfd):
    assert (
        everything.main(['--quick', '--only', 'reading', '--output', str(tmp_path / 'all.json')])
        == 0
    )
    result = json.loads((tmp_path / 'all.json').read_text())
    assert list(result['results']) == ['reading'] and not result['failed']
    assert 'training batches of 32' in (tmp_path / 'all.md').read_text()


def test_everything_keeps_its_raw_output_by_a_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, 'ROOT', tmp_path)
    monkeypatch.setattr(
        everything.subprocess,
        'run',
        lambda *_, **__: everything.subprocess.CompletedProcess((), 1, '', ''),
    )
    assert (
        everything.main(
            ['--only', 'regions', '--keep', 'mine', '--output', str(tmp_path / 'all.json')]
        )
        == 1
    )
    for name in ('md', 'json'):
        assert (tmp_path / 'docs' / 'benchmarks' / f'mine.{name}').read_text() == (
            tmp_path / f'all.{name}'
        ).read_text()
    assert 'mine.json' in capsys.readouterr().out


def test_a_part_that_fails_or_is_stopped_costs_the_others_nothing(tmp_path, monkeypatch):
    def part(command, **_):
        name = command[2].partition('.')[2]
        assert command[-2:] == ['--repeats', '3']
        if name == 'regions':
            (tmp_path / 'regions.json').write_text(
                json.dumps({'rows': [report.row('a row of regions', [1.0], 's')]})
            )
        elif name == 'hand_mask':
            assert 'a row of regions' in (tmp_path / 'all.md').read_text(), (
                'written after each part'
            )
            raise KeyboardInterrupt
        return everything.subprocess.CompletedProcess((), int(name == 'reading'), '', '')

    monkeypatch.setattr(everything.subprocess, 'run', part)
    monkeypatch.setattr(
        machine,
        'facts',
        lambda: (
            dict.fromkeys(
                (
                    'processor',
                    'cores',
                    'memory_gib',
                    'gpu',
                    'python',
                    'commit',
                    'time',
                    'load_average',
                ),
                '',
            )
            | {'versions': {}}
        ),
    )
    assert (
        everything.main(
            [
                '--only',
                'reading',
                'regions',
                'hand_mask',
                'start_up',
                '--repeats',
                '3',
                '--output',
                str(tmp_path / 'all.json'),
            ]
        )
        == 1
    )
    result = json.loads((tmp_path / 'all.json').read_text())
    assert list(result['results']) == ['regions']
    assert result['failed'] == ['reading: failed, see above', 'hand_mask, start_up: stopped']


def test_best_and_median():
    assert machine.summary([1.0, 5.0, 2.0]) == {'best': 5.0, 'median': 2.0, 'runs': [1.0, 5.0, 2.0]}
    assert machine.summary([1.0, 5.0, 2.0], smaller=True)['best'] == 1.0


def test_a_busy_machine_is_named(monkeypatch, capsys):
    monkeypatch.setattr(os, 'getloadavg', lambda: (3.0, 0.0, 0.0))
    assert machine.facts()['load_average'] == 3.0
    assert 'load average is 3.00' in capsys.readouterr().err


@pytest.mark.skipif('BONEAGE_DATA' not in os.environ, reason='BONEAGE_DATA: folder of real images')
def test_points_on_hands_that_the_authors_registered(tmp_path):
    """Their fingertip is at the skin, ours at the bone: about 3% of 1,500 pixels lower."""
    folder = f'{os.environ["BONEAGE_DATA"]}/rsna_registered'
    result = run(registered.main, tmp_path, '--images', folder)
    tip, capitate, turned = result
    assert 20 < tip['median'] < 75 and capitate['median'] < 75 and turned['median'] < 2
    assert turned['note'].endswith('of 20 images')
