"""Our networks beside the same ones in PyTorch: features, losses, gradients and running statistics
agree.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

torch = pytest.importorskip('torch')

from benchmarks import torch_resnet  # noqa: E402
from boneage_jax import config as config_lib  # noqa: E402
from boneage_jax import models, tasks  # noqa: E402
from boneage_jax.data import augment  # noqa: E402
from boneage_jax.runs import state as state_lib  # noqa: E402
from boneage_jax.training import step as step_lib  # noqa: E402

pytestmark = pytest.mark.parity

WIDTH = 8
STILL = {name: 'zero' if name == 'fill' else 0.0 for name in augment.OPTIONS}
CENTRE, SCALE = 127.0, 41.0


def perturbed(model, seed=1):
    """The model with norms and batch statistics far from their initial ones and zeros: each must
    count.
    """
    draw = np.random.default_rng(seed)
    ranges = {'var': (0.5, 2.0), 'scale': (0.5, 1.5), 'mean': (-0.3, 0.3), 'bias': (-0.3, 0.3)}
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    for path, leaf in nnx.to_flat_state(state):
        if path[-1] in ranges:
            leaf[...] = jnp.asarray(draw.uniform(*ranges[path[-1]], leaf.shape), jnp.float32)
    nnx.update(model, state)
    return model


def torch_twin(model, network):
    return torch_resnet.load(
        network, nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    )


def nchw(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy())


def close(ours, theirs, relative):
    """Whether arrays agree within `relative` of the largest value: both frameworks sum in float32,
    in another order.
    """
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


@pytest.mark.parametrize('name, size', [('resnet18', (96, 80)), ('resnet34', (100, 100))])
def test_features_and_logits_agree(name, size):
    model = perturbed(models.build(name, width=WIDTH, num_outputs=7))
    model.eval()
    network = torch_twin(model, torch_resnet.ResNet(name, width=WIDTH, num_outputs=7)).eval()
    image = np.random.default_rng(0).normal(size=(3, *size, 3)).astype(np.float32)
    maps, logits = nnx.jit(lambda model, x: (model.stages(x), model(x)))(model, image)
    with torch.no_grad():
        for ours, theirs in zip(maps, network.stages(nchw(image)), strict=True):
            close(ours, theirs, 1e-4)
        close(logits, network(nchw(image)), 1e-4)


@pytest.mark.parametrize('name', ['resnet18', 'resnet34'])
def test_parameter_counts_agree(name):
    def ours(name, **options):
        model = nnx.eval_shape(lambda: models.build(name, **options))
        return sum(np.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))

    with torch.device('meta'):
        networks = torch_resnet.ResNet(name), torch_resnet.AgeModel(name, width=32)
    theirs = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert [ours(name), ours('prsnet', backbone=name, width=32)] == theirs


@pytest.mark.parametrize('name, size', [('resnet34', (96, 80))])
def test_one_training_step_of_the_age_model_agrees(name, size):
    """Prediction before it, loss, gradients, running statistics after it; standardisation and sex
    included.
    """
    draw, count = np.random.default_rng(2), 4
    model = perturbed(models.build('prsnet', backbone=name, width=WIDTH))
    network = torch_twin(model, torch_resnet.AgeModel(name, width=WIDTH))
    before = {name: x.detach().clone() for name, x in network.state_dict().items()}
    batch = {
        'image': draw.integers(0, 256, (count, *size, 1)).astype(np.uint8),
        'valid': np.ones(count, bool),
        'months': draw.uniform(10, 220, count).astype(np.float32),
        'male': np.array([True, False, False, True]),
    }
    task = tasks.build(
        config_lib.build(
            {**config_lib.base(), 'task': {'name': 'age', 'loss': 'l2'}}, None, {}
        ).task,
        {'centre': CENTRE, 'scale': SCALE},
    )
    # Plain gradient descent at rate 1: the parameters move by exactly their gradients.
    state, graphdefs = state_lib.create_state(model, optax.sgd(1.0))
    images, male = nchw(batch['image'] / np.float32(255)), torch.tensor(batch['male'])

    scored = jax.jit(step_lib.make_eval_step(graphdefs, task))(state, batch, {})
    with torch.no_grad():
        close(scored['columns']['prediction'], network.eval()(images, male) * SCALE + CENTRE, 1e-4)

    after, metrics = jax.jit(step_lib.make_train_step(graphdefs, task, optax.sgd(1.0), STILL))(
        state, batch, {}, jax.random.key(0)
    )
    target = torch.tensor((batch['months'] - CENTRE) / SCALE)
    loss = torch.nn.functional.mse_loss(network.train()(images, male), target)
    loss.backward()
    close(metrics['loss'][0] / metrics['loss'][1], loss, 1e-3)
    gradients = torch_resnet.convert(
        jax.tree.map(lambda a, b: np.asarray(a - b), state.params, after.params)
    )
    theirs = {name: p.grad.numpy() for name, p in network.named_parameters()}
    assert gradients.keys() == theirs.keys()
    for name, gradient in theirs.items():
        np.testing.assert_allclose(
            gradients[name], gradient, rtol=0, atol=1e-3 * np.abs(gradient).max(), err_msg=name
        )

    # PyTorch normalises with the biased variance but keeps the unbiased one, n / (n - 1) times as
    # large; Flax keeps the biased one it used. n is the number of values of a channel in the batch:
    # images times rows times columns.
    values = channel_counts(network, size, count)
    for name, ours in torch_resnet.convert(after.batch_stats).items():
        kept, new = 0.9 * before[name].numpy(), network.state_dict()[name].numpy()
        n = values[name.rpartition('.')[0]]
        expected = kept + (ours - kept) * (n / (n - 1) if name.endswith('running_var') else 1)
        np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        if name.endswith('layer4.1.bn2.running_var'):  # few enough values that the correction shows
            assert not np.allclose(new, ours, rtol=1e-4, atol=1e-5)


def channel_counts(network, size, count):
    """`{name of a batch norm: values of a channel that it sees}`."""
    seen, hooks = {}, []
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            hooks.append(
                module.register_forward_hook(
                    lambda module, inputs, output, name=name: seen.update(
                        {name: inputs[0].numel() // inputs[0].shape[1]}
                    )
                )
            )
    with torch.no_grad():
        network.eval()(torch.zeros(count, 1, *size), torch.zeros(count, dtype=torch.bool))
    for hook in hooks:
        hook.remove()
    return seen


def test_a_network_that_lacks_arrays_is_refused():
    tree = nnx.to_pure_dict(nnx.state(models.build('resnet18', width=WIDTH, channels=1), nnx.Param))
    with pytest.raises(ValueError, match='running_mean'):
        torch_resnet.load(torch_resnet.ResNet('resnet18', width=WIDTH, channels=1), tree)
