"""Better copies and native sizes: which image counts, and its aspect ratio given back."""

import io
import re

import numpy as np
import pytest
from PIL import Image

import tfds_rsna
from boneage_jax import config as c
from boneage_jax.data import splits
from boneage_jax.errors import ConfigError, SplitError
from boneage_jax.preprocess import resize
from boneage_jax.stages import records
from tfds_rsna import better_copies
from tfds_rsna.io.archive import Archive
from tfds_rsna.problems import DataError

IDS = ('1377', '1378', '1379', '1380')


def png(shape, grey=90):
    """An image of one grey value in which a black corner shows that it is not blank."""
    image = np.full(shape, grey, np.uint8)
    image[: shape[0] // 4, : shape[1] // 4] = 0
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    return buffer.getvalue()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Four squashed images of 20x20, two of them larger in folders of their own."""
    monkeypatch.setenv('BONEAGE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('BONEAGE_DATA', str(tmp_path))
    images = tmp_path / 'rsna' / 'boneage-training-dataset'
    images.mkdir(parents=True)
    for name in IDS:
        (images / f'{name}.png').write_bytes(png((20, 20)))
    rows = ''.join(f'{name},{100 + i},{i % 2 == 0}\n' for i, name in enumerate(IDS))
    table = tmp_path / 'rsna' / 'boneage-training-dataset.csv'
    table.write_text('id,boneage,male\n' + rows)
    for folder, name, grey in (('half', '1378', 150), ('fine', '1378', 200), ('fine', '1380', 210)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f'{name}.jpg').write_bytes(png((80, 60), grey))
    sizes = ''.join(f'{name},300,400\n' for name in IDS)
    (tmp_path / 'sizes.csv').write_text('id,width,height\n' + sizes)
    return tmp_path


def config(**more):
    config = c.build(c.base(), 'size=(40,40),resize=pad', {}, ()).copy_and_resolve_references()
    with config.unlocked():
        config.data.update(source='rsna_bone_age', folder='rsna', validation=1, holdout=1, **more)
    return config


def test_the_first_better_copy_counts_and_sizes_are_the_native_ones(data):
    builder = tfds_rsna.RsnaBoneAge(
        data_dir=str(data / 'built'),
        source=data / 'rsna',
        native_sizes=data / 'sizes.csv',
        better_copies=[data / 'half', data / 'fine'],
    )
    builder.download_and_prepare()
    found = {}
    for record in builder.as_data_source('train'):
        image = records.decode_record(record)
        shape = image['image'].shape
        found[image['id']] = (shape, int(np.median(image['image'])), record['width'])
    assert found == {
        '1377': ((27, 20), 90, 300),  # 20x20 with the aspect of 400x300, nothing thrown away
        '1378': ((80, 60), 150, 300),
        '1379': ((27, 20), 90, 300),
        '1380': ((80, 60), 210, 300),
    }


def test_descriptions_change_with_both_and_only_with_them(data):
    source = data / 'rsna'

    def describe(**options):
        return tfds_rsna.RsnaBoneAge.describe(source=source, **options)

    plain = describe()
    assert 'native_sizes' not in plain and 'better_copies' not in plain
    sized = describe(native_sizes=data / 'sizes.csv')
    better = describe(better_copies=[data / 'half'])
    assert sized != plain and better not in (plain, sized)
    assert describe(better_copies=[data / 'fine']) != better
    (data / 'sizes.csv').write_text((data / 'sizes.csv').read_text().replace('400', '401'))
    assert describe(native_sizes=data / 'sizes.csv') != sized


def test_an_image_without_a_native_size_is_named(data):
    (data / 'sizes.csv').write_text('id,width,height\n1377,300,400\n')
    with pytest.raises(DataError, match=r'(?s)without a native size.*1378'):
        records.build_source(config(native_sizes='sizes.csv').data)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('id,width\n1377,300\n', 'no column height'),
        ('id,width,height\n1377,300,400\n1377,300,400\n', 'row 3: image 1377 stands there twice'),
        ('id,width,height\n1377,300,-4\n', 'row 2: a size of 300x-4 pixels'),
        ('id,width,height\n1377,wide,400\n', 'row 2: .*wide'),
        ('id,width,height\n1377,3_0,400\n', 'row 2: .*3_0'),
        ('id,width,height\n,300,400\n', 'row 2: no id'),
    ],
)
def test_tables_of_sizes_that_are_none(data, text, expected):
    (data / 'sizes.csv').write_text(text)
    with pytest.raises(DataError, match=f'sizes.csv.*{expected}'):
        better_copies.read_sizes(data / 'sizes.csv')


def test_folders_of_copies_that_are_none(data):
    (data / 'empty').mkdir()
    (data / 'half' / '1378.png').write_bytes(png((8, 8)))
    for folder, expected in (
        ('nowhere', 'no such folder'),
        ('empty', 'no image there'),
        ('half', '1378.jpg and 1378.png are both|1378.png and 1378.jpg are both'),
    ):
        with Archive() as archive, pytest.raises(DataError, match=expected):
            better_copies.find(archive, [data / folder])


def test_records_of_a_run_have_their_aspect_back(data):
    """Padded to 40x40, an image of 3:4 leaves five columns empty on either side."""
    options = config(native_sizes='sizes.csv', better_copies=('half',))
    for split in records.open_splits(options).values():
        for image in split.arrays(range(len(split)))['image']:
            columns = np.flatnonzero(image[..., 0].any(0))
            assert (columns[0], columns[-1]) == (5, 34)


@pytest.mark.parametrize('shape', [(27, 20), (20, 20), (20, 33)])
def test_points_and_masks_move_with_the_aspect(shape):
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 10:15] = 1
    points = np.array([[4.5, 9.5], [9.5, 14.5]], np.float32)  # the corners of the mask
    example = {'image': mask * np.uint8(200), 'hand_mask': mask, 'keypoints': points}
    wide = resize.restore_aspect(example, shape)
    assert wide['image'].shape == shape
    rows, columns = np.nonzero(wide['hand_mask'])
    (top, left), (bottom, right) = wide['keypoints']
    assert abs(rows.min() - 0.5 - top) <= 0.5 and abs(rows.max() + 0.5 - bottom) <= 0.5
    assert abs(columns.min() - 0.5 - left) <= 0.5 and abs(columns.max() + 0.5 - right) <= 0.5


def test_an_epoch_may_show_the_source_s_images_several_times(data):
    options = config()
    plain = records.open_splits(options)
    with options.unlocked():
        options.data.train_repeats = 3
    repeated = records.open_splits(options)
    train = repeated['train']
    assert train.ids == plain['train'].ids * 3 and len(train) == 3 * len(plain['train'])
    assert train.months.tolist() == plain['train'].months.tolist() * 3
    last = train.arrays([len(train) - 1])['image']
    assert (last == plain['train'].arrays([len(plain['train']) - 1])['image']).all()
    for name in ('validation', 'holdout'):
        assert repeated[name].ids == plain[name].ids


LABELS = {
    'train': {
        'ids': [f'{i}' for i in range(40)],
        'months': np.arange(40.0),
        'male': np.arange(40) % 2 == 0,
        'groups': [''] * 40,
    }
}


def test_a_named_holdout_stays_out_of_the_others(capsys):
    cut = splits.derive(LABELS, validation=6, holdout=99, seed=0, holdout_ids={'3', '17', 'other'})
    assert cut['holdout'][1].tolist() == [3, 17]
    assert 'data.holdout_ids: 2 of its 3 ids are training images' in capsys.readouterr().err
    assert len(cut['validation'][1]) == 6
    everything = np.concatenate([positions for _, positions in cut.values()])
    assert sorted(everything.tolist()) == list(range(40))


def test_a_named_holdout_that_is_of_other_images_is_refused():
    with pytest.raises(SplitError, match=re.escape('none of its 1 ids (first: x9)')):
        splits.derive(LABELS, validation=6, holdout=0, seed=0, holdout_ids={'x9'})


def test_a_file_of_ids(data):
    (data / 'ids.txt').write_text('# of people\n1378\n\n 1380 \n')
    assert records.holdout_ids(config(holdout_ids='ids.txt').data) == {'1378', '1380'}
    assert records.holdout_ids(config().data) is None
    for coding in ('utf-8-sig', 'utf-16'):
        (data / 'ids.txt').write_text('1378\n"1380"\n', encoding=coding)
        assert records.holdout_ids(config(holdout_ids='ids.txt').data) == {'1378', '1380'}
    (data / 'ids.txt').write_bytes(b'PK\3\4\0\0')
    with pytest.raises(DataError, match=r'ids\.txt: not a text file'):
        records.holdout_ids(config(holdout_ids='ids.txt').data)
    (data / 'ids.csv').write_text('id;boneage;male\n1378;94;True\n1380;120;False\n')
    assert records.holdout_ids(config(holdout_ids='ids.csv').data) == {'1378', '1380'}
    (data / 'ids.csv').write_text('picture,boneage\n1378,94\n')
    with pytest.raises(DataError, match=r"ids\.csv: a table needs a column 'id'.*picture, boneage"):
        records.holdout_ids(config(holdout_ids='ids.csv').data)
    (data / 'ids.txt').write_text('# none\n')
    with pytest.raises(ConfigError, match=r'ids\.txt: no ids in it'):
        records.holdout_ids(config(holdout_ids='ids.txt').data)


def test_the_ids_that_come_with_the_configs_are_found_from_anywhere(data, monkeypatch):
    monkeypatch.chdir(data)
    assert len(records.holdout_ids(config(holdout_ids='hands_holdout.txt').data)) == 410
