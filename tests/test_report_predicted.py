"""The page over tables that `predict` wrote: flags, images without an age, intervals by image."""

import csv
import re

import numpy as np
import pytest
from test_report import run

from boneage_jax.analysis import ensemble
from boneage_jax.inference import intervals
from boneage_jax.report import collect, html, page, predicted
from boneage_jax.report import runs as runs_lib
from tfds_rsna.errors import UserError

HEADER = 'id,file,male,prediction,years,lower,upper,status,flags,spread,age'
NASTY = '<b>x</b>'
ROWS = [
    'a,d/a.png,True,120.0,10 years 0 months,100.0,140.0,ok,,9.0,130.0',
    'b,d/b.png,False,60.0,5 years 0 months,50.0,70.0,ok,turned_90;cut_off,5.0,80.0',
    f'{NASTY},d/c.png,True,90.0,7 years 6 months,60.0,120.0,ok,cut_off,15.0,90.0',
    'd,d/d.png,False,30.0,2 years 6 months,20.0,40.0,ok,,5.0,',
    'r,d/r.png,True,,,,,refused,no_hand: nothing like a hand,,',
]
REJECTED = [
    'id,file,reason',
    'r,d/r.png,no hand',
    'u,d/u.png,d/u.png: cannot be decoded (data.on_error=skip)',
]


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    """The CSV of four predicted images, one refused and one that cannot be read."""
    folder = tmp_path_factory.mktemp('predicted')
    (folder / 'ages.csv').write_text('\n'.join([HEADER, *ROWS, '']))
    (folder / 'ages_rejected.csv').write_text('\n'.join([*REJECTED, '']))
    return folder / 'ages.csv'


def cells(text, label):
    """The texts of a page's table, line by line."""
    inner = re.search(rf'<table[^>]*aria-label="{re.escape(label)}[^"]*">(.*?)</table>', text)[1]
    lines = re.findall('<tr>(.*?)</tr>', inner)
    found = []
    for line in lines:
        texts = re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', line)
        found.append([re.sub('<[^>]*>', '', text) for text in texts])
    return found


def cards(text):
    """{title: (value, what is below)} of a page's cards."""
    pattern = r'class="card"><span>(.*?)</span><b>(.*?)</b><span>(.*?)</span>'
    return {title: (value, below) for title, value, below in re.findall(pattern, text)}


def test_a_table_and_its_folder_give_the_same_section(table):
    (by_file,) = collect.find([table])[3]
    runs, _, _, (by_folder,) = collect.find([table.parent])
    assert not runs and by_file.place == by_folder.place
    assert by_file.rows == by_folder.rows and len(by_file.rejected) == 2
    assert len(collect.find([table, table.parent])[3]) == 1


def test_cards_count_images_refusals_and_flags(table):
    text = page.write([table], table.parent / 'page.html').read_text()
    found = cards(text)
    assert found['predicted'] == ('4', 'of 6 images')
    assert found['refused'][0] == '1' and found['unreadable'][0] == '1'
    assert found['flagged'][0] == '2'
    # Widths are 40, 20, 60 and 20 months.
    assert found['mean 90% interval'] == ('35.0', 'months from end to end; 20.0 to 60.0')
    # Errors are 10, 20 and 0 months; 80 is not within 50 to 70.
    assert found['MAE (months)'][0] == '10.00' and '3 images' in found['MAE (months)'][1]
    low, high = intervals.wilson(2, 3)
    assert found['ages in their interval'] == ('66.7%', f'({100 * low:.1f} to {100 * high:.1f}%)')
    assert '<title>Bone age: ages.csv</title>' in text
    assert '<p>1 table of predicted ages. Written' in text and 'Validation selects' not in text


def test_each_flag_has_its_images_error_and_coverage(table):
    text = page.write([table], table.parent / 'page.html').read_text()
    header, *lines = cells(text, 'Flags of the predicted images')
    assert header == ['flag', 'images', '%', 'MAE (months)', 'ages in their interval'] + [
        'what it says'
    ]
    by_name = {line[0]: line for line in lines}
    assert list(by_name) == ['none', 'cut_off', 'turned_90']
    assert by_name['none'][1:4] == ['2', '50.0', '10.00']
    assert by_name['cut_off'][1:4] == ['2', '50.0', '10.00']
    assert by_name['cut_off'][4].startswith('50.0%')
    assert by_name['turned_90'][1:4] == ['1', '25.0', '20.00']
    assert by_name['turned_90'][4].startswith('0.0%')
    assert 'the image was turned by a quarter' in by_name['turned_90'][5]


def test_images_without_an_age_are_told_once_with_the_reason(table):
    text = page.write([table], table.parent / 'page.html').read_text()
    assert cells(text, 'Images without an age')[1:] == [
        ['r', 'refused', 'No whole hand was found: nothing like a hand.'],
        ['u', 'unreadable', 'cannot be decoded'],
    ]


def test_images_are_in_order_of_flags_and_width_and_escaped(table):
    text = page.write([table], table.parent / 'page.html').read_text()
    _, *lines = cells(text, 'Image by image')
    assert [line[0] for line in lines] == [html.escaped(NASTY), 'b', 'a', 'd']
    assert lines[1] == ['b', 'girl', '5 years 0 months', '60.0', '50 to 70', '20.0'] + [
        '80.0',
        '-20.0',
        'no',
        'turned_90, cut_off',
    ]
    assert lines[3][6:] == ['–', '–', '–', '–']
    assert NASTY not in text


def test_without_ages_intervals_and_flags_what_is_there_is_shown(tmp_path):
    path = tmp_path / 'old.csv'  # of a release without status and flags
    path.write_text('id,file,male,prediction,years,lower,upper\nx,x.png,True,12.0,1 year,,\n')
    text = page.write([path], tmp_path / 'page.html').read_text()
    assert cells(text, 'Image by image') == [
        ['image', 'sex', 'age', 'months', '90% interval', 'width', 'flags'],
        ['x', 'boy', '1 year', '12.0', '–', '–', '–'],
    ]
    assert cards(text)['predicted'] == ('1', 'of 1 image')
    assert 'mean 90% interval' not in text and 'Images without an age' not in text


def test_images_unlike_training_images_are_told(tmp_path):
    path = tmp_path / 'far.csv'
    lines = ['id,file,male,prediction,years,lower,upper,status,flags,distance_quantile']
    for name, quantile in (('near', 0.5), ('far', 0.995), ('edge', 0.99)):
        lines.append(f'{name},{name}.png,True,12.0,1 year,10.0,14.0,ok,,{quantile}')
    path.write_text('\n'.join(lines) + '\n')
    text = page.write([path], tmp_path / 'page.html').read_text()
    none, far = cells(text, 'Flags of the predicted images')[1:]
    assert none[:2] == ['none', '3']
    assert far[:3] == ['farther than 99% of training images', '1', '33.3']
    found = {line[0]: line[6] for line in cells(text, 'Image by image')[1:]}
    assert found['far'] == '99.5% of training images'


def test_another_csv_is_refused_by_name_or_passed_over(tmp_path):
    (tmp_path / 'labels.csv').write_text('id,male\n1,True\n')
    with pytest.raises(UserError, match='labels.csv: a folder, or a table that predict wrote'):
        collect.find([tmp_path / 'labels.csv'])
    with pytest.raises(UserError, match='neither runs'):
        collect.find([tmp_path])


def test_a_long_table_says_how_many_it_leaves_out(tmp_path):
    count = predicted.SHOWN + 5
    lines = [f'{i},{i}.png,True,50.0,4 years,40.0,60.0,ok,' for i in range(count)]
    path = tmp_path / 'many.csv'
    path.write_text('id,file,male,prediction,years,lower,upper,status,flags\n' + '\n'.join(lines))
    text = page.write([path], tmp_path / 'page.html').read_text()
    assert f'the first {predicted.SHOWN} of {count}' in text
    assert len(cells(text, 'Image by image')) == predicted.SHOWN + 1


def test_every_table_can_be_read_out_and_scrolled_by_the_keyboard(table, tmp_path):
    run(tmp_path / 'runs' / 'a')
    text = page.write([tmp_path / 'runs', table], tmp_path / 'page.html').read_text()
    tables = re.findall('<div class="scroll"[^>]*><table.*?</table>', text)
    assert len(tables) == text.count('<table') >= 6
    for one in tables:
        box, inner = re.match('(<div[^>]*>)(<table[^>]*>)', one).groups()
        assert 'tabindex="0"' in box and 'role="region"' in box
        assert re.search('aria-label="[^"]+"', box) and re.search('aria-label="[^"]+"', inner)
        for line in re.findall('<tr>(.*?)</tr>', one.partition('<tbody>')[2]):
            assert line.startswith('<th scope="row"')
        assert one.partition('<tbody>')[0].count('<td') == 0


def test_a_run_shows_the_interval_of_its_worst_images(tmp_path):
    workdir = run(tmp_path / 'a')
    (one,), *_ = collect.find([workdir])
    images = one.images['holdout']
    half = intervals.fit(one.images['validation']).half
    worst = int(np.argmax(np.abs(images['prediction'] - images['age'])))
    side = half['male' if images['male'][worst] else 'female']
    low = max(images['prediction'][worst] - side, 0)
    text = runs_lib.section(one, 's0')
    captions = re.findall('<figcaption><b>(.*?)</figcaption>', text)
    expected = f'interval {low:.0f} to {images["prediction"][worst] + side:.0f}'
    assert captions[0].startswith(images['id'][worst]) and expected in captions[0]
    assert '90% intervals fitted on validation' in text or 'The interval of each image' in text
    assert one.kind == ensemble.TASK.kind == 'age'
    with (workdir / 'predictions.csv').open(newline='') as file:
        assert 'lower' not in csv.DictReader(file).fieldnames  # so they are the page's own


def test_a_table_whose_cells_were_moved_is_refused(tmp_path):
    path = tmp_path / 'ages.csv'
    moved = ROWS[0].replace('120.0', '120,5')
    path.write_text('\n'.join([HEADER, moved, '']))
    with pytest.raises(UserError, match='ages.csv, line 2: more cells than columns'):
        collect.find([path])
