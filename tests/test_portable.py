"""Networks in files that run elsewhere: StableHLO and ONNX give the age that `predict` gives."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CLASSIFIER, KEYPOINTS, PRSNET
from PIL import Image

from boneage_jax import export as export_command
from boneage_jax.inference import ages, export, hub, intervals, members
from boneage_jax.preprocess import resize
from boneage_jax.runs import exported, initialize, shipped, workdir
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runtime import tensors
from tfds_rsna.errors import UserError
from tfds_rsna.io import decoding

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'examples'))

# (rows, columns): tall, wide, small, one that is averaged first along one side or both, thin ones.
SHAPES = [
    (300, 211),
    (211, 300),
    (30, 41),
    (1201, 900),
    (1400, 640),
    (700, 90),
    (64, 64),
    (900, 31),
]
HALF = {'female': 11.5, 'male': 300.25}  # months
INTERVALS = {
    'intervals': intervals.document(intervals.Intervals(0.9, HALF, dict.fromkeys(HALF, 20)), {})
}
MOST = 0.002  # months between a file's age and `predict`'s


@functools.cache
def onnx_modules():
    """(boneage_jax.inference.onnx_operations, onnxruntime, examples/bone_age.py), or a skip."""
    try:
        import bone_age
        import onnxruntime

        from boneage_jax.inference import onnx_operations
    except ImportError as error:
        if os.environ.get('BONEAGE_REQUIRE_ONNX') == '1':
            raise
        pytest.skip(f"{error}; pip install '.[onnx]'")
    return onnx_operations, onnxruntime, bone_age


def images():
    generator = np.random.default_rng(0)
    found = []
    for rows, columns in SHAPES:
        waves = np.add.outer(np.sin(np.arange(rows) / 17), np.cos(np.arange(columns) / 23))
        noise = generator.normal(0, 30, (rows, columns))
        found.append(np.clip(60 * waves + 120 + noise, 0, 255).astype(np.uint8))
    return found


def expected(place, image, male):
    """(the age in months, what the network sees) as `predict` has them."""
    predictor = opened(place)
    data = predictor.config.data
    seen = resize.resize({'image': image}, tuple(data.size), data.resize)['image']
    months, _, _ = members.ages(predictor, seen[None], [male])
    return months[0], seen[..., 0]


@functools.cache
def opened(place):
    return predictor_lib.Predictor(place)


@pytest.fixture(scope='module')
def files(finished_run, tmp_path_factory):
    """`files(spec, format_name)`: (the run as safetensors, with intervals, and in that format)."""
    folder = tmp_path_factory.mktemp('portable')
    made = {}

    def make(spec, format_name):
        if (spec, format_name) not in made:
            place = folder / f'{format_name}{len(made)}' / 'network.safetensors'
            place.parent.mkdir(exist_ok=True)
            place.unlink(missing_ok=True)
            path = place.with_suffix(f'.{format_name}')
            if spec == shipped.AGES:
                place = shipped.ages()
            else:
                export.export(finished_run(spec), place, embeddings=False)
                # A tiny run has too few images for intervals.
                tensors.write(place, tensors.read(place)[0], tensors.metadata(place) | INTERVALS)
            export.export(place, path, format_name=format_name)
            made[spec, format_name] = place, path
        return made[spec, format_name]

    return make


@pytest.mark.parametrize('spec', [PRSNET, shipped.AGES])
def test_onnx_gives_the_age_of_any_native_image(files, spec):
    _, _, bone_age = onnx_modules()
    run, path = files(spec, 'onnx')
    model = bone_age.BoneAge(path, threads=1)
    ages = []
    for number, image in enumerate(images()):
        found = model(image, number % 2 == 0)
        months, seen = expected(run, image, number % 2 == 0)
        np.testing.assert_array_equal(found['seen'], seen)
        assert abs(found['months'] - months) <= MOST
        assert found['lower'] <= found['months'] <= found['upper']
        ages.append(float(months))
    assert max(ages) - min(ages) > 10 * MOST  # or anything would be near enough


def test_the_interval_is_that_of_the_sex(files):
    _, _, bone_age = onnx_modules()
    _, path = files(PRSNET, 'onnx')
    assert json.loads(bone_age.BoneAge(path).about['intervals'])['half'] == HALF
    for male, sex in ((True, 'male'), (False, 'female')):
        found = bone_age.BoneAge(path)(images()[0], male)
        assert float(found['upper'] - found['months']) == pytest.approx(HALF[sex], abs=1e-3)
        lower = max(0, float(found['months']) - HALF[sex])
        assert float(found['lower']) == pytest.approx(lower, abs=1e-3)


def test_what_onnx_says_of_itself(files, finished_run):
    _, _, bone_age = onnx_modules()
    place, path = files(PRSNET, 'onnx')
    about = bone_age.BoneAge(path).about
    run = finished_run(PRSNET)
    assert json.loads(about['config']) == json.loads((run / 'config.json').read_text())
    report = workdir.read_metrics(run)
    assert int(about['step']) == exported.read(place).step and about['kind'] == 'age'
    figures = json.loads(about['figures'])['splits']['holdout']['overall']['mae']['value']
    assert figures == pytest.approx(
        report['splits']['holdout']['overall']['mae']['value'], rel=1e-5
    )
    assert set(json.loads(about['outputs'])) == {'months', 'lower', 'upper', 'seen'}
    assert json.loads(about['preprocessing'])['size'] == [*opened(place).config.data.size]
    assert not {'trained_on', 'selected_by'} & set(about)


SCRIPT = """
import sys
for name in ('boneage_jax', 'tfds_rsna', 'flax', 'orbax'):
    sys.modules[name] = None  # importing it is an error
import numpy as np
from jax import export
loaded = export.deserialize(open(sys.argv[1], 'rb').read())
assert loaded.platforms == ('cpu', 'cuda', 'tpu'), loaded.platforms
for number, image in enumerate(np.load(sys.argv[2]).values()):
    found = loaded.call(image, np.array(number % 2 == 0))
    print(float(found['months']), int(found['seen'].astype('int64').sum()))
"""


def test_stablehlo_runs_with_jax_alone(files, tmp_path):
    run, path = files(PRSNET, 'stablehlo')
    chosen = [images()[i] for i in (0, 4, 7)]
    np.savez(tmp_path / 'images.npz', *chosen)
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, path, tmp_path / 'images.npz'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    for number, (image, (months, greys)) in enumerate(zip(chosen, lines, strict=True)):
        wanted, seen = expected(run, image, number % 2 == 0)
        assert abs(float(months) - wanted) <= MOST and int(greys) == seen.sum()
    about = json.loads(pathlib.Path(f'{path}.json').read_text())
    assert json.loads(about['config']) == exported.read(run).config


def test_half_precision_stays_half(finished_run, tmp_path):
    _, _, bone_age = onnx_modules()
    run = finished_run(PRSNET)
    half = tmp_path / 'half.safetensors'
    export.export(run, half, dtype='float16', embeddings=False)
    sizes = []
    for place in (run, half):
        path = tmp_path / f'{place.name}.onnx'
        export_command.main(
            ['export', f'--workdir={place}', '--format=onnx', f'--output={path}', '--noembeddings']
        )
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.8 * sizes[0]
    image = images()[0]
    found = bone_age.BoneAge(path)(image, True)
    assert abs(found['months'] - expected(half, image, True)[0]) <= MOST


@pytest.mark.parametrize(
    'spec, options, words',
    [
        (PRSNET, {'output': 'a.pt', 'format_name': 'onnx'}, 'a name that ends in .onnx'),
        (PRSNET, {'output': 'no/a.onnx', 'format_name': 'onnx'}, 'no such folder'),
        (PRSNET, {'output': 'there.onnx', 'format_name': 'onnx'}, 'exists already'),
        (PRSNET, {'output': 'there.stablehlo', 'format_name': 'stablehlo'}, 'json: exists already'),
        (PRSNET, {}, 'one of --output .* and --hub'),
        (PRSNET, {'output': 'a.onnx', 'hub': 'a'}, 'one of --output .* and --hub'),
        (PRSNET, {'hub': 'a', 'format_name': 'onnx'}, 'leave out --format=onnx'),
        (PRSNET, {'hub': 'full'}, 'exists already'),
        (KEYPOINTS, {'output': 'a.stablehlo', 'format_name': 'stablehlo'}, 'predicts no ages'),
        (
            PRSNET,
            {'output': 'a.stablehlo', 'format_name': 'stablehlo', 'max_megabytes': 0.01},
            'more than the 0.01 MB',
        ),
    ],
)
def test_exports_that_are_refused(finished_run, tmp_path, monkeypatch, spec, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.onnx').touch()
    (tmp_path / 'there.stablehlo.json').touch()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(UserError, match=words):
        export.export(finished_run(spec), **options, embeddings=False)
    assert sorted(tmp_path.rglob('*')) == before


def test_stages_and_settled_files_are_refused(finished_run, tmp_path):
    run = finished_run(PRSNET)
    path = tmp_path / 'a.safetensors'
    export.export(run, path, embeddings=False)
    with pytest.raises(UserError, match='--dtype: .*a.safetensors is exported already'):
        export.export(path, tmp_path / 'a.onnx', format_name='onnx', dtype='float16')
    with pytest.raises(UserError, match='the stages resize, enhance, which run in Python alone'):
        export.export(
            finished_run(CLASSIFIER),
            tmp_path / 'a.stablehlo',
            format_name='stablehlo',
            embeddings=False,
        )


# The hub


def test_a_hub_folder_opens_like_the_run(finished_run, tmp_path, monkeypatch):
    import yaml

    run = finished_run(PRSNET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'about.json').write_text(json.dumps({'terms': 'research only', 'data': 'phantoms'}))
    export_command.main(
        ['export', f'--workdir={run}', '--hub=net', '--about=about.json', '--noembeddings']
    )
    folder = tmp_path / 'net'
    assert {path.name for path in folder.iterdir()} == {hub.WEIGHTS, hub.CONFIG, hub.CARD}
    card = (folder / hub.CARD).read_text()
    front = yaml.safe_load(card.split('---\n')[1])
    assert front['library_name'] == 'boneage_jax' and 'bone-age' in front['tags']
    report = workdir.read_metrics(run)
    (result,) = [
        each for each in front['model-index'][0]['results'] if each['dataset']['split'] == 'holdout'
    ]
    mae = report['splits']['holdout']['overall']['mae']['value']
    assert result['metrics'][0]['value'] == pytest.approx(mae, rel=1e-5)
    assert '## Terms\n\nresearch only' in card and '--workdir=hf:net' in card
    config = json.loads((folder / hub.CONFIG).read_text())
    assert config['config'] == json.loads((run / 'config.json').read_text())

    for spec in ('hf:net', f'hf:{folder}'):
        assert exported.find(spec).resolve() == folder / hub.WEIGHTS
        assert ages.Networks(spec).places[0].resolve() == folder / hub.WEIGHTS
        assert initialize._file(spec).resolve() == folder / hub.WEIGHTS
    ours = predictor_lib.Predictor(run)
    theirs = predictor_lib.Predictor('hf:net')
    image = np.random.default_rng(0).integers(0, 256, (2, *ours.config.data.size, 1), np.uint8)
    male = np.array([True, False])
    jax.tree.map(np.testing.assert_array_equal, ours(image, male), theirs(image, male))


def test_a_name_that_is_no_folder_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=r'empty holds no model.safetensors'):
        exported.find('hf:empty')
    with pytest.raises(UserError, match=r'hf:none: no such folder here. Expected hf:<folder>'):
        exported.find('hf:none')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    words = 'huggingface_hub is not installed.*Download https://huggingface.co/a/b/.* and put it at'
    with pytest.raises(UserError, match=words):
        predictor_lib.Predictor('hf:a/b')


# The operations of ONNX


def pooled(x):
    window = {'window_dimensions': (1, 3, 3, 1), 'window_strides': (1, 2, 2, 1)}
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, padding='SAME', **window)


def largest(x):
    window = {'window_dimensions': (1, 3, 3, 1), 'window_strides': (1, 2, 2, 1)}
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, padding='SAME', **window)


def convolved(x, groups=1, outputs=8, **options):
    kernel = np.random.default_rng(1).normal(size=(3, 3, 4 // groups, outputs)).astype(np.float32)
    layout = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        options.pop('strides', (1, 1)),
        'SAME',
        dimension_numbers=layout,
        feature_group_count=groups,
        **options,
    )


def two_layers(x):
    scale = np.linspace(-1, 2, 8, dtype=np.float32)[None, None, None]
    x = jnp.minimum(jax.nn.relu((convolved(x) - scale) * scale + 1), 6.0)
    return convolved(x[..., :4]) + convolved(x[..., 4:])


FUNCTIONS = {
    'argmax': lambda x: jnp.argmax(x, axis=3),
    'batched': lambda x: jnp.einsum('bhwc,bkwc->bhk', x, x),
    'clip': lambda x: jnp.clip(x, -0.5, 0.5),
    'dilated': lambda x: convolved(x, rhs_dilation=(2, 2)),
    'gelu': lambda x: jax.nn.gelu(x, approximate=False),
    'grouped': lambda x: convolved(x, groups=2, strides=(2, 2)),
    'largest': largest,
    'long': lambda x: jnp.maximum(jax.lax.floor(x * 1e9).astype(jnp.int64), 3 * 10**9),
    'mean': lambda x: (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True)),
    'padded': lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=7.0),
    'pooled': pooled,
    'power': lambda x: x**3 + jax.nn.elu(x) + jnp.log1p(x**2),
    'remainder': lambda x: jax.lax.rem(x, np.float32(0.3) + 0 * x),
    'reversed': lambda x: x[:, ::-1, 1::2],
    'softmax': lambda x: jax.nn.softmax(x.reshape(2, -1), axis=-1),
    'two layers': two_layers,
    'scalar where': lambda x: jax.lax.select(
        x.sum() > 0, jnp.ones((6, 5)) * x[0, :1, 0, 0], jnp.zeros((6, 5))
    ),
    'where': lambda x: jnp.where((x > 0) & (x != 1), jnp.tanh(x), jax.nn.sigmoid(x)),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_operations_are_those_of_jax(name):
    operations, onnxruntime, _ = onnx_modules()
    x = np.random.default_rng(0).normal(0, 2, (2, 6, 5, 4)).astype(np.float32)
    with jax.enable_x64(name == 'long'), jax.numpy_rank_promotion('allow'):
        closed = jax.make_jaxpr(FUNCTIONS[name])(x)
        wanted = np.asarray(FUNCTIONS[name](x))
    graph = operations.Graph()
    (result,) = operations.convert(graph, closed, ['x'])
    graph.output(result, 'y')
    model = graph.model(
        [('x', 'float32', x.shape)], [('y', wanted.dtype, wanted.shape)], {'a': 'b'}
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {'x': x})
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_convolutions_in_a_row_are_turned_once():
    operations, _, _ = onnx_modules()
    x = np.zeros((2, 6, 5, 4), np.float32)

    def chain(x):
        return jnp.square(convolved(jax.nn.relu(convolved(x, outputs=4))))

    graph = operations.Graph()
    (result,) = operations.convert(graph, jax.make_jaxpr(chain)(x), ['x'])
    graph.output(result, 'y')
    model = graph.model([('x', 'float32', x.shape)], [('y', 'float32', (2, 6, 5, 8))], {})
    found = [node.op_type for node in model.graph.node]
    assert found == ['Transpose', 'Conv', 'Relu', 'Conv', 'Mul', 'Transpose', 'Identity']


def test_an_operation_that_is_not_known_is_named():
    operations, _, _ = onnx_modules()
    closed = jax.make_jaxpr(lambda x: jnp.sort(x))(np.zeros(5000, np.float32))
    with pytest.raises(UserError, match="operation 'sort' of this network is not converted"):
        operations.convert(operations.Graph(), closed, ['x'])


# The reader


def saved(folder, name, pixels, **options):
    path = folder / name
    Image.fromarray(pixels).save(path, **options)
    return path


def pictures(folder):
    """Image files of the kinds that both readers take."""
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (37, 23), np.uint8)
    colours = generator.integers(0, 256, (37, 23, 3), np.uint8)
    solid = np.dstack([colours, np.full((37, 23), 200, np.uint8)])
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        saved(folder, 'grey.png', grey),
        saved(folder, 'grey.jpg', np.sort(grey), quality=90),
        saved(folder, 'colours.png', colours),
        saved(folder, 'solid.png', solid),
        saved(folder, 'twelve_bits.png', generator.integers(0, 4096, (37, 23)).astype(np.uint16)),
        saved(folder, 'sixteen_bits.png', generator.integers(0, 65536, (37, 23)).astype(np.uint16)),
        saved(folder, 'turned.jpg', np.sort(grey), quality=90, exif=turned),
        saved(folder, 'grey.bmp', grey),
    ]


def test_the_reader_decodes_as_predict_does(tmp_path):
    _, _, bone_age = onnx_modules()
    for path in pictures(tmp_path):
        data = path.read_bytes()
        np.testing.assert_array_equal(bone_age.decode(data), decoding.read(data).grey, path.name)
    image = bone_age.decode((tmp_path / 'grey.png').read_bytes())
    found = bone_age.righted(image, inverted=True, turns=1)
    assert found.shape == (23, 37) and found[0, 0] == 255 - image[0, -1]
    with pytest.raises(ValueError, match='save the image as 8 or 16 bits'):
        bone_age._scaled(np.array([[-1, 5]]))


def test_the_reader_as_a_program(files, tmp_path, capsys):
    _, _, bone_age = onnx_modules()
    run, path = files(PRSNET, 'onnx')
    image = images()[0]
    file = saved(tmp_path, 'a.png', image)
    capsys.readouterr()  # of the training
    bone_age.main([str(path), str(file), '--sex=male'])
    line = capsys.readouterr().out
    months, _ = expected(run, image, True)
    assert line.startswith(f'{file}: ') and ' to ' in line
    assert abs(float(line.split(': ')[1].split()[0]) - months) < 0.01
