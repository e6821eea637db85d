"""Labelled image files -> the records of a source: decoded once to prove that they can be, stored
as given.
"""

import collections
import concurrent.futures
import contextlib
import pathlib
from collections.abc import Iterator, Sequence

from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Entry
from tfds_rsna.labels import Label
from tfds_rsna.parallel import pools
from tfds_rsna.problems import DataError, Problems


class MatchedImages:
    """Iterates (index, example) over labelled images, in their order.

    Every image is decoded in full here: a header can be whole where the pixels are cut short, and
    an image that fails should fail now and not in the middle of a training run. Threads do it
    (Pillow frees the interpreter while it unpacks), a few images ahead and no more, so memory stays
    flat.
    """

    def __init__(self, labelled: Sequence[tuple[Label, Entry]], problems: Problems):
        """`problems` takes the images that cannot be read."""
        self._labelled = labelled
        self._problems = problems

    def __length_hint__(self) -> int:
        return len(self._labelled)

    def size(self) -> int:
        """Bytes of all images together, as far as they can be found."""
        total = 0
        for _, entry in self._labelled:
            with contextlib.suppress(OSError):  # an image that is gone is named when it is read
                total += entry.size()
        return total

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        threads = pools.cores()
        good = 0
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            ahead = collections.deque()
            waiting = iter(self._labelled)
            for index in range(len(self._labelled)):
                while len(ahead) < 2 * threads and (item := next(waiting, None)) is not None:
                    ahead.append((item, pool.submit(_check, item)))
                (label, entry), future = ahead.popleft()
                try:
                    example = future.result()
                except (decoding.ImageError, DataError, OSError) as error:
                    # Goes on in either mode; the builder then names all of them at once.
                    self._problems.add(
                        'image that cannot be read',
                        label.id,
                        entry.path,
                        str(error).removeprefix(f'{entry.path}: '),
                    )
                else:
                    good += 1
                    yield index, example
        if not good:
            raise DataError('\n'.join(['no image can be read', *self._problems.lines()]))


def _check(item: tuple[Label, Entry]) -> dict:
    label, entry = item
    data = entry.read()
    height, width = decoding.decode(data, entry.path).shape
    return {
        'image': data,
        'id': label.id,
        'group': label.group,
        'months': label.months,
        'male': label.male,
        'width': width,
        'height': height,
        **({'source': label.source} if label.source is not None else {}),
    }


def match(
    labels: Sequence[Label],
    images: dict[str, Entry],
    table: str,
    images_name: str,
    problems: Problems,
) -> list[tuple[Label, Entry]]:
    """Pairs labels with images by id; each half without the other goes to `problems`. The labels'
    order stays.

    `images` maps ids to images; an id that a bad row named counts as labelled.
    """
    labelled = {label.id for label in labels} | problems.ids()
    for label in labels:
        if label.id not in images:
            problems.add(
                'label without an image', label.id, table, f'no image of that id in {images_name}'
            )
    for image in images:
        if image not in labelled:
            problems.add(
                'image without a label', image, images_name, f'no row of that id in {table}'
            )
    return [(label, images[label.id]) for label in labels if label.id in images]


def report(problems: Problems, path: pathlib.Path) -> None:
    """Writes rejected.csv and says what was dropped, where anything was."""
    problems.write(path)
    if len(problems):
        print('\n'.join(['dropped (see rejected.csv):', *problems.lines()]), flush=True)
