"""A user's image files as the network of a run sees them, decoded ahead and batch by batch."""

import concurrent.futures
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np
import tqdm

from boneage_jax.inference import hand_check
from boneage_jax.stages import records
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import listing
from tfds_rsna.io import decoding
from tfds_rsna.parallel import pools
from tfds_rsna.problems import Problems

_CARRIED = 'coco_keypoints'  # points that every stage moves with the image and none asks about


@dataclasses.dataclass(frozen=True)
class Seen:
    """An image as the network sees it.

    Attributes:
        listed: the file, with its id and its row of the table.
        image: what the network sees, uint8 [rows, columns, 1].
        matrix: [2, 3], from places on `image` to places on the file's own image; see `see`.
        native: the file's own image, uint8 [H, W]; None where it was not kept.
        flags: what was doubtful about it, joined by ';': of its decoding, of the check for a hand,
            then of its preparation.
        refusal: why it is not predicted, '' where it is; a refused one has no `image` and `matrix`.
        hand: where the check found mask and points on `native`; None where nothing was checked or
            the image is refused.
    """

    listed: listing.Image
    image: np.ndarray | None
    matrix: np.ndarray | None
    native: np.ndarray | None
    flags: str
    refusal: str = ''
    hand: hand_check.Hand | None = None


@dataclasses.dataclass(frozen=True)
class Unseen:
    """An image that no network sees: it cannot be read, or the preprocessing leaves it out.

    Attributes:
        listed: the file.
        kind: what is wrong, as `Problems` has it.
        reason: why, in words.
    """

    listed: listing.Image
    kind: str
    reason: str


def see_in_batches(
    listed: Sequence[listing.Image],
    data: ml_collections.ConfigDict,
    problems: Problems,
    *,
    batch_size: int,
    keep_native: bool,
    check: Callable | None = None,
) -> Iterator[list[Seen]]:
    """Yields the images of files in batches, as the network of `config.data` sees them.

    Threads decode one batch ahead. An image that cannot be read, or that the preprocessing leaves
    out, is noted in `problems`, and its batch is the smaller for it.

    Args:
        listed: the files.
        data: `config.data` of the run.
        problems: gets what cannot be used.
        batch_size: files at once.
        keep_native: keep each file's own image too, for a picture; put right, where `check` did so.
        check: see `hand_check.checker`; images are put right as it says. One that it refuses is in
            the batch, and in `problems`. None checks nothing.
    """

    def submit(start):
        return [pool.submit(read, file) for file in listed[start : start + batch_size]]

    with (
        concurrent.futures.ThreadPoolExecutor(pools.cores()) as pool,
        tqdm.tqdm(total=len(listed), unit='image', disable=not sys.stderr.isatty()) as bar,
    ):
        ahead = submit(0)
        for start in range(0, len(listed), batch_size):
            jobs = ahead
            ahead = submit(start + batch_size)
            read_ones = [job.result() for job in jobs]
            batch = []
            for seen in see_files(read_ones, data, keep_native=keep_native, check=check):
                _note(seen, problems)
                if isinstance(seen, Seen):
                    batch.append(seen)
            if batch:
                yield batch
            bar.update(len(jobs))


def _note(seen, problems):
    """Adds an image that is not predicted to `problems`."""
    file = seen.listed
    if isinstance(seen, Unseen):
        problems.add(seen.kind, file.id, file.entry.path, seen.reason)
    elif seen.refusal:
        problems.add('image that shows no hand', file.id, file.entry.path, seen.refusal)


def read(file: listing.Image) -> tuple[listing.Image, decoding.Decoded] | Unseen:
    """A file with its decoded image; works in any thread."""
    path = file.entry.path
    try:
        return file, decoding.read(file.entry.read(), path)
    except (UserError, OSError) as error:
        reason = str(error).removeprefix(f'{path}: ')
        return Unseen(file, 'image that cannot be read', reason)


def see_files(
    read_ones: Sequence[tuple[listing.Image, decoding.Decoded] | Unseen],
    data: ml_collections.ConfigDict,
    *,
    keep_native: bool,
    check: Callable | None = None,
) -> list[Seen | Unseen]:
    """What `read` gave of some files, as the network of `config.data` sees them; one for each.

    Arguments as those of `see_in_batches`.
    """
    decoded = [each for each in read_ones if not isinstance(each, Unseen)]
    found = iter(_seen(_checked(decoded, check), data, keep_native))
    return [each if isinstance(each, Unseen) else next(found) for each in read_ones]


def _checked(decoded, check):
    """[(file, image [H, W] put right, flags, `Verdict` or None)] of decoded images."""
    if check is None:
        return [(file, image.grey, image.flags, None) for file, image in decoded]
    verdicts = check([image.grey for _, image in decoded]) if decoded else []
    checked = []
    for (file, image), verdict in zip(decoded, verdicts, strict=True):
        flags = (*image.flags, *verdict.told)
        checked.append((file, hand_check.righted(image.grey, verdict), flags, verdict))
    return checked


def _seen(checked, data, keep_native):
    found = []
    accepted = []
    for file, image, _, verdict in checked:
        if verdict is None or not verdict.reason:
            accepted.append((file.id, image))
    examples = iter(see([image for _, image in accepted], data, [name for name, _ in accepted]))
    for file, image, flags, verdict in checked:
        kept = image if keep_native else None
        if verdict is not None and verdict.reason:
            found.append(Seen(file, None, None, kept, ';'.join(flags), verdict.reason))
            continue
        example = next(examples)
        if isinstance(example, dict):
            joined = ';'.join(each for each in (*flags, example['flags']) if each)
            hand = None if verdict is None else verdict.hand
            seen = Seen(file, example['image'], example['matrix'], kept, joined, hand=hand)
        else:
            reason = 'no hand was found as the stages of data.stages need it'
            if example is not None:
                reason = str(example)
            seen = Unseen(file, 'image that the preprocessing left out', reason)
        found.append(seen)
    return found


def see(
    images: Sequence[np.ndarray],
    data: ml_collections.ConfigDict,
    ids: Sequence[str] | None = None,
) -> list[dict | UserError | None]:
    """Images, each [H, W] uint8, as the network of `config.data` sees them; `ids` for messages.

    Gives `{'image': uint8 [rows, columns, 1], 'matrix': [2, 3], 'flags': str}` for each, None where
    the run's own preprocessing leaves it out, or the error where it refuses it. `matrix` takes
    places (row, column) on what the network sees to places on the image; in both, pixel (r, c)
    covers [r, r + 1] x [c, c + 1]. It comes from three points that are carried through all that is
    done to the image.
    """
    examples = []
    corners = []
    for name, image in zip(ids or [''] * len(images), images):
        rows, columns = image.shape
        three = np.array([[0, 0], [rows, 0], [0, columns]], np.float32)
        corners.append(three)
        examples.append({'id': name, 'image': image, _CARRIED: three})

    found = []
    for example, three in zip(records.process(examples, data), corners):
        if isinstance(example, dict):
            matrix = _matrix(example[_CARRIED], three)
            flags = example.get('flags', '')
            example = {'image': example['image'], 'matrix': matrix, 'flags': flags}
        found.append(example)
    return found


def _matrix(seen, native):
    """The [2, 3] from three points [3, 2] on what is seen to the same points on the image.

    The points are pixel centres, the matrix is between edges.
    """
    edges = np.asarray(seen, np.float64) + 0.5
    return np.linalg.solve(np.column_stack([edges, np.ones(3)]), native + 0.5).T
