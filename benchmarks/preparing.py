"""Preparing: full-size images -> records, images a second, with one process and with all cores.

    python -m benchmarks.preparing --images $BONEAGE_DATA/rsna_native

Real images decide this figure (PNG's decoding does), so it needs some; they are repeated to
`--count`. It runs `boneage_jax.prepare`'s own pool and writes the records; starting the processes
is given apart.
"""

import csv
import functools
import itertools
import pathlib
import tempfile
import time

import tfds_rsna
from benchmarks import image_files, machine, report
from boneage_jax.preprocess import resize
from boneage_jax.stages import records
from tfds_rsna import prepared
from tfds_rsna.io import decoding
from tfds_rsna.parallel import pools


def main(argv=None):
    parser = report.parser('preparing', __doc__)
    image_files.argument(parser)
    parser.add_argument(
        '--count', type=int, default=512, help='images to prepare in one measurement'
    )
    parser.add_argument('--side', type=int, default=512)
    parser.add_argument('--fit', choices=('pad', 'stretch'), default='pad')
    parser.set_defaults(repeats=3)
    arguments = parser.parse_args(argv)
    found = image_files.find(arguments.images)
    facts = machine.facts()
    with tempfile.TemporaryDirectory(prefix='boneage_preparing_') as folder:
        folder = pathlib.Path(folder)
        builder = _source(found, folder, arguments.count)
        rows = [_one_by_one(found, arguments)]
        for workers in sorted({1, machine.cores()}):
            rows.append(_pool(builder, folder, workers, arguments))
    return report.finish('preparing', arguments, facts, rows)


def _source(found, folder, count):
    """The images, repeated to `count`, as the source records that `prepare` starts from."""
    images = folder / 'images'
    images.mkdir()
    names = [
        f'{i}{path.suffix}' for i, path in zip(range(count), itertools.cycle(found), strict=False)
    ]
    for name, path in zip(names, itertools.cycle(found), strict=False):
        (images / name).symlink_to(path.resolve())
    with (folder / 'labels.csv').open('w', newline='') as file:
        csv.writer(file).writerows(
            [('id', 'boneage', 'male'), *((name, 100, True) for name in names)]
        )
    builder = tfds_rsna.ImageFolder(
        data_dir=str(folder / 'source'), images=str(images), labels=str(folder / 'labels.csv')
    )
    builder.download_and_prepare()
    return builder


def _one_by_one(found, arguments):
    """Decoding and resizing alone, one core, no records: where the time goes is in the note."""
    spent = {'decode': 0.0, 'resize': 0.0}
    data = [path.read_bytes() for path in found]
    values = []
    for _ in range(arguments.repeats):
        begin = time.perf_counter()
        for encoded in data:
            start = time.perf_counter()
            image = {'image': decoding.decode(encoded)}
            decoded = time.perf_counter()
            resize.resize(image, (arguments.side, arguments.side), arguments.fit)
            spent['decode'] += decoded - start
            spent['resize'] += time.perf_counter() - decoded
        values.append(len(data) / (time.perf_counter() - begin))
    share = {
        name: 1000 * seconds / len(data) / arguments.repeats for name, seconds in spent.items()
    }
    return report.row(
        'decode and resize, in memory, 1 core',
        values,
        'images/s',
        note=', '.join(f'{name} {ms:.1f} ms' for name, ms in share.items()),
        megabytes=round(sum(map(len, data)) / 1e6, 2),
        images=len(data),
    )


def _pool(builder, folder, workers, arguments):
    """Records in, records out through prepare's pool; from the first chunk's arrival on, its size
    left out.
    """
    values, startup = [], []
    work = functools.partial(
        records.prepare_chunk,
        str(builder.data_path),
        (),
        (arguments.side, arguments.side),
        arguments.fit,
    )
    size = records.CHUNK
    chunks = [
        ('train', range(i, min(i + size, arguments.count))) for i in range(0, arguments.count, size)
    ]
    for attempt in range(arguments.repeats):
        arrivals = [time.perf_counter()]

        def examples(arrivals=arrivals):
            for chunk in pools.ordered(work, chunks, workers=workers):
                arrivals.append(time.perf_counter())
                yield from chunk

        prepared.write(folder / f'records-{workers}-{attempt}', {'train': examples()}, metadata={})
        end = time.perf_counter()
        startup.append(arrivals[1] - arrivals[0])
        # The other processes work on their first chunks too when the first one arrives: begin a
        # chunk of each later.
        first = min(workers, len(arrivals) - 1)
        done = sum(len(positions) for _, positions in chunks[first:]) or arguments.count
        values.append(done / (end - arrivals[first if done < arguments.count else 0]))
    processes = '1 process' if workers == 1 else f'{workers} processes'
    return report.row(
        f'source records -> {arguments.side} px records, {processes}',
        values,
        'images/s',
        note=f'first 16 images after {min(startup):.1f} s',
        workers=workers,
    )


if __name__ == '__main__':
    main()
