"""One thread that predicts: images of all requests wait in a queue and are taken in batches."""

import collections
import concurrent.futures
import dataclasses
import math
import threading
import time
import traceback
from collections.abc import Mapping, Sequence

import numpy as np

from boneage_jax.inference import ages as ages_lib
from boneage_jax.inference import images as images_lib
from boneage_jax.inference import pictures
from boneage_jax.runtime import log
from tfds_rsna.image_folder import listing
from tfds_rsna.parallel import pools

_SECONDS = 0.3  # an image's time before one was measured
_NEWEST = 0.2  # share of the newest batch in the running mean of it


class FullError(Exception):
    """The queue has no room; `seconds` is when there may be some."""

    def __init__(self, seconds: int):
        super().__init__(f'the queue is full; try again in {seconds} s')
        self.seconds = seconds


@dataclasses.dataclass(frozen=True)
class Question:
    """An image to be predicted.

    Attributes:
        file: the image.
        male: whether it is a boy's.
        look: whether to find out where the network looked, see `Ages.hidden`.
        future: of the `Answer`.
    """

    file: listing.Image
    male: bool | None
    look: bool = False
    future: concurrent.futures.Future = dataclasses.field(default_factory=concurrent.futures.Future)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was predicted for an image.

    Attributes:
        seen: the image as the network saw it, or why it did not.
        row: of `predict`'s table; None where it did not see it.
        aux: the network's auxiliary outputs of this image; empty where it is not predicted.
        hidden: see `Ages.hidden`; None where nobody asked.
    """

    seen: images_lib.Seen | images_lib.Unseen
    row: dict | None = None
    aux: Mapping = dataclasses.field(default_factory=dict)
    hidden: np.ndarray | None = None


class Worker:
    """The thread and its queue.

    Args:
        ages: the loaded networks.
        most: images that may wait.
    """

    def __init__(self, ages: ages_lib.Ages, *, most: int):
        self._ages = ages
        self._most = most
        self._waiting = collections.deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._seconds = _SECONDS
        self._thread = threading.Thread(target=self._run, name='predict', daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the batch that it is at; what waits is cancelled."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        for question in self._waiting:
            question.future.cancel()

    def submit(self, questions: Sequence[Question]) -> None:
        """Queues all of the questions, or raises `FullError` and queues none."""
        with self._changed:
            if len(self._waiting) + len(questions) > self._most:
                seconds = math.ceil(len(self._waiting) * self._seconds)
                raise FullError(max(1, seconds))
            self._waiting.extend(questions)
            self._changed.notify()

    def _run(self):
        with concurrent.futures.ThreadPoolExecutor(pools.cores()) as pool:
            while batch := self._take():
                begin = time.monotonic()
                self._answer(batch, pool)
                seconds = (time.monotonic() - begin) / len(batch)
                self._seconds += _NEWEST * (seconds - self._seconds)

    def _take(self):
        """The next batch, of those whose requests still wait for them; [] at the end."""
        batch = []
        with self._changed:
            while not batch and not self._stopped:
                while self._waiting and len(batch) < self._ages.batch_size:
                    question = self._waiting.popleft()
                    if question.future.set_running_or_notify_cancel():
                        batch.append(question)
                if not batch:
                    self._changed.wait()
        return [] if self._stopped and not batch else batch

    def _answer(self, batch, pool):
        """Answers a batch; where that fails one by one, so that one image costs no other."""
        try:
            answers = self._predicted(batch, pool)
        except Exception as error:
            if len(batch) > 1:
                for question in batch:
                    self._answer([question], pool)
                return
            report(error)
            batch[0].future.set_exception(error)
            return
        for question, answer in zip(batch, answers, strict=True):
            question.future.set_result(answer)

    def _predicted(self, batch, pool):
        read_ones = list(pool.map(images_lib.read, [question.file for question in batch]))
        found = images_lib.see_files(
            read_ones, self._ages.networks.config.data, keep_native=True, check=self._ages.check
        )
        seen = []
        male = []
        for question, each in zip(batch, found, strict=True):
            if isinstance(each, images_lib.Seen):
                seen.append(each)
                male.append(question.male)
        rows, aux = self._ages.rows(seen, male)
        rows = iter(rows)
        answers = []
        index = 0
        for question, each in zip(batch, found):
            if isinstance(each, images_lib.Unseen):
                answers.append(Answer(each))
            elif each.refusal:
                answers.append(Answer(each, next(rows)))
            else:
                hidden = None
                if question.look:
                    hidden = self._ages.hidden(each.image, question.male)
                own = pictures.of_image(aux, index)
                answers.append(Answer(each, next(rows), own, hidden))
                index += 1
        return answers


def report(error: Exception) -> None:
    """Logs a fault of the program by its kind and place: a message may have a file's name in it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.info(
        f'A fault of the program: {type(error).__name__} in {place.name}, line {place.lineno} of '
        f'{place.filename}. The images of others are predicted all the same.'
    )
