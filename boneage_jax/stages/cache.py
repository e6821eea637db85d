"""What finding stages found, image by image, on disk: in chunks, so that a killed stage goes on
where it stopped.
"""

import functools
import os
import pathlib
import time

import numpy as np

from boneage_jax.runtime import log
from tfds_rsna.parallel import pools

CHUNK = 64  # images in a file


def fill(folder, counts, look, *, answer=None, workers=1):
    """Fills `folder` with the findings of every image of every split; chunks that are there are
    kept.

    `counts` {split: images}; `look((split, positions)) -> [findings or looks]` runs in `workers`
    processes, `answer(looks) -> [findings]` (None: looks are findings) in this one.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (split, range(start, min(start + CHUNK, count)))
        for split, count in counts.items()
        for start in range(0, count, CHUNK)
    ]
    open_jobs = [job for job in jobs if not _path(folder, *job).exists()]
    begin = said = time.monotonic()
    for done, (job, looks) in enumerate(
        zip(open_jobs, pools.ordered(look, open_jobs, workers=workers)), start=1
    ):
        _write(_path(folder, *job), answer(looks) if answer else looks)
        if time.monotonic() - said > 30 and done < len(open_jobs):
            said = time.monotonic()
            log.info(
                f'  {done * CHUNK:,} of {len(open_jobs) * CHUNK:,} images, '
                f'{log.duration((said - begin) / done * (len(open_jobs) - done))} left'
            )


def is_complete(folder, counts):
    """Whether every image's findings are there."""
    return all(
        _path(pathlib.Path(folder), split, range(start, 0)).exists()
        for split, count in counts.items()
        for start in range(0, count, CHUNK)
    )


def read(folder, split, position):
    """The findings of one image: `{name: array or text}`."""
    chunk = _chunk(str(_path(pathlib.Path(folder), split, range(position - position % CHUNK, 0))))
    return chunk[position % CHUNK]


def _path(folder, split, positions):
    return folder / f'{split}-{positions.start:06d}.npz'


def _write(path, findings):
    arrays = {
        f'{i}/{name}': value for i, found in enumerate(findings) for name, value in found.items()
    }
    arrays['count'] = np.int64(len(findings))
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    with temporary.open('wb') as file:
        np.savez_compressed(file, **arrays)
    temporary.rename(path)


@functools.lru_cache(maxsize=4)  # neighbours are read one after the other
def _chunk(path):
    with np.load(path, allow_pickle=False) as stored:
        findings = [{} for _ in range(int(stored['count']))]
        for key in stored.files:
            if key != 'count':
                i, _, name = key.partition('/')
                value = stored[key]
                findings[int(i)][name] = str(value) if value.dtype.kind == 'U' else value
    return findings
