"""The training step of the reference network in PyTorch, as fast as its switches make it."""

import contextlib

import torch
from flax import nnx

from benchmarks import machine, torch_resnet

CENTRE, SCALE = 127.0, 41.0


def theirs(
    model,
    backbone,
    width,
    depth,
    images,
    name,
    rate,
    decay,
    *,
    dtype,
    channels_last,
    compiled,
    on_gpu,
):
    """`work(steps)` of PyTorch's step from our model's parameters, L1 on normalised ages as in our
    base config.
    """
    torch.set_num_threads(machine.cores())
    torch.backends.cudnn.benchmark = True
    device = 'cuda' if on_gpu else 'cpu'
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError(
            'JAX runs on a GPU and this PyTorch does not see one; install its CUDA build'
        )
    network = (
        torch_resnet.load(
            torch_resnet.AgeModel(backbone, width=width, depth=depth),
            nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat))),
        )
        .to(device)
        .train()
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    groups = [
        {'params': [p for p in network.parameters() if p.ndim > 1], 'weight_decay': decay},
        {'params': [p for p in network.parameters() if p.ndim < 2], 'weight_decay': 0.0},
    ]
    if name == 'adamw':
        optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=True)
    image = (
        torch.tensor(images['image'].transpose(0, 3, 1, 2).copy(), device=device).float().div(255)
    )
    image = image.to(memory_format=layout)
    male = torch.tensor(images['male'], device=device)
    target = (torch.tensor(images['months'], device=device) - CENTRE) / SCALE
    forward = torch.compile(network) if compiled else network
    precision = (
        torch.autocast(device, torch.bfloat16) if dtype == 'bfloat16' else contextlib.nullcontext()
    )

    def work(steps):
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with precision:
                prediction = forward(image, male)
            loss = (prediction.float() - target).abs().mean()
            loss.backward()
            optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        else:
            loss.item()

    return work


def layer(layer, batch, kind, on_gpu):
    """`work(steps)` of a convolution's 'forward' or its gradient of 'input' or 'kernel', or of a
    max-pool with its gradient: channels_last; float32 on a CPU, bfloat16 on a GPU. `layer` as in
    benchmarks.convolutions.
    """
    torch.set_num_threads(machine.cores())
    torch.backends.cudnn.benchmark = True
    place = {'device': 'cuda', 'dtype': torch.bfloat16} if on_gpu else {}

    def normal(*shape):
        return torch.randn(*shape, **place).to(memory_format=torch.channels_last)

    x = normal(batch, layer.inputs, layer.rows, layer.columns)
    strides = [layer.stride] * 2
    pads = list(layer.pads)
    aten = torch.ops.aten
    if kind == 'pool':
        geometry = (list(layer.window), strides, pads, [1, 1], False)
        g = torch.randn_like(aten.max_pool2d_with_indices(x, *geometry)[0])

        def compute():
            return aten.max_pool2d_with_indices_backward(
                g, x, *geometry, aten.max_pool2d_with_indices(x, *geometry)[1]
            )
    else:
        kernel = normal(layer.outputs, layer.inputs // layer.groups, *layer.window)
        geometry = (strides, pads, [1, 1], False, [0, 0], layer.groups)
        g = torch.randn_like(aten.convolution(x, kernel, None, *geometry))
        wanted = [kind == 'input', kind == 'kernel', False]

        def compute():
            return (
                aten.convolution(x, kernel, None, *geometry)
                if kind == 'forward'
                else aten.convolution_backward(g, x, kernel, [0], *geometry, wanted)
            )

    def work(steps):
        for _ in range(steps):
            compute()
        if on_gpu:
            torch.cuda.synchronize()

    return work
