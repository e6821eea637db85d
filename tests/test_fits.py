"""Programs compiled for accelerators that are not here: targets, HLO, arithmetic, words."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boneage_jax import cli
from boneage_jax import config as c
from boneage_jax import fits as command
from boneage_jax.accelerators import (
    audit,
    fits,
    hlo,
    operations,
    roofline,
    targets,
    topology,
    words,
)
from boneage_jax.accelerators import compile as compile_lib
from boneage_jax.errors import UserError
from boneage_jax.models import cpu, layers
from boneage_jax.runs import predictor
from boneage_jax.runtime import target as target_lib

# A convolution on cuDNN, a fusion that gathers rows of a resident array, one that updates in place,
# a loop of three turns with a copy, a collective; names and attributes as XLA prints them.
GPU = """
HloModule jit_train_step, is_scheduled=true

%gathering (param_0: u8[100,64,64], param_1: s32[4]) -> bf16[4,64,64] {
  %param_0 = u8[100,64,64]{2,1,0} parameter(0)
  %param_1 = s32[4]{0} parameter(1)
  %gather.1 = u8[4,64,64]{2,1,0} gather(%param_0, %param_1), offset_dims={1,2}
  ROOT %convert.1 = bf16[4,64,64]{2,1,0} convert(%gather.1)
}

%updating (param_0.1: f32[8,1024], param_1.1: f32[1,1024], param_2: s32[]) -> f32[8,1024] {
  %param_0.1 = f32[8,1024]{1,0} parameter(0)
  %param_1.1 = f32[1,1024]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  ROOT %update = f32[8,1024]{1,0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2, %param_2)
}

%moving (param_0.2: bf16[4,64,64]) -> bf16[4,64,64] {
  %param_0.2 = bf16[4,64,64]{2,1,0} parameter(0)
  ROOT %transpose.1 = bf16[4,64,64]{1,2,0} transpose(%param_0.2), dimensions={0,1,2}
}

%body (arg: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %arg = (s32[], f32[1024]{0}) parameter(0)
  %count = s32[] get-tuple-element(%arg), index=0
  %value = f32[1024]{0} get-tuple-element(%arg), index=1
  %copy.1 = f32[1024]{0} copy(%value)
  ROOT %out = (s32[], f32[1024]{0}) tuple(%count, %copy.1)
}

%condition (arg.1: (s32[], f32[1024])) -> pred[] {
  %arg.1 = (s32[], f32[1024]{0}) parameter(0)
  ROOT %false = pred[] constant(false)
}

ENTRY %main (a: u8[100,64,64], b: s32[4], k: bf16[3,3,16,32], m: f32[8,1024]) -> f32[1024] {
  %a = u8[100,64,64]{2,1,0} parameter(0)
  %b = s32[4]{0} parameter(1)
  %k = bf16[3,3,16,32]{3,2,1,0} parameter(2)
  %m = f32[8,1024]{1,0} parameter(3)
  %row = f32[1,1024]{1,0} constant({...})
  %place = s32[] constant(2)
  %fusion.1 = bf16[4,64,64]{2,1,0} fusion(%a, /*index=1*/%b), kind=kLoop, calls=%gathering
  %fusion.2 = f32[8,1024]{1,0} fusion(%m, %row, %place), kind=kLoop, calls=%updating
  %fusion.3 = bf16[4,64,64]{1,2,0} fusion(%fusion.1), kind=kLoop, calls=%moving
  %x = bf16[4,16,16,16]{3,2,1,0} bitcast(%fusion.3)
  %conv = (bf16[4,16,16,32]{3,2,1,0}, u8[256]{0}) custom-call(%x, %k), window={size=3x3}, \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(train_step)/conv" stack_frame_id=1}
  %start = (s32[], f32[1024]{0}) tuple(%place, %row)
  %loop = (s32[], f32[1024]{0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %sum = f32[1024]{0} get-tuple-element(%loop), index=1
  %ar = f32[1024]{0} all-reduce-start(%sum), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %map = f32[4,256,512]{2,1,0} broadcast(%ar), metadata={op_name="jit(train_step)/norm"}
  ROOT %done = f32[1024]{0} all-reduce-done(%ar)
}
"""
TPU = """
ENTRY %main.1 (w.1: bf16[3,3,32,32], x.1: f32[4,512,512,1]) -> bf16[4,60,200] {
  %w.1 = bf16[3,3,32,32]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %x.1 = f32[4,512,512,1]{2,3,1,0:T(8,128)} parameter(1)
  %copy-start = (bf16[3,3,32,32]{3,2,1,0:T(8,128)(2,1)S(1)}, \
bf16[3,3,32,32]{3,2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%w.1)
  %copy-done = bf16[3,3,32,32]{3,2,1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %convolution.1 = f32[4,512,512,32]{3,0,2,1:T(8,128)S(1)} convolution(%x.1, %copy-done), \
window={size=3x3}, \
backend_config={"flag_configs":[],"estimated_cycles":"16128"}
  ROOT %copy.7 = bf16[4,60,200]{2,1,0:T(8,128)(2,1)} copy(%convolution.1), \
backend_config={"estimated_cycles":"600"}
}
"""


def test_instructions_are_read():
    module = hlo.parse(GPU)
    assert module.entry == 'main' and set(module.computations) == {
        'gathering',
        'updating',
        'moving',
        'body',
        'condition',
        'main',
    }
    conv = module.computations['main']['conv']
    assert conv.opcode == 'custom-call' and conv.operands == ('x', 'k')
    assert conv.custom_target == '__cudnn$convForward' and conv.source == 'jit(train_step)/conv'
    assert [shape.bytes for shape in conv.shapes] == [4 * 16 * 16 * 32 * 2, 256]
    fusion = module.computations['main']['fusion.1']
    assert fusion.operands == ('a', 'b') and fusion.called == ('gathering',)
    loop = module.computations['main']['loop']
    assert loop.trips == 3 and loop.called == ('body',)
    assert module.root('moving').opcode == 'transpose'
    ran = [(part.name, times) for _, part, times in module.executed() if part.opcode == 'copy']
    assert ran == [('copy.1', 3)]


def test_operands_with_their_shapes_before_them():
    text = 'ENTRY %e (a: f32[2,3]) -> f32[2,3] {\n  %a = f32[2,3]{1,0} parameter(0)\n'
    text += '  ROOT add.1 = f32[2,3]{1,0} add(f32[2,3]{1,0} %a, f32[2,3]{1,0} %a)\n}\n'
    (_, add) = hlo.parse(text).computations['e'].values()
    assert add.operands == ('a', 'a') and add.is_root and add.shapes[0].sides == (2, 3)


def test_tiles_pad_what_is_stored():
    """T(8,128): the fastest axis is padded to 128 elements, the next to 8."""
    (shape,) = hlo.shapes('f32[4,512,512,1]{3,2,1,0:T(8,128)}')
    assert shape.bytes == 4 * 512 * 512 * 4
    assert shape.stored_bytes == 128 * shape.bytes
    (kept,) = hlo.shapes('bf16[4,60,200]{2,1,0:T(8,128)(2,1)S(1)}')
    assert kept.stored_bytes == 4 * 64 * 256 * 2 and kept.space == 1
    (flat,) = hlo.shapes('pred[3,5]{1,0}')
    assert (flat.bytes, flat.stored_bytes, flat.space) == (15, 15, 0)


def test_bytes_moved():
    """A fusion that gathers reads its rows, one that updates in place writes the update."""
    moved = {part.name: size for part, size in audit.movers(hlo.parse(GPU))}
    rows = 4 * 64 * 64
    assert moved == {
        'fusion.1': rows + 4 * 4 + 2 * rows,
        'fusion.2': 4 * 1024 + 4 + 4 * 1024,
        'fusion.3': 2 * 2 * rows,
        'conv': 2 * rows + 2 * 9 * 16 * 32 + 2 * 4 * 16 * 16 * 32 + 256,
        'copy.1': 3 * 2 * 4 * 1024,
        'ar': 2 * 4 * 1024,
        'map': 4 * 1024 + 4 * 4 * 256 * 512,
    }
    assert audit.moved_bytes(hlo.parse(GPU)) == sum(moved.values())


def test_memory_on_the_chip_moves_nothing():
    moved = {part.name: size for part, size in audit.movers(hlo.parse(TPU))}
    kernel = 3 * 3 * 32 * 128 * 2
    image = 4 * 512 * 8 * 512 * 4  # one channel, padded to eight
    assert moved == {
        'copy-start': kernel,
        'convolution.1': image,
        'copy.7': 4 * 64 * 256 * 2,
    }
    assert audit.estimated_cycles(hlo.parse(TPU)) == 16728


def test_what_is_computed_by_whom():
    cudnn = audit.Product('convolution', 'cuDNN', 'bf16')
    assert audit.products(hlo.parse(GPU)) == {cudnn: 1}
    assert audit.products(hlo.parse(TPU)) == {audit.Product('convolution', 'XLA', 'bf16*f32'): 1}
    dot = '  %d = f32[8,8]{1,0} dot(%a, %b)\n  %a = f32[8,4]{1,0} parameter(0)\n'
    dot += '  %g = f32[8,8]{1,0} custom-call(%a), custom_call_target="__cublas$gemm"\n'
    assert audit.products(hlo.parse(dot)) == {
        audit.Product('product', 'XLA', 'f32'): 1,
        audit.Product('product', 'cuBLAS', 'f32'): 1,
    }


def test_copies_maps_and_collectives():
    module = hlo.parse(GPU)
    assert [(part.name, size) for part, size in audit.copies(module)] == [
        ('fusion.3', 4 * 4 * 64 * 64),
        ('copy.1', 3 * 2 * 4096),
    ]
    assert [(part.name, shape.bytes) for part, shape in audit.float32_maps(module)] == [
        ('map', 4 * 4 * 256 * 512)
    ]
    assert audit.collectives(module) == [('all-reduce', 4096)]
    assert audit.wire_bytes('all-reduce', 4096, 2) == 4096


def test_collectives_of_several_arrays_at_once():
    """All of a state's shares are gathered together: operands first, then results."""
    text = """
ENTRY %e (a: f32[2,3], b: bf16[4]) -> f32[16,3] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = bf16[4]{0} parameter(1)
  %g = ((f32[2,3]{1,0}, bf16[4]{0}), (f32[16,3]{1,0}, /*index=1*/bf16[32]{0})) \
all-gather-start(%a, %b), channel_id=1, dimensions={0}
  %d = (f32[16,3]{1,0}, bf16[32]{0}) all-gather-done(%g)
  %s = (f32[16,3]{1,0}, f32[2,3]{1,0}) reduce-scatter-start(%r), dimensions={0}
  %r = f32[16,3]{1,0} get-tuple-element(%d), index=0
}
""".replace('\\\n', '')
    module = hlo.parse(text)
    gathered = 16 * 3 * 4 + 32 * 2
    assert audit.collectives(module) == [('all-gather', gathered), ('reduce-scatter', 2 * 3 * 4)]
    moved = {part.name: size for part, size in audit.movers(module)}
    assert moved == {'g': 2 * 3 * 4 + 4 * 2 + gathered, 's': 16 * 3 * 4 + 2 * 3 * 4}


def test_what_is_forbidden():
    assert audit.forbidden(hlo.parse(GPU), 'bfloat16') == []
    bad = """
ENTRY %e (a: f32[4,8,8,16]) -> f64[4] {
  %a = f32[4,8,8,16]{3,2,1,0} parameter(0)
  %k = f32[3,3,16,16]{3,2,1,0} constant({...})
  %c = f32[4,8,8,16]{3,2,1,0} convolution(%a, %k), window={size=3x3}
  %s = f32[4,8,8,16]{3,2,1,0} select-and-scatter(%a, %c, %c), select=%ge, scatter=%add
  %t = f32[4,8,8,16]{3,2,1,0} scatter(%a, %i, %c), metadata={op_name="jit(f)/select_and_scatter"}
  %u = f32[4,8,8,16]{3,2,1,0} scatter(%a, %i, %c), metadata={op_name="jit(f)/scatter-add"}
  %h = f32[4]{0} custom-call(%a), custom_call_target="xla_ffi_python_cpu_callback"
  %o = token[] outfeed(%a, %h)
  ROOT %w = f64[4]{0} convert(%h)
}
"""
    found = audit.forbidden(hlo.parse(bad), 'bfloat16')
    assert [line.split(':')[0] for line in found] == [
        '1 x outfeed',
        '2 x select-and-scatter',
        '1 x float64',
        '1 x a call of Python',
        '1 x a convolution in float32 that nobody asked for',
    ]
    assert len(audit.forbidden(hlo.parse(bad), 'float32')) == 4


def test_operations_of_a_convolution_and_its_gradients():
    """Each takes what the forward pass takes, whatever the stride."""
    x = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((3, 3, 8, 32), jnp.bfloat16)

    def loss(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        return y.astype(jnp.float32).sum()

    forward = 2 * (2 * 8 * 8 * 32) * (3 * 3 * 8)
    count = operations.products(jax.make_jaxpr(loss)(x, kernel).jaxpr)
    assert count == {'bfloat16': forward}
    both = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel)
    # That of the input is counted over 16x16 places of which a quarter meets no zero.
    assert operations.products(both.jaxpr) == {'bfloat16': 3 * forward}

    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=5)[0]

    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert operations.products(jax.make_jaxpr(loop)(square).jaxpr) == {'float32': 5 * 2 * 64}


def test_targets():
    assert targets.parse('h100') == targets.Target('h100', targets.CHIPS['h100'], 1)
    assert targets.parse('H100:8').count == 8
    assert (targets.parse('v5e:8').count, targets.parse('v5e:8').shape) == (8, '2x4')
    assert (targets.parse('v5e:2x4').count, targets.parse('v5p:2x2x1').shape) == (8, '2x2x1')
    assert targets.parse('v5e:2x4').title == '8 (2x4) x TPU v5e'
    for text, words_of_it in {
        'h10': 'did you mean h100?',
        'tpu': 'Known are a100-40, a100-80, h100, h200, b200, l4, v5e, v5p, v6e',
        'h100:2x4': 'write h100:8',
        'v5e:3': '1, 4, 8, 16',
        'v5e:0': 'a number after the colon',
        'h100:': None,
    }.items():
        if words_of_it is None:
            assert targets.parse(text).count == 1
            continue
        with pytest.raises(UserError) as error:
            targets.parse(text)
        assert words_of_it in str(error.value) and text in str(error.value)


def test_every_chip_has_plausible_figures():
    for name, chip in targets.CHIPS.items():
        assert chip.source and 100 < chip.bfloat16 / chip.bandwidth < 700, name
        assert 10e9 < chip.links < chip.bandwidth < chip.bfloat16
        assert chip.float32 < chip.bfloat16 and 15 * 2**30 < chip.memory < 192 * 2**30
    text = topology.target_config(targets.CHIPS['h100'])
    assert 'major: 9 minor: 0' in text and 'core_count: 132' in text
    assert text.count('{') == text.count('}')


def test_least_time():
    """989 TFLOP/s, 3.35 TB/s and 450 GB/s a direction are the H100's."""
    target = targets.parse('h100:2')
    found = roofline.times(
        {'bfloat16': 2 * 989 * 10**9, 'float32': 0}, 3_350_000, 900_000, target, 2
    )
    np.testing.assert_allclose(
        [found['compute'], found['memory'], found['links']], [1e-3, 1e-6, 2e-6]
    )


def test_whether_it_fits():
    gpu = targets.CHIPS['h100']
    tpu = targets.CHIPS['v5e']
    assert roofline.verdict(int(0.7 * gpu.memory), gpu) == 'yes'
    assert 'XLA_PYTHON_CLIENT_MEM_FRACTION=0.95' in roofline.verdict(int(0.9 * gpu.memory), gpu)
    assert roofline.verdict(int(0.96 * gpu.memory), gpu) == 'no'
    assert (
        roofline.verdict(tpu.memory, tpu) == 'yes' and roofline.verdict(tpu.memory + 1, tpu) == 'no'
    )


@pytest.mark.parametrize('start', [16, 96])
def test_largest_batch(start):
    """Memory of 100 + 10 a image in 1000: 90 images, 88 in multiples of eight."""
    compiled = []

    def total_of(size):
        compiled.append(size)
        return 100 + 10 * size

    size, known = roofline.largest_batch(
        total_of, {start: 100 + 10 * start}, limit=1000, unit=8, at_most=10**6
    )
    assert size == 88 and len(compiled) <= roofline.COMPILES
    assert set(known) == {start, *compiled} and known[88] == 980


def test_largest_batch_where_memory_bends():
    def bent(size):
        return 10 * size if size <= 32 else 320 + 30 * (size - 32)

    size, known = roofline.largest_batch(bent, {16: 160}, limit=1000, unit=1, at_most=500)
    assert bent(size) <= 1000 and size >= 50 and all(found <= 500 for found in known)
    assert roofline.largest_batch(bent, {16: 160}, limit=1000, unit=1, at_most=24)[0] == 24
    assert roofline.largest_batch(lambda _: 10, {8: 9}, limit=5, unit=8, at_most=64)[0] == 0


def test_what_depends_on_the_platform_can_be_told_another():
    config = c.load('configs/prsnet.py:tiny,row=baseline')[1]
    x = jnp.zeros((1, 8, 8, 4))
    pool = functools.partial(cpu.max_pool, size=3, stride=2, padding=1)
    here = str(jax.make_jaxpr(pool)(x))
    assert target_lib.platform() == 'cpu'
    with target_lib.compiling_for('cuda'):
        assert target_lib.platform() == 'cuda'
        there = str(jax.make_jaxpr(lambda x: pool(x))(x))
        model = nnx.eval_shape(lambda: predictor.build_model(config))
        product = str(jax.make_jaxpr(lambda x: layers.conv(4, 4, 1, rngs=nnx.Rngs(0))(x))(x))
    assert target_lib.platform() == 'cpu' and 'conv_general_dilated' in product
    assert here and there
    kinds = {module.dtype for _, module in nnx.iter_modules(model) if isinstance(module, nnx.Conv)}
    assert kinds == {jnp.dtype('bfloat16')}


@pytest.fixture
def here(monkeypatch):
    """This machine's CPUs in the place of a target's devices."""
    monkeypatch.setattr(topology, 'devices', lambda target: jax.devices()[: target.count])
    cpus = targets.Tpu(
        'some CPUs', 'cpu', 2**34, 1e11, 1e12, 1e12, 1e10, 'made up', shapes={2: '1x2'}
    )
    monkeypatch.setitem(targets.CHIPS, 'cpus', cpus)


def test_figures_of_a_run(here):
    """The run's own programs, compiled for two of this machine's CPUs."""
    config = c.load('configs/prsnet.py:tiny,row=baseline,sharding=fsdp,dtype=bfloat16')[1]
    names = ('training step', 'one image')
    figures = fits.fits(config, 'cpus:2', images=100, largest=False, names=names)
    train = figures['programs']['training step']
    predict = figures['programs']['one image']
    assert figures['run']['dtype'] == 'bfloat16' and tuple(figures['programs']) == names
    assert figures['run']['resident_bytes'] == 100 * (64 * 64 + 4 + 1)
    assert train['fits'] == 'yes' and train['images'] == config.batch_size
    memory = train['memory']
    assert memory['total'] == sum(
        memory[part] for part in memory if part not in ('total', 'refused')
    )
    # Parameters alone for one image; beside them the optimiser's memory, both of which are shared.
    assert 1 < memory['state'] / predict['memory']['state'] < 1.2
    assert memory['batch'] >= config.batch_size // 2 * 64 * 64
    assert train['collectives'] and train['sent_bytes'] > 0 and not predict['collectives']
    per_image = train['operations']['bfloat16'] / config.batch_size
    assert 2.5 < per_image / predict['operations']['bfloat16'] < 3.1  # forward, and two gradients
    assert train['least_seconds'] == max(train['seconds'].values())
    text = words.report(json.loads(json.dumps(figures)))
    assert 'Every figure is a compiler' in text and '2 (1x2) x some CPUs' in text
    assert 'training step, 8 images' in text or f'{config.batch_size} images' in text


def test_resident_images_are_counted_where_they_stay(here):
    """In evaluation too: the images that are trained on stay on the device."""
    found = {}
    for placement in ('host', 'device'):
        spec = f'configs/prsnet.py:tiny,row=baseline,placement={placement}'
        names = ('evaluation step',)
        figures = fits.fits(c.load(spec)[1], 'cpus', images=50, largest=False, names=names)
        found[placement] = figures['programs']['evaluation step']['memory']
    assert found['host']['resident'] == 0
    assert found['device']['resident'] == 50 * (64 * 64 + 4 + 1)
    assert found['device']['total'] - found['host']['total'] == found['device']['resident']
    run = compile_lib.Run(
        c.load('configs/prsnet.py:tiny,row=baseline')[1],
        targets.parse('cpus'),
        jax.devices()[:1],
        images=50,
    )
    assert set(run._batch(4, kept=run._resident())) == {'index', 'valid'}


def test_clear_refusals(here, monkeypatch):
    with pytest.raises(UserError, match='trains on the host'):
        fits.fits(c.load('configs/attention.py:tiny,trainer=classical')[1], 'cpus')
    config = c.load('configs/prsnet.py:tiny,batch_size=6,row=baseline')[1]
    monkeypatch.setitem(targets.CHIPS['cpus'].shapes, 4, '2x2')
    with pytest.raises(UserError, match='batch_size=6 does not divide over 4 devices'):
        fits.fits(config, 'cpus:4')
    with pytest.raises(UserError, match='unknown'):
        command.main(['fits', '--config=configs/prsnet.py:tiny', '--target=v9'])


def test_missing_wheels_are_named(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(sys, 'version_info', (3, 12, 1))
    with pytest.raises(UserError, match=r'libtpu; versions in requirements-aot\.lock'):
        topology.devices(targets.parse('v5e'))
    with pytest.raises(UserError, match=r'jax-cuda12-plugin.*requirements-aot\.lock'):
        topology.devices(targets.parse('h100'))
    monkeypatch.setattr(sys, 'version_info', (3, 11, 7))
    with pytest.raises(UserError, match='Python 3.12 or 3.13'):
        topology.devices(targets.parse('h100'))


@pytest.mark.parametrize(
    'message, expected',
    [
        (
            'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.',
            int(20.5 * 2**30),
        ),
        ('RESOURCE_EXHAUSTED: Out of memory', 10**6 * 2**30),
        ('INVALID_ARGUMENT: no such thing', 0),
    ],
)
def test_programs_that_are_too_large(message, expected):
    assert compile_lib._refused(message) == expected


def test_what_the_compiler_refuses_is_said(here, monkeypatch):
    """Too large: how much it would need. Anything else: which program, and the reason."""
    config = c.load('configs/prsnet.py:tiny,row=baseline')[1]

    class Refusing:
        message = ''

        def compile(self):
            raise jax.errors.JaxRuntimeError(self.message)

    monkeypatch.setattr(compile_lib.Run, '_lowered', lambda self, traced: Refusing())
    Refusing.message = 'INTERNAL: no such instruction\nmore'
    names = ('training step',)
    with pytest.raises(UserError, match='training step of 4 images cannot be compiled'):
        fits.fits(config, 'cpus', largest=False, names=names)
    Refusing.message = 'RESOURCE_EXHAUSTED: Ran out of memory: Used 20.5G of 15G hbm'
    figures = fits.fits(config, 'cpus', names=names)
    assert figures['programs']['training step']['memory']['total'] == int(20.5 * 2**30)
    assert figures['largest_batch']['size'] == 0
    text = words.report(figures)
    assert 'fits: no; the compiler refuses it: it would need 22 GB' in text
    assert 'none of those compiled fits' in text


def test_help_names_the_targets(capsys):
    with pytest.raises(SystemExit):
        command.main(['fits', '--help'])
    shown = capsys.readouterr().out
    assert all(name in shown for name in targets.CHIPS) and 'Nothing is run' in shown
    assert isinstance(command.FLAGS, cli.Flags)
