"""The review of masks: by rule, by eye, and what of it is accepted."""

import csv
import io
import os
import pathlib
import threading
import time
from collections.abc import Sequence

import ml_collections
import numpy as np

from boneage_jax.preprocess import mask_checks

VERDICTS = ('accept', 'reject', 'undo')


def by_rule(
    mask: np.ndarray,
    pieces: int,
    other: np.ndarray,
    before: np.ndarray | None,
    options: ml_collections.ConfigDict,
) -> tuple[dict[str, float], list[str]]:
    """(measures, reasons) of an image's mask: accepted by rule where there are no reasons.

    Args:
        mask: largest component of the prediction, uint8 `[H, W]`.
        pieces: how many pieces of some size the prediction had before.
        other: the image's classical mask or that of another view of it, `[H, W]`
            (`mine.agreement_with`).
        before: its mask of the round before, or None.
        options: `config.mine`: the mask must agree with the other one, or be as it was the round
            before.
    """
    measured = mask_checks.measures(mask, other)
    if measured['area']:
        measured['components'] = float(pieces)
    if before is not None:
        measured['stability'] = mask_checks.iou(mask, before)
    agreement = measured['agreement']
    stability = measured.get('stability', 0.0)
    alone = {
        name: value for name, value in measured.items() if name not in ('agreement', 'stability')
    }
    reasons = mask_checks.reasons(alone)
    if agreement < options.agreement and stability < options.stability:
        what = {'classical': 'the classical mask', 'views': 'another view'}[options.agreement_with]
        reason = f'agreement: {agreement:.2f} with {what}, not {options.agreement:g} or more'
        if before is not None and options.stability <= 1:
            reason += f'; {stability:.2f} with the round before, not {options.stability:g}'
        reasons.append(reason)
    return measured, reasons


class Verdicts:
    """A person's verdicts, in a CSV `id,verdict,time`; of several on an image the last one counts.

    Each verdict is on disk before `add` returns. `current` is `{id: 'accept' | 'reject'}`.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.current = read(path)
        self._lock = threading.Lock()

    def add(self, image: str, verdict: str) -> None:
        if verdict not in VERDICTS:
            raise ValueError(f'verdict {verdict!r}: expected one of {", ".join(VERDICTS)}')
        with self._lock:
            before = self.path.read_bytes() if self.path.exists() else b''
            text = io.StringIO()
            writer = csv.writer(text, lineterminator='\n')
            if not before:
                writer.writerow(('id', 'verdict', 'time'))
            elif not before.endswith(b'\n'):  # a line cut short by a full disk or a kill
                text.write('\n')
            writer.writerow((image, verdict, time.strftime('%Y-%m-%dT%H:%M:%S')))
            with self.path.open('a', newline='') as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
            _apply(self.current, image, verdict)


def read(path: pathlib.Path) -> dict[str, str]:
    """`{id: 'accept' | 'reject'}` of a verdicts CSV; nothing where there is none.

    Lines cut short are passed over.
    """
    current = {}
    if not path.exists():
        return current
    with path.open(newline='') as file:
        for row in csv.DictReader(file):
            if row.get('verdict') in VERDICTS and row.get('time'):
                _apply(current, row['id'], row['verdict'])
    return current


def _apply(current, image, verdict):
    if verdict == 'undo':
        current.pop(image, None)
    else:
        current[image] = verdict


def combine(
    ids: Sequence[str],
    refused: dict[str, list[str]],
    eye: dict[str, str],
    kept: dict[str, tuple[int, str]],
    number: int,
    *,
    classical: bool,
) -> dict[str, tuple[int, str]]:
    """`{id: (round of the mask, 'rule' | 'eye')}` of the accepted images.

    Round 0 is the image's classical mask. A verdict by eye goes over the rule, and a mask accepted
    by eye stays with the image until another verdict.

    An image stays with the mask that it was first accepted with. A network that trains on its own
    latest masks drifts: of 600 RSNA images the masks swelled from the fourth round on, and the
    accepted went from 527 in the third down to 451.

    Args:
        ids: of all images.
        refused: `{id: reasons}` by rule.
        eye: this round's verdicts.
        kept: the accepted of the round before.
        number: of this round.
        classical: whether what the rule accepts enters with its classical mask. Mining from nothing
            begins so. Its first network has seen phantoms alone: it tells good classical masks from
            bad ones, but they follow a real hand's skin better than its own.
    """
    accepted = {}
    for image in ids:
        if image in eye:
            if eye[image] == 'accept':
                accepted[image] = (number, 'eye')
        elif kept.get(image, (0, ''))[1] == 'eye':
            accepted[image] = kept[image]
        elif not refused[image]:
            first = 0 if classical else number
            accepted[image] = (kept[image][0] if image in kept else first, 'rule')
    return accepted


def read_accepted(path: pathlib.Path) -> dict[str, tuple[int, str]]:
    """`{id: (round of the mask, 'rule' | 'eye')}` of an accepted.csv."""
    with path.open(newline='') as file:
        return {row['id']: (int(row['round']), row['by']) for row in csv.DictReader(file)}
