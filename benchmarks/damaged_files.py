"""Damaged files by the thousand: what reads them must refuse them by name, or read them right.

    python -m benchmarks.damaged_files --count=100000 --seed=0 --processes=2

Small whole files of every kind (`benchmarks/specimens.py`) have bytes flipped, cut off, zeroed,
doubled or replaced, also inside of what a checksum covers, with the checksum made right again. The
damage is a function of the seed and the number. An offender raises something else than a UserError,
takes more than 10 s of a processor or more than 2 GB, ends the process, or, of a file with
checksums, reads as something else without a word. Offenders are written to a folder, and the exit
status is 1.
"""

import argparse
import collections
import contextlib
import dataclasses
import faulthandler
import json
import multiprocessing
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings

import numpy as np

from benchmarks import specimens
from tfds_rsna.errors import UserError

SECONDS = 10.0  # of a processor, that a reader may take: a busy machine is no fault of it
_WAIT = 60.0  # seconds that it may take at all
BYTES = 2 << 30  # that it may ask for, beyond what the process has
OUTCOMES = ('refused', 'flagged', 'unchanged', 'changed')
# Kinds that take tens of milliseconds a read come so many times less often.
_RARER = {'checkpoint': 8, 'keras h5': 8, 'records': 4, 'config.json': 2}
_DEAD = 3 * _WAIT  # a reader that no alarm can interrupt ends its process then


@dataclasses.dataclass(frozen=True)
class Found:
    """What a reader made of a damaged file.

    Attributes:
        kind: of the file.
        number: of the damage, which it is a function of with the seed.
        outcome: one of OUTCOMES, or what is wrong with the reader.
        how: the damage, in words.
        error: the message of a refusal; the traceback of another exception.
        seconds: of a processor that the reader took.
        mib: of memory that it took on top.
    """

    kind: str
    number: int
    outcome: str
    how: str
    error: str
    seconds: float
    mib: float

    @property
    def offends(self) -> bool:
        """Whether the reader did what none may do."""
        return self.outcome not in OUTCOMES


class Change:
    """One damage, drawn by seed and number: call it with the bytes to damage.

    `how` says in words what was done.
    """

    def __init__(self, draw: np.random.Generator):
        self._draw = draw
        self.how = 'nothing'

    def choice(self, values):
        return values[int(self._draw.integers(len(values)))]

    def __call__(self, data: bytes) -> bytes:
        done = self.choice(
            (_flip, _flip, _set_bytes, _set_number, _cut, _zero, _double, _drop, _digit)
        )
        changed, self.how = done(self._draw, bytearray(data))
        return bytes(changed)


def _place(draw, data):
    """A place in `data`; near its start, where headers are, half of the time."""
    most = len(data)
    if draw.random() < 0.5:
        most = min(most, 64)
    return int(draw.integers(max(most, 1)))


def _run(draw, data):
    start = _place(draw, data)
    return start, start + int(2 ** draw.uniform(0, 9))


def _flip(draw, data):
    places = [_place(draw, data) for _ in range(int(draw.integers(1, 4)))]
    for place in places:
        if data:
            data[place] ^= 1 << int(draw.integers(8))
    return data, f'a bit flipped at {places}'


def _set_bytes(draw, data):
    start, end = _run(draw, data)
    end = min(end, len(data))
    data[start:end] = draw.bytes(end - start)
    return data, f'{end - start} bytes at {start} replaced'


def _set_number(draw, data):
    """A field of 1 to 8 bytes becomes what programs forget: the largest, the sign, one, zero."""
    start = _place(draw, data)
    size = int(2 ** draw.integers(4))
    value = (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, 1 << 24)
    number = value[int(draw.integers(len(value)))] % 2 ** (8 * size)
    order = 'little' if draw.random() < 0.5 else 'big'
    data[start : start + size] = number.to_bytes(size, order)
    return data, f'{size} bytes at {start} became {number}'


def _digit(draw, data):
    """A digit of text becomes another, or several: numbers in headers and tables."""
    places = [place for place, value in enumerate(data[:4096]) if 48 <= value < 58]
    if not places:
        return _flip(draw, data)
    place = places[int(draw.integers(len(places)))]
    digits = str(int(10 ** draw.uniform(0, 12))).encode()
    data[place : place + 1] = digits
    return data, f'the digit at {place} became {digits.decode()}'


def _cut(draw, data):
    place = int(draw.integers(len(data) + 1))
    return data[:place], f'cut at {place} of {len(data)}'


def _zero(draw, data):
    start, end = _run(draw, data)
    end = min(end, len(data))
    data[start:end] = bytes(end - start)
    return data, f'{end - start} bytes at {start} zeroed'


def _double(draw, data):
    start, end = _run(draw, data)
    return data[:end] + data[start:], f'{start} to {end} doubled'


def _drop(draw, data):
    start, end = _run(draw, data)
    return data[:start] + data[end:], f'{start} to {end} dropped'


class Reading:
    """Damages files and reads them, in this process: `Reading(folder).read(kind, number, seed)`."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        (folder / 'whole').mkdir()
        self.kinds = specimens.every(folder / 'whole')
        self._expected = {}
        for kind, made in self.kinds.items():
            for place, specimen in enumerate(made):
                below = self._below(kind, place)
                for name, data in specimen.files.items():
                    path = below / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                value, flags = specimen.read(below)
                self._expected[kind, place] = specimens.fingerprint(value), tuple(flags)

    def _below(self, kind, place):
        return self._folder / 'damaged' / f'{kind.replace(" ", "_")}_{place}'

    def damage(self, kind: str, number: int, seed: int):
        """(which specimen, the damaged file's path in it, its content, how, whether sealed)."""
        draw = np.random.default_rng([seed, number])
        change = Change(draw)
        place = int(draw.integers(len(self.kinds[kind])))
        specimen = self.kinds[kind][place]
        name = change.choice(sorted(specimen.files))
        data = specimen.files[name]
        if specimen.repack and draw.random() < 0.5:
            return place, name, specimen.repack(data, change), f'{change.how}, repacked', False
        sealed = name in specimen.sealed
        return place, name, change(data), change.how, sealed

    def read(self, kind: str, number: int, seed: int) -> Found:
        """What the reader of a kind makes of damage `number`."""
        place, name, data, how, sealed = self.damage(kind, number, seed)
        specimen = self.kinds[kind][place]
        below = self._below(kind, place)
        path = below / name
        path.write_bytes(data)
        error = ''
        before = _memory()
        begin = time.process_time()
        try:
            with limits():
                value, flags = specimen.read(below)
            outcome = self._compare(kind, place, value, flags, sealed)
        except UserError as refusal:
            outcome = 'refused'
            error = str(refusal)
        except _TooLong:
            outcome = 'a hang'
            error = traceback.format_exc()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as other:  # a panic of a library in Rust is no Exception
            outcome = type(other).__name__
            error = traceback.format_exc()
        seconds = time.process_time() - begin
        mib = max(0.0, (_memory(peak=True) - before) / 2**20)
        self._restore(below, specimen, name)
        return Found(kind, number, outcome, f'{name}: {how}', error, seconds, mib)

    def _compare(self, kind, place, value, flags, sealed):
        expected, usual = self._expected[kind, place]
        if tuple(flags) != usual:
            return 'flagged'
        if specimens.fingerprint(value) == expected:
            return 'unchanged'
        return 'read as if whole' if sealed else 'changed'

    def _restore(self, below, specimen, name):
        (below / name).write_bytes(specimen.files[name])
        for path in below.rglob('*'):  # what a reader may have left
            if path.is_file() and path.relative_to(below).as_posix() not in specimen.files:
                path.unlink()


class _TooLong(BaseException):
    """The reader took longer than SECONDS, or than _WAIT on the clock."""


@contextlib.contextmanager
def limits():
    """At most SECONDS, and BYTES beyond what the process has, for what is done inside."""

    def stop(*_):
        raise _TooLong

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_REAL, _WAIT)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    if sys.platform == 'linux':
        resource.setrlimit(resource.RLIMIT_AS, (_pages('statm', 0) + BYTES, hard))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of the libraries; they are no errors of a reader
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _pages(file, column):
    text = pathlib.Path('/proc/self', file).read_text()
    return int(text.split()[column]) * resource.getpagesize()


def _memory(*, peak=False):
    """Bytes that the process holds, or the most it held since it was asked; 0 where unknown."""
    if sys.platform != 'linux':
        return 0
    if not peak:
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak counts from here on
        return _pages('statm', 1)
    for line in pathlib.Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) * 1024
    return 0


def schedule(kinds, count: int) -> list[str]:
    """The kind of each number; slow ones come less often."""
    turns = []
    most = max(_RARER.values())
    for turn in range(most):
        turns += [kind for kind in kinds if turn % _RARER.get(kind, 1) == 0]
    return [turns[number % len(turns)] for number in range(count)]


# A process for each share, started again where a reader ends it.


def _work(first, arguments, at, sink):
    faulthandler.enable()
    with tempfile.TemporaryDirectory(prefix='boneage_damaged_') as folder:
        reading = Reading(pathlib.Path(folder))
        plan = schedule(reading.kinds, arguments.count)
        for number in range(first, arguments.count, arguments.processes):
            if arguments.kinds and plan[number] not in arguments.kinds:
                continue
            at.value = number
            faulthandler.dump_traceback_later(_DEAD, exit=True)
            found = reading.read(plan[number], number, arguments.seed)
            faulthandler.cancel_dump_traceback_later()
            sink.put(found)
        at.value = -1
    sink.put(None)


def _gather(arguments):
    """Yields `Found` of all numbers, from processes that are replaced where they end."""
    context = multiprocessing.get_context('spawn')
    sink = context.Queue()
    working = {}

    def start(share, first):
        at = context.Value('q', first)
        process = context.Process(target=_work, args=(first, arguments, at, sink), daemon=True)
        process.start()
        working[share] = (process, at)

    for share in range(arguments.processes):
        start(share, share)
    finished = 0
    while finished < arguments.processes:
        try:
            found = sink.get(timeout=1)
        except multiprocessing.queues.Empty:
            for share, (process, at) in list(working.items()):
                if process.is_alive() or at.value < 0:
                    continue
                number = at.value
                yield Found('', number, 'the process ended', f'status {process.exitcode}', '', 0, 0)
                start(share, number + arguments.processes)
            continue
        if found is None:
            finished += 1
        else:
            yield found


def summary(results: list[Found]) -> str:
    """A table of all kinds, as text."""
    lines = [('kind', 'inputs', *OUTCOMES, 'offenders', 'worst s', 'peak MiB')]
    by_kind = collections.defaultdict(list)
    for found in results:
        by_kind[found.kind].append(found)
        by_kind['all'].append(found)
    for kind in sorted(by_kind, key=lambda name: (name == 'all', name)):
        rows = by_kind[kind]
        counts = collections.Counter(found.outcome for found in rows)
        offenders = sum(found.offends for found in rows)
        worst = max(found.seconds for found in rows)
        most = max(found.mib for found in rows)
        shown = [counts[name] for name in OUTCOMES]
        numbers = [f'{value:,}' for value in (len(rows), *shown, offenders)]
        lines.append((kind, *numbers, f'{worst:.2f}', f'{most:.0f}'))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple('-' * width for width in widths))
    rows = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def _keep(offenders, arguments):
    """Writes the damaged files of offenders, and what is wrong, below `--offenders`."""
    with tempfile.TemporaryDirectory(prefix='boneage_damaged_') as folder:
        reading = Reading(pathlib.Path(folder))
        plan = schedule(reading.kinds, arguments.count)
        for found in offenders:
            kind = plan[found.number]
            _, name, data, how, _ = reading.damage(kind, found.number, arguments.seed)
            place = arguments.offenders / f'{kind.replace(" ", "_")}-{found.number}'
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            (place / pathlib.Path(name).name).write_bytes(data)
            about = dataclasses.asdict(found) | {'kind': kind, 'how': f'{name}: {how}'}
            (place / 'about.json').write_text(json.dumps(about, indent=1))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.damaged_files',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--count', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--kinds', nargs='*', default=[], help='these alone')
    parser.add_argument('--offenders', type=pathlib.Path, default=pathlib.Path('runs/offenders'))
    arguments = parser.parse_args(argv)
    begin = time.monotonic()
    results = list(_gather(arguments))
    offenders = [found for found in results if found.offends]
    print(summary(results))
    print(f'{len(results):,} inputs in {time.monotonic() - begin:,.0f} s')
    if offenders:
        _keep(offenders, arguments)
        counts = collections.Counter((found.kind, found.outcome) for found in offenders)
        for (kind, outcome), count in counts.most_common():
            print(f'{kind or "?"}: {outcome}: {count}')
        print(f'{len(offenders)} offenders are in {arguments.offenders}')
    return int(bool(offenders))


if __name__ == '__main__':
    sys.exit(main())
