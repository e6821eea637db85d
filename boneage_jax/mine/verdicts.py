"""The review of masks: by rule, by eye, and what of it is accepted."""

import csv
import io
import os
import threading
import time

from boneage_jax.preprocess import mask_checks

VERDICTS = ('accept', 'reject', 'undo')


def by_rule(mask, pieces, classical, before, options):
    """(measures, reasons) of an image's mask: accepted by rule where there are no reasons.

    Args:
        mask: largest component of the prediction, uint8 `[H, W]`.
        pieces: how many pieces of some size the prediction had before.
        classical: the image's classical mask, `[H, W]`.
        before: its mask of the round before, or None.
        options: `config.mine`: the mask must agree with the classical one, or be as it was the
        round before.
    """
    measured = mask_checks.measures(mask, classical)
    if measured['area']:
        measured['components'] = float(pieces)
    if before is not None:
        measured['stability'] = mask_checks.iou(mask, before)
    agreement, stability = measured['agreement'], measured.get('stability', 0.0)
    reasons = mask_checks.reasons(
        {k: v for k, v in measured.items() if k not in ('agreement', 'stability')}
    )
    if agreement < options.agreement and stability < options.stability:
        reasons.append(
            f'agreement: {agreement:.2f} with the classical mask, not {options.agreement:g} or more'
            + (
                f'; {stability:.2f} with the round before, not {options.stability:g}'
                if before is not None and options.stability <= 1
                else ''
            )
        )
    return measured, reasons


class Verdicts:
    """What a person said, in a CSV `id,verdict,time`: each verdict is on disk before `add` returns,
    the last one counts.
    """

    def __init__(self, path):
        self.path, self._lock = path, threading.Lock()
        self.current = read(path)

    def add(self, image, verdict):
        if verdict not in VERDICTS:
            raise ValueError(f'verdict {verdict!r}: expected one of {", ".join(VERDICTS)}')
        with self._lock:
            begin = not self.path.exists() or not self.path.stat().st_size
            torn = not begin and not self.path.read_bytes().endswith(
                b'\n'
            )  # a line cut short by a full disk or a kill
            text = io.StringIO()
            rows = [('id', 'verdict', 'time')] * begin + [
                (image, verdict, time.strftime('%Y-%m-%dT%H:%M:%S'))
            ]
            csv.writer(text, lineterminator='\n').writerows(rows)
            with self.path.open('a', newline='') as file:
                file.write('\n' * torn + text.getvalue())
                file.flush()
                os.fsync(file.fileno())
            _apply(self.current, image, verdict)


def read(path):
    """`{id: 'accept' | 'reject'}` of a verdicts CSV; nothing where there is none. Lines cut short
    are passed over.
    """
    current = {}
    if path.exists():
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


def combine(ids, refused, eye, kept, number, *, classical):
    """`{id: (round of the mask, 'rule' | 'eye')}` of the accepted images; round 0 is the image's
    classical mask.

    `refused` `{id: reasons}` by rule, `eye` this round's verdicts, `kept` the accepted of the round
    before. A verdict by eye goes over the rule, and a mask accepted by eye stays with the image
    until another verdict. `classical`: what the rule accepts enters with its classical mask. So
    begins mining from nothing, whose first network has seen phantoms alone: it tells good classical
    masks from bad ones, but they follow a real hand's skin better than its own.

    An image stays with the mask that it was first accepted with. A network that trains on its own
    latest masks drifts: of 600 RSNA images the masks swelled from the fourth round on, and the
    accepted went from 527 in the third down to 451.
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


def read_accepted(path):
    """`{id: (round of the mask, 'rule' | 'eye')}` of an accepted.csv."""
    with path.open(newline='') as file:
        return {row['id']: (int(row['round']), row['by']) for row in csv.DictReader(file)}
