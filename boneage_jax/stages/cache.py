"""What stages found, image by image, on disk: in chunks, so that a killed stage continues."""

import functools
import pathlib
import time
from collections.abc import Callable

import numpy as np

from boneage_jax.runtime import files, log
from tfds_rsna.parallel import pools

CHUNK = 64  # images in a file


def fill(
    folder,
    counts: dict[str, int],
    look: Callable,
    *,
    answer: Callable | None = None,
    workers: int = 1,
) -> None:
    """Fills `folder` with the annotations of every image of every split.

    Chunks that are there are kept.

    Args:
        folder: where the chunks are.
        counts: {split: images}.
        look: `look((split, positions)) -> [annotations]`, or what `answer` is to see; runs in
            worker processes.
        answer: `answer(looks) -> [annotations]`, run in this process; None where there is no
            network and looks are annotations.
        workers: how many processes.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for split, count in counts.items():
        for start in range(0, count, CHUNK):
            positions = range(start, min(start + CHUNK, count))
            if not _path(folder, split, start).exists():
                jobs.append((split, positions))
    begin = said = time.monotonic()
    for done, ((split, positions), looks) in enumerate(
        zip(jobs, pools.ordered(look, jobs, workers=workers)), start=1
    ):
        found = looks if answer is None else answer(looks)
        _write(_path(folder, split, positions.start), found)
        if time.monotonic() - said > 30 and done < len(jobs):
            said = time.monotonic()
            left = (said - begin) / done * (len(jobs) - done)
            log.info(
                f'  {done * CHUNK:,} of {len(jobs) * CHUNK:,} images, {log.duration(left)} left'
            )


def is_complete(folder, counts: dict[str, int]) -> bool:
    """Whether every image's annotations are there."""
    folder = pathlib.Path(folder)
    for split, count in counts.items():
        for start in range(0, count, CHUNK):
            if not _path(folder, split, start).exists():
                return False
    return True


def read(folder, split: str, position: int) -> dict:
    """The annotations of one image: `{name: array or text}`."""
    start = position - position % CHUNK
    return _chunk(str(_path(pathlib.Path(folder), split, start)))[position % CHUNK]


def _path(folder, split, start):
    return folder / f'{split}-{start:06d}.npz'


def _write(path, annotations):
    arrays = {'count': np.int64(len(annotations))}
    for i, found in enumerate(annotations):
        for name, value in found.items():
            arrays[f'{i}/{name}'] = value
    with files.replacing(path) as temporary, temporary.open('wb') as file:
        np.savez_compressed(file, **arrays)


@functools.lru_cache(maxsize=4)  # neighbours are read one after the other
def _chunk(path):
    with np.load(path, allow_pickle=False) as stored:
        annotations = [{} for _ in range(int(stored['count']))]
        for key in stored.files:
            if key == 'count':
                continue
            i, _, name = key.partition('/')
            value = stored[key]
            annotations[int(i)][name] = str(value) if value.dtype.kind == 'U' else value
    return annotations
