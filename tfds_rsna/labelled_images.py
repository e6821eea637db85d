"""The labelled images of a source: each is decoded once to check it, and stored as given."""

import collections
import concurrent.futures
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future

from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Entry
from tfds_rsna.labels import Label
from tfds_rsna.parallel import pools
from tfds_rsna.problems import SHOWN, DataError, Problems


class LabelledImages:
    """Iterates (index, example) over labelled images, in their order.

    Every image is decoded in full here: a header can be whole where the pixels are cut short, and
    an image that fails should fail now and not in the middle of a training run. The same decoding
    gives the record its width and height. Threads do it (Pillow frees the interpreter while it
    unpacks), a few images ahead and no more, so memory stays flat. At the end it says which images
    have flags, and which have another sex in their own header than in the table.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Label, Entry]],
        problems: Problems,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ):
        """Of pairs of a label and its image.

        Args:
            pairs: the labelled images.
            problems: takes the images that cannot be read.
            sizes: {id: (width, height)} in native pixels, of images that lost them; None takes
                those of the images as they are.
        """
        self._pairs = pairs
        self._problems = problems
        self._sizes = sizes or {}

    def __length_hint__(self) -> int:
        return len(self._pairs)

    def size(self) -> int:
        """Bytes of all images together, as far as they can be found."""
        total = 0
        for _, entry in self._pairs:
            with contextlib.suppress(OSError):  # an image that is gone is named when it is read
                total += entry.size()
        return total

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        good = 0
        flagged = {}
        for index, (label, entry, future) in enumerate(self._examples()):
            try:
                example, flags = future.result()
            except (decoding.ImageError, DataError, OSError) as error:
                # Noted in either mode; the builder then names all of them at once.
                reason = str(error).removeprefix(f'{entry.path}: ')
                self._problems.add('image that cannot be read', label.id, entry.path, reason)
            else:
                good += 1
                for flag in flags:
                    flagged.setdefault(flag, []).append(label.id)
                yield index, example
        if not good:
            raise DataError('\n'.join(['no image can be read', *self._problems.lines()]))
        for flag, ids in flagged.items():
            more = f' and {len(ids) - SHOWN:,} more' if len(ids) > SHOWN else ''
            shown = ', '.join(ids[:SHOWN])
            print(f'flag {flag}: {len(ids):,} images ({shown}{more})', file=sys.stderr, flush=True)

    def _examples(self) -> Iterator[tuple[Label, Entry, Future]]:
        """The images in order, each with the future of its example."""
        threads = pools.cores()
        ahead = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            for label, entry in self._pairs:
                future = pool.submit(_example, label, entry, self._sizes.get(label.id))
                ahead.append((label, entry, future))
                if len(ahead) == 2 * threads:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()


def _example(
    label: Label, entry: Entry, size: tuple[int, int] | None
) -> tuple[dict, tuple[str, ...]]:
    """The record of an image, and its flags; ImageError, DataError or OSError for a bad one.

    `size` is its native (width, height), None where it is that of the image as it is.
    """
    data = entry.read()
    decoded = decoding.read(data, entry.path)
    height, width = decoded.grey.shape
    if size is not None:
        width, height = size
    example = {
        'image': data,
        'id': label.id,
        'group': label.group,
        'months': label.months,
        'male': label.male,
        'width': width,
        'height': height,
    }
    if label.source is not None:
        example['source'] = label.source
    return example, decoding.flags_of(decoded, label.male)
