"""`boneage serve` under load: images a second, how long requests take, and whether memory grows.

    python -m benchmarks.serve_load
    python -m benchmarks.serve_load --at_once=20 --total=60 --side=256

A server of its own predicts phantoms, one a request: first `--at_once` requests at the same time,
then `--total` in all, so many at a time. A request that finds the queue full comes again when it is
told to, and counts from its first try. The memory is the server's own (Linux), after a warm-up of
`--at_once` images and then at each quarter of the rest.
"""

import concurrent.futures
import io
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import requests
from PIL import Image

from benchmarks import machine, report
from tfds_rsna.hand_phantom.render import phantom

_IMAGES = 8  # different ones
_PARTS = 4  # of the total, at whose ends the memory is read
_START = 600  # seconds that a server may take to start


def main(argv=None):
    parser = report.parser('serve_load', __doc__)
    parser.add_argument('--at_once', type=int, default=200, help='requests at the same time')
    parser.add_argument('--total', type=int, default=2000, help='images in all')
    parser.add_argument('--side', type=int, default=1000, help="pixels of an image's rows")
    parser.add_argument('--batch_size', type=int, default=8, help='of the server')
    parser.set_defaults(repeats=3)
    arguments = parser.parse_args(argv)
    facts = machine.facts()
    images = [_png(i, arguments.side) for i in range(_IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'boneage_jax.serve', '--no_browser']
        command.append(f'--batch_size={arguments.batch_size}')
        log_path = pathlib.Path(folder, 'log')
        with (
            log_path.open('w') as log,
            subprocess.Popen(command, cwd=machine.ROOT, stdout=log, stderr=log) as server,
        ):
            try:
                rows = _measured(_address(server, log_path), server.pid, images, arguments)
            finally:
                server.terminate()
    return report.finish('serve_load', arguments, facts, rows)


def _measured(address, pid, images, arguments):
    what = f'{arguments.at_once} requests at once, phantoms of {arguments.side} rows'
    rates = []
    slowest = []
    again = 0
    for _ in range(arguments.repeats):
        seconds, took, refused = _round(address, images, arguments.at_once, arguments.at_once)
        rates.append(arguments.at_once / seconds)
        slowest.append(float(np.percentile(took, 95)))
        again += refused
    note = f'{again} answers 503, repeated'
    rows = [
        report.row(what, rates, 'images/s', note=note),
        report.row('time of a request, 95th percentile', slowest, 's', smaller=True),
    ]
    memory = [_mebibytes(pid)]
    seconds = 0
    for _ in range(_PARTS):
        took, _, _ = _round(address, images, arguments.total // _PARTS, arguments.at_once)
        seconds += took
        memory.append(_mebibytes(pid))
    rate = [arguments.total / seconds]
    rows.append(report.row(f'{arguments.total:,} images, as many at once', rate, 'images/s'))
    if all(memory):
        shown = ' '.join(f'{each:,.0f}' for each in memory)
        rows.append(report.row('memory of the server', memory, 'MiB', note=shown, smaller=True))
    return rows


def _round(address, images, count, at_once):
    """(seconds in all, seconds of each request, answers 503) of `count` images."""
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(_ask, address, images[i % len(images)], i) for i in range(count)]
        answers = [job.result() for job in jobs]
    seconds = time.monotonic() - begin
    took, refused = zip(*answers)
    return seconds, took, sum(refused)


def _ask(address, image, i):
    begin = time.monotonic()
    refused = 0
    while True:
        answer = requests.post(
            f'{address}/v1/predict',
            files={'images': (f'{i}.png', image)},
            data={'sex': 'female', 'pictures': 'true'},
            timeout=600,
        )
        if answer.status_code != 503:
            break
        refused += 1
        time.sleep(int(answer.headers['Retry-After']))
    answer.raise_for_status()
    (result,) = answer.json()['results']
    if result['status'] != 'ok':
        raise RuntimeError(f'a phantom was not predicted: {result["reason"]}')
    return time.monotonic() - begin, refused


def _png(i, side):
    data = io.BytesIO()
    Image.fromarray(phantom(91, i, (side, round(0.8 * side)))['image']).save(data, 'PNG')
    return data.getvalue()


def _address(server, log_path):
    """Where the server listens, once it says so."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and server.poll() is None:
        found = re.search(r'http://[\d.]+:\d+', log_path.read_text())
        if found:
            return found[0]
        time.sleep(0.2)
    raise RuntimeError(f'the server did not start: {log_path.read_text()}')


def _mebibytes(pid):
    """The resident memory of a process; 0 where the system does not tell."""
    try:
        found = re.search(r'VmRSS:\s+(\d+) kB', pathlib.Path(f'/proc/{pid}/status').read_text())
    except OSError:
        return 0
    return int(found[1]) / 1024


if __name__ == '__main__':
    main()
