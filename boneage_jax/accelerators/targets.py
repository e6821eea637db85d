"""The accelerators that programs are compiled for, with the figures of their makers.

h100        one NVIDIA H100
h100:8      eight of them, in one machine
v5e         one TPU v5e chip
v5e:8       eight chips; v5e:2x4 says how they are joined
"""

import dataclasses
import difflib
import math
import re

from boneage_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are the makers' peaks; no program reaches all of them.

    Attributes:
        title: its name in words.
        platform: 'cuda' or 'tpu'.
        memory: bytes of device memory that a program may see.
        bandwidth: bytes a second between that memory and the chip.
        bfloat16: dense operations a second (a multiplication and an addition are two).
        float32: the same where float32 is asked for in full (a TPU takes six passes in bfloat16).
        links: bytes a second that a chip sends to its neighbours, one direction.
        source: where the figures are from.
    """

    title: str
    platform: str
    memory: int
    bandwidth: float
    bfloat16: float
    float32: float
    links: float
    source: str


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """An NVIDIA GPU, with what XLA must know to compile for it.

    Attributes:
        capability: compute capability, (major, minor).
        cores: streaming multiprocessors.
        lanes: float32 units of one of them.
        clock: GHz.
        l2_cache: bytes.
        shared_memory: bytes of a multiprocessor; a block may have 1 KiB less.
        threads: of a multiprocessor.
    """

    capability: tuple[int, int] = (0, 0)
    cores: int = 0
    lanes: int = 128
    clock: float = 0.0
    l2_cache: int = 0
    shared_memory: int = 0
    threads: int = 2048


@dataclasses.dataclass(frozen=True)
class Tpu(Chip):
    """A TPU; libtpu knows the rest by its name.

    Attributes:
        shapes: {chips: how they are joined, as libtpu's topology names say}.
        cores: devices that JAX sees of a chip.
    """

    shapes: dict[int, str] = dataclasses.field(default_factory=dict)


_PLANE = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
_CUBE = {4: '2x2x1', 8: '2x2x2', 16: '2x2x4', 32: '2x4x4', 64: '4x4x4', 128: '4x4x8'}
_A100 = dict(
    platform='cuda',
    bfloat16=312e12,
    float32=19.5e12,
    links=300e9,
    capability=(8, 0),
    cores=108,
    lanes=64,
    clock=1.41,
    l2_cache=40 * 2**20,
    shared_memory=164 * 1024,
    source='NVIDIA A100 datasheet and Ampere architecture whitepaper',
)
_HOPPER = dict(
    platform='cuda',
    bfloat16=989e12,
    float32=67e12,
    links=450e9,
    capability=(9, 0),
    cores=132,
    clock=1.98,
    l2_cache=50 * 2**20,
    shared_memory=228 * 1024,
)

CHIPS: dict[str, Chip] = {
    'a100-40': Gpu('NVIDIA A100 SXM 40 GB', memory=int(39.4 * GIB), bandwidth=1.555e12, **_A100),
    'a100-80': Gpu('NVIDIA A100 SXM 80 GB', memory=int(79.2 * GIB), bandwidth=2.039e12, **_A100),
    'h100': Gpu(
        'NVIDIA H100 SXM 80 GB',
        memory=int(79.1 * GIB),
        bandwidth=3.35e12,
        source='NVIDIA H100 datasheet and Hopper architecture whitepaper',
        **_HOPPER,
    ),
    'h200': Gpu(
        'NVIDIA H200 SXM 141 GB',
        memory=int(140.9 * GIB),
        bandwidth=4.8e12,
        source='NVIDIA H200 datasheet',
        **_HOPPER,
    ),
    'b200': Gpu(
        'NVIDIA B200 SXM 180 GB',
        platform='cuda',
        memory=int(178.3 * GIB),
        bandwidth=7.7e12,
        bfloat16=2250e12,
        float32=75e12,
        links=900e9,
        source='NVIDIA DGX B200 datasheet and Blackwell architecture brief',
        capability=(10, 0),
        cores=148,
        clock=1.965,
        l2_cache=126 * 2**20,
        shared_memory=228 * 1024,
    ),
    'l4': Gpu(
        'NVIDIA L4 24 GB',
        platform='cuda',
        memory=int(22.0 * GIB),
        bandwidth=300e9,
        bfloat16=121e12,
        float32=30.3e12,
        links=32e9,  # PCIe 4.0 x16
        source='NVIDIA L4 datasheet and Ada architecture whitepaper (bfloat16 without sparsity)',
        capability=(8, 9),
        cores=58,
        clock=2.04,
        l2_cache=48 * 2**20,
        shared_memory=100 * 1024,
        threads=1536,
    ),
    'v5e': Tpu(
        'TPU v5e',
        platform='tpu',
        memory=int(15.75 * GIB),
        bandwidth=819e9,
        bfloat16=197e12,
        float32=197e12 / 6,
        links=200e9,
        source='cloud.google.com/tpu/docs/v5e (16 GB, of which XLA leaves 15.75 GiB)',
        shapes=_PLANE,
    ),
    'v5p': Tpu(
        'TPU v5p',
        platform='tpu',
        memory=int(95.0 * GIB),
        bandwidth=2765e9,
        bfloat16=459e12,
        float32=459e12 / 6,
        links=600e9,
        source='cloud.google.com/tpu/docs/v5p',
        shapes=_CUBE,
    ),
    'v6e': Tpu(
        'TPU v6e (Trillium)',
        platform='tpu',
        memory=int(31.25 * GIB),
        bandwidth=1640e9,
        bfloat16=918e12,
        float32=918e12 / 6,
        links=400e9,
        source='cloud.google.com/tpu/docs/v6e',
        shapes=_PLANE,
    ),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """So many of one chip.

    Attributes:
        name: as it was asked for.
        chip: what it is made of.
        count: chips.
        shape: how the chips of a TPU are joined, '' for GPUs.
    """

    name: str
    chip: Chip
    count: int
    shape: str = ''

    @property
    def title(self) -> str:
        """'8 x NVIDIA H100 SXM 80 GB', '8 (2x4) x TPU v5e'."""
        shape = f' ({self.shape})' if self.shape and self.count > 1 else ''
        return f'{self.count}{shape} x {self.chip.title}'


def parse(text: str) -> Target:
    """The target that a name such as `h100`, `h100:8`, `v5e:8` or `v5e:2x4` stands for.

    Raises:
        UserError: the name, the number of chips or their shape is unknown.
    """
    name, _, many = text.strip().lower().partition(':')
    if name not in CHIPS:
        near = difflib.get_close_matches(name, CHIPS, 1)
        meant = f'; did you mean {near[0]}?' if near else ''
        raise UserError(
            f'--target={text}: unknown{meant} Known are {", ".join(CHIPS)}; several of one as '
            'h100:8, v5e:8 or v5e:2x4'
        )
    chip = CHIPS[name]
    many = many or '1'
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){0,2}', many):
        raise UserError(f'--target={text}: expected a number after the colon, as in {name}:8')
    sides = [int(side) for side in many.split('x')]
    count = math.prod(sides)
    if not isinstance(chip, Tpu):
        if len(sides) > 1:
            raise UserError(f'--target={text}: GPUs have a number, no shape; write {name}:{count}')
        return Target(text, chip, count)
    # A program for one chip is the same wherever the chip is; v5p comes in fours at least.
    if count > 1 and len(sides) == 1:
        if count not in chip.shapes:
            raise UserError(
                f'--target={text}: {chip.title} comes in '
                f'{", ".join(map(str, chip.shapes))} chips; found {count}'
            )
        return Target(text, chip, count, chip.shapes[count])
    return Target(text, chip, count, many if len(sides) > 1 else '')
