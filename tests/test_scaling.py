"""Collectives read off a compiled program, and what is predicted from them."""

import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import scaling
from boneage_jax.accelerators import audit
from boneage_jax.runs import predictor
from boneage_jax.runtime import sharding

HLO = """
  %all-reduce.1 = f32[64,3]{1,0} all-reduce(%dot), channel_id=1, to_apply=%add
  ROOT %all-reduce.2 = (f32[8]{0}, bf16[2,2]{1,0:T(8,128)}) all-reduce(%a, %b), channel_id=2
  %all-reduce-start.3 = f32[10]{0} all-reduce-start(%c), channel_id=3
  %all-reduce-done.3 = f32[10]{0} all-reduce-done(%all-reduce-start.3)
  %all-gather-start.1 = (f32[2,5]{1,0}, f32[8,5]{1,0}) all-gather-start(%d), dimensions={0}
  %reduce-scatter = f32[16]{0} reduce-scatter(%e), dimensions={0}
  %collective-permute = pred[] collective-permute(%f), source_target_pairs={{0,1}}
  %fusion = f32[9]{0} fusion(%all-reduce.1), calls=%fused
"""


def test_collectives_of_a_text():
    assert scaling.collectives(HLO) == [
        ('all-reduce', 768),
        ('all-reduce', 40),
        ('all-reduce', 40),
        ('all-gather', 160),
        ('reduce-scatter', 64),
        ('collective-permute', 1),
    ]
    assert [audit.wire_bytes(kind, 64, 4) for kind in scaling.KINDS] == [96, 48, 192, 48, 64]


def test_collectives_of_a_gradient():
    """A kernel's gradient over a batch on four devices: one all-reduce of the kernel's size."""
    mesh = sharding.make_mesh()
    x = jax.ShapeDtypeStruct((8, 32), jnp.float32, sharding=sharding.batch_sharding(mesh))
    w = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=sharding.replicated_sharding(mesh))
    gradient = jax.jit(
        jax.grad(lambda w, x: jnp.square(x @ w).sum()),
        out_shardings=sharding.replicated_sharding(mesh),
    )
    assert scaling.collectives(gradient.lower(w, x).compile().as_text()) == [
        ('all-reduce', 32 * 16 * 4)
    ]
    gather = jax.jit(lambda w: w + 1, out_shardings=sharding.replicated_sharding(mesh))
    cut = jax.ShapeDtypeStruct(
        (32, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec('data'))
    )
    assert scaling.collectives(gather.lower(cut).compile().as_text()) == [
        ('all-gather', 32 * 16 * 4)
    ]


class Net(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(1, 4, (8, 8), 8, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4 * 25, 64, rngs=nnx.Rngs(1))

    def __call__(self, image, male, *, rngs=None):
        return self.head(nnx.relu(self.conv(image)).reshape(len(image), -1)).sum(1), {}


@pytest.mark.parametrize('kind', ['replicated', 'fsdp'])
def test_prediction(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, 'build_model', lambda config: Net())
    result = scaling.main(
        [
            f'--config=configs/prsnet.py:tiny,batch_size=8,size=(40,40),sharding={kind}',
            '--devices=4',
            '--chip',
            'mine=1e9',
            '--link',
            '100 GbE',
            'slow=1e6',
            '--utilisation=1',
            f'--output={tmp_path / "a.json"}',
        ]
    )
    rows = {row['what']: row for row in result['rows']}
    gradient = 4 * (8 * 8 * 4 + 4 + 100 * 64 + 64)
    assert rows['trained parameters']['bytes'] == gradient
    assert rows['all-reduce']['best'] * 1e6 == pytest.approx(gradient, rel=0.02)
    if kind == 'fsdp':
        assert rows['all-gather']['best'] * 1e6 == 4 * 100 * 64
    reduced = rows['all-reduce']['best'] * 1e6 * 3 / 2
    assert rows['sent by each device']['bytes'] == pytest.approx(reduced), (
        'a reduce-scatter and an all-gather: as many bytes'
    )
    sent = rows['sent by each device']['bytes']
    flops = rows['operations a device, 2 images']['best'] * 1e9
    slow = rows['predicted efficiency, mine over slow']
    assert slow['best'] == pytest.approx(100 * (flops / 1e9) / (flops / 1e9 + sent / 1e6))
    assert rows['predicted efficiency, mine over 100 GbE']['best'] > slow['best']
    needed = int(slow['note'].rpartition('from ')[2].split()[0].replace(',', ''))
    assert needed * flops / 2 / 1e9 >= 9 * sent / 1e6 > (needed - 1) * flops / 2 / 1e9


def test_links_of_other_chips_are_left_out(monkeypatch):
    lowered = types.SimpleNamespace(
        cost_analysis=lambda: {'flops': 1e12},
        compile=lambda: types.SimpleNamespace(as_text=lambda: HLO),
    )
    monkeypatch.setattr(scaling, 'lower', lambda *_: (lowered, 4, 0))
    monkeypatch.setattr(scaling.report, 'finish', lambda _, arguments, facts, rows: rows)
    found = [
        (row['chip'], row['link'])
        for row in scaling.main(['--config=configs/prsnet.py:tiny', '--devices=4'])
        if 'chip' in row
    ]
    assert (
        ('H200', 'NVLink 4') in found
        and ('H200', '100 GbE') in found
        and ('H200', 'ICI v5e') not in found
    )
    assert len(found) == len(set(found)) == 12


def test_unknown_chip():
    with pytest.raises(SystemExit, match="'v9': known are H200"):
        scaling.main(['--config=configs/prsnet.py:tiny', '--chip', 'v9'])
