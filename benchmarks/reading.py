"""Reading prepared records at random: images a second, with one thread and more, and as training
reads them.

    python -m benchmarks.reading

The records are random bytes in a temporary folder, read from the operating system's cache (as any
split that fits into memory is after the first epoch). Target: 5,000 images of 512x512 a second on
two cores.
"""

import concurrent.futures
import tempfile

import numpy as np

from benchmarks import machine, report
from boneage_jax.data import pipeline, source
from boneage_jax.runtime import sharding
from tfds_rsna import prepared

TARGET = 5000


def main(argv=None):
    parser = report.parser('reading', __doc__)
    parser.add_argument(
        '--records', type=int, default=500, help='records to write, one side^2 bytes each'
    )
    parser.add_argument('--side', type=int, default=512)
    parser.add_argument('--reads', type=int, default=8000, help='images read in one measurement')
    parser.add_argument('--batch_size', type=int, default=32)
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    with tempfile.TemporaryDirectory(prefix='boneage_reading_') as folder:
        prepared.write(folder, {'train': _records(arguments)}, metadata={})
        split = source.open_splits(
            folder, lambda labels: {'train': ('train', np.arange(len(labels['train']['ids'])))}
        )['train']
        rows = [_threads(split, count, arguments) for count in (1, 2, 4)]
        rows.append(_batches(split, arguments))
    return report.finish('reading', arguments, facts, rows)


def _records(arguments):
    draw = np.random.default_rng(0)
    for i in range(arguments.records):
        yield {
            'image': draw.integers(0, 256, (arguments.side, arguments.side, 1), np.uint8),
            'id': str(i),
            'months': float(i % 228),
            'male': bool(i % 2),
            'width': arguments.side,
            'height': arguments.side,
        }


def _threads(split, threads, arguments):
    """Random single records. The array is a view of the record's bytes; its pixels are not touched
    here.
    """
    orders = np.random.default_rng(0).integers(0, len(split), (threads, arguments.reads // threads))

    def read(order):
        for i in order:
            split.records[int(i)]['image']

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        values = machine.rates(
            lambda: list(pool.map(read, orders)), orders.size, arguments.repeats + 1
        )[1:]
    return report.row(
        f'random records, {threads} thread{"s" if threads > 1 else ""}',
        values,
        'images/s',
        note=_verdict(values, arguments),
        threads=threads,
    )


def _batches(split, arguments):
    """What training sees: shuffled, stacked batches from grain's threads. The clock starts before
    the threads do.
    """
    mesh = sharding.make_mesh()
    batches = pipeline.TrainBatches(
        split, batch_size=arguments.batch_size, seed=0, placement='host', mesh=mesh
    )
    count = max(arguments.reads // arguments.batch_size, 1)

    def read():
        for batch in batches.iterate(0, count):
            assert len(batch['image']) == arguments.batch_size

    values = machine.rates(read, count * arguments.batch_size, arguments.repeats + 1)[1:]
    return report.row(
        f'training batches of {arguments.batch_size}',
        values,
        'images/s',
        note=_verdict(values, arguments),
        batch_size=arguments.batch_size,
    )


def _verdict(values, arguments):
    if arguments.side != 512:
        return ''
    return f'target {TARGET:,}: {"reached" if max(values) >= TARGET else "missed"}'


if __name__ == '__main__':
    main()
