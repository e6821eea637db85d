"""The page over runs: what is found and shown, escaped texts, and a real browser's view."""

import json

import numpy as np
import pytest

from boneage_jax.analysis import ensemble, table
from boneage_jax.data import source
from boneage_jax.report import collect, html, numbers, page
from boneage_jax.runtime import files
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError

IMAGES = 40
NASTY = '<script>document.body.textContent="broken"</script>&amp;'


def run(workdir, *, spread=10.0, drop=()):
    """A workdir as training leaves it, of made-up predictions.

    `drop`: figures that an older release did not write.
    """
    workdir.mkdir(parents=True)
    generator = np.random.default_rng(3)
    scored = {}
    for split in ('validation', 'holdout'):
        months = generator.integers(10, 220, IMAGES).astype(float)
        prediction = np.maximum(months + generator.normal(0, spread, IMAGES), 0)
        male = generator.random(IMAGES) < 0.5
        ids = [f'{split}{i}' for i in range(IMAGES)]
        images = source.Split(split, None, np.arange(IMAGES), ids, months, male)
        scored[split] = (images, {'prediction': prediction})
    evaluate.write_predictions(workdir, scored)
    report = evaluate.write_metrics(
        workdir, scored, ensemble.TASK, np.array([100.0, 120.0]), {'minutes': 1.5, 'commit': 'abc'}
    )
    for split in report['splits'].values():
        for name in drop:
            del split['overall'][name]
    files.write_json(workdir / 'metrics.json', report)
    lines = [{'kind': 'train', 'step': s, 'epoch': s / 10, 'loss': 2 / s} for s in range(1, 21)]
    lines += [
        {
            'kind': 'eval',
            'step': s,
            'epoch': s / 10,
            'split': 'validation',
            'loss': 1 / s,
            'mae': 20 / s,
        }
        for s in (10, 20)
    ]
    (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return workdir


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """(folder, page's text) of a sweep of two rows, masks, a run begun, a broken one, an extra."""
    folder = tmp_path_factory.mktemp('runs')
    run(folder / 'sweep' / 'base' / 'seed0')
    run(
        folder / 'sweep' / NASTY.replace('/', '_') / 'seed0',
        spread=14.0,
        drop=('agreement_lower', 'agreement_upper'),
    )
    rows = [
        ['base', 6.5, 8.1, 7.0, 9.2, '', '', '', '', 1, 'holdout', 'd', 1.5, 'abc'],
        [NASTY, '', 11.0, 9.0, 13.0, 'base', 2.9, 1.0, 4.8, 1, 'holdout', 'd', '', ''],
    ]
    files.write_table(folder / 'sweep' / 'table.csv', table.COLUMNS, rows)
    (folder / 'sweep' / 'table.md').write_text(f'# configs/x.py\n\n- Note {NASTY}\n')
    masks = folder / 'masks'
    masks.mkdir()
    (masks / 'predictions.csv').write_text(
        'id,split,male,age,iou\n'
        + ''.join(f'{i},holdout,True,50,{0.8 + i / 100}\n' for i in range(10))
    )
    measure = {'value': 0.845, 'lower': 0.82, 'upper': 0.87, 'count': 10}
    files.write_json(
        masks / 'metrics.json',
        {'splits': {'holdout': {'role': 'reported', 'images': 10, 'overall': {'iou': measure}}}},
    )
    (folder / 'begun').mkdir()
    (folder / 'begun' / 'config.json').write_text(json.dumps({'seed': 1, 'secret': NASTY}))
    (folder / 'broken').mkdir()
    (folder / 'broken' / 'metrics.json').write_text('{"splits": ')
    (folder / 'tsne').mkdir()
    files.write_json(
        folder / 'tsne' / 'orderedness.json', {NASTY: {'orderedness': {'all': measure}}}
    )
    return folder, page.write(
        [folder], folder / 'report.html', title=f'A title {NASTY}'
    ).read_text()


def test_everything_is_found_once_and_named(written):
    folder, _ = written
    runs, sweeps, extras, _ = collect.find([folder, folder / 'sweep'])
    assert [one.kind for one in runs] == [None, None, 'segmentation', 'age', 'age']
    assert [one.name for one in sweeps] == ['sweep'] and [one.kind for one in extras] == [
        'Embeddings'
    ]
    empty = folder / 'empty'
    empty.mkdir()
    with pytest.raises(UserError, match='neither runs'):
        collect.find([empty])


def test_figures_are_those_of_the_files(written):
    folder, text = written
    overall = json.loads((folder / 'sweep/base/seed0/metrics.json').read_text())['splits'][
        'holdout'
    ]['overall']
    for name in ('mae', 'bias'):
        assert numbers.AGES[name == 'bias'].number(overall[name]['value']) in text
    assert (
        '8.10 <span class="range">(7.00 to 9.20)</span>' in text
        and '+2.90 <span class="range">(+1.00 to +4.80)' in text
    )
    assert 'has no agreement_lower, agreement_upper (an older release)' in text
    assert (
        'Not finished: there is no metrics.json.' in text and 'metrics.json cannot be read' in text
    )
    assert 'No pictures: ' in text or 'no picture' in text
    assert 'minus base (95% interval)' in text  # the one reference, by name
    assert 'Spearman correlation of embeddings and ages, all' in text


def test_runs_of_the_same_images_share_their_records(tmp_path):
    data = {
        'source': 'rsna_bone_age',
        'folder': 'a',
        'stages': ['crop'],
        'stage_options': {'crop': {'margin': 0.02}, 'mask': {}},
        'size': [96, 96],
        'resize': 'pad',
        'split_seed': 0,
    }
    changed = (
        {'split_seed': 1, 'stage_options': {'crop': {'margin': 0.02}}},
        {'stage_options': {'crop': {'margin': 0.1}}},
        {'size': [64, 64]},
    )
    for i, change in enumerate(({}, *changed)):
        (tmp_path / f'{i}').mkdir()
        files.write_json(tmp_path / f'{i}' / 'config.json', {'data': data | change})
    runs, *_ = collect.find([tmp_path])
    assert [[other.name for other in run.kin] for run in runs] == [['1'], ['0'], [], []]


def test_texts_are_escaped_and_nothing_is_fetched(written):
    _, text = written
    assert NASTY not in text and html.escaped(NASTY) in text
    assert text.count('<script>') == 1 and "default-src 'none'" in text
    assert 'src="http' not in text and 'url(' not in text and '@import' not in text


def test_predictions_of_another_run_are_told(tmp_path):
    workdir = run(tmp_path / 'run')
    (workdir / 'predictions.csv').write_text(
        (workdir / 'predictions.csv')
        .read_text()
        .replace('holdout0,holdout', 'x,holdout', 1)
        .replace(',validation,', ',holdout,')
    )
    (one,), *_ = collect.find([workdir])
    assert one.complete and any('not of the same run' in note for note in one.notes)


def test_the_page_in_a_browser_wide_on_a_phone_and_printed(written, window):
    folder, _ = written
    browser = window()

    def screen(width, mobile):
        browser._ask(
            'POST',
            f'{browser.base}/goog/cdp/execute',
            {
                'cmd': 'Emulation.setDeviceMetricsOverride',
                'params': {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': mobile},
            },
        )

    for width, mobile in ((1280, False), (390, True)):
        screen(width, mobile)
        browser.open((folder / 'report.html').as_uri())
        browser.wait(
            '[...document.images].length > 8 && '
            '[...document.images].every(x => x.complete && x.naturalWidth > 50)'
        )
        # Nothing sticks out sideways.
        assert browser.run('document.documentElement.scrollWidth') <= width
        assert browser.run("document.querySelectorAll('section.run').length") == 5
        assert browser.run(
            "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))"
        )
        fetched = browser.run(
            "performance.getEntriesByType('resource')"
            ".filter(x => !x.name.startsWith('data:')).length"
        )
        assert fetched == 0
    assert browser.spoken('.scroll') == ('region', 'Table: sweep')  # and the keyboard reaches it
    focused = browser.run(
        "(document.querySelector('.scroll').focus(), document.activeElement.className)"
    )
    assert focused == 'scroll'
    assert browser.spoken('.scroll table') == ('table', 'Table: sweep')
    assert browser.spoken('.scroll thead th') == ('columnheader', 'row')
    assert browser.spoken('.scroll tbody th') == ('rowheader', 'base')
    assert len(browser._ask('POST', f'{browser.base}/print', {})) > 20_000
