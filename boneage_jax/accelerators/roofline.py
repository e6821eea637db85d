"""Arithmetic on what a compiler says: the least time that a device allows, the largest batch."""

from collections.abc import Callable

from boneage_jax.accelerators.targets import Chip, Target

# JAX takes this share of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise; the
# second is what can be asked for beside the driver's own.
GPU_SHARE = 0.75
GPU_MOST = 0.95
COMPILES = 4  # at most, to find the largest batch


def times(
    operations: dict[str, int], moved: int, sent: float, target: Target, devices: int
) -> dict[str, float]:
    """Seconds that a call takes at least: `compute`, `memory`, `links`. The largest is the bound.

    Args:
        operations: {type: operations} on all devices.
        moved: bytes that each device reads from and writes to its memory.
        sent: bytes that each device sends to others.
        target: gives the rates.
        devices: that share the work.
    """
    compute = 0.0
    for dtype, count in operations.items():
        rate = target.chip.bfloat16 if dtype == 'bfloat16' else target.chip.float32
        compute += count / devices / rate
    return {
        'compute': compute,
        'memory': moved / target.chip.bandwidth,
        'links': sent / target.chip.links,
    }


def usable(chip: Chip) -> int:
    """Bytes of a chip's memory that JAX takes by default."""
    return int(chip.memory * GPU_SHARE) if chip.platform == 'cuda' else chip.memory


def verdict(total: int, chip: Chip) -> str:
    """'yes', 'no', or 'yes, with ...' where JAX must be told to take more of a GPU's memory."""
    if total <= usable(chip):
        return 'yes'
    if chip.platform == 'cuda' and total <= chip.memory * GPU_MOST:
        return f'yes, with XLA_PYTHON_CLIENT_MEM_FRACTION={GPU_MOST}'
    return 'no'


def largest_batch(
    total_of: Callable[[int], int], known: dict[int, int], *, limit: int, unit: int, at_most: int
) -> tuple[int, dict[int, int]]:
    """(largest batch size that was found to fit, all that was compiled).

    Memory is nearly linear in the batch, so a line through two sizes says where to look; what it
    says is compiled, at most `COMPILES` times, and corrected.

    Args:
        total_of: size -> bytes; compiles.
        known: {size: bytes} of what was compiled before, at least one.
        limit: bytes that there are.
        unit: sizes are multiples of it.
        at_most: no larger size is of use.
    """
    known = dict(known)
    most = max(unit, at_most // unit * unit)
    for _ in range(COMPILES):
        size = _next_size(known, limit, unit, most)
        if size is None:
            break
        known[size] = total_of(size)
    fitting = [size for size, total in known.items() if total <= limit]
    return max(fitting, default=0), known


def _next_size(known, limit, unit, most):
    """The size to compile next, None where nothing is to be learnt."""
    sizes = sorted(known)
    below = [size for size in sizes if known[size] <= limit]
    above = [size for size in sizes if known[size] > limit]
    fitting = max(below, default=0)
    ceiling = min([*(size - unit for size in above), most])
    if fitting >= ceiling:
        return None
    if len(known) == 1:
        (size,) = known
        wanted = 2 * size if fitting else size // 2
    else:
        # The two sizes next to the limit; a line that does not rise says as much as is allowed.
        nearest = [*below[-1:], *above] if above else below[-2:]
        first, second = nearest[:2]
        slope = (known[second] - known[first]) / (second - first)
        wanted = first + (limit - known[first]) / slope if slope > 0 else ceiling
    wanted = int(wanted) // unit * unit
    return min(max(wanted, fitting + unit), ceiling)
