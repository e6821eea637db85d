"""The rounds of positive mining: train -> predict -> largest component -> review -> grow (Iglovikov
2018, section 3.2).

Whatever a round has finished is on disk and is not done again: its run, its masks (in chunks), its
review, its verdicts by eye, its accepted set. metrics.json is written last and says that the round
is over.
"""

import collections
import copy
import itertools
import json
import pathlib
import shutil
import time

import ml_collections
import numpy as np
from scipy import ndimage

from boneage_jax.errors import ConfigError
from boneage_jax.mine import images as images_lib
from boneage_jax.mine import page, sheets, verdicts
from boneage_jax.preprocess import hand_mask
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runtime import files, log
from boneage_jax.stages import cache
from boneage_jax.training import loop
from tfds_rsna import prepared
from tfds_rsna.errors import UserError
from tfds_rsna.parallel import lock

# of the largest component's area, from which on a second piece makes a prediction doubtful: the
# letters of markers are smaller, and are gone once the largest component is kept
PIECE = 0.1
MEASURES = (
    'agreement',
    'stability',
    'area',
    'border',
    'sides',
    'components',
    'holes',
    'smoothness',
    'solidity',
)


def checked(config, *, rounds=None, review=None):
    """The config with `mine.rounds` and `mine.review` replaced where given; ConfigError where it
    cannot be mined with.
    """
    config = config.copy_and_resolve_references()
    if 'mine' not in config or config.task.name != 'segmentation':
        raise ConfigError('this config mines no masks; take configs/unet.py')
    with config.unlocked():
        config.mine.rounds = config.mine.rounds if rounds is None else rounds
        config.mine.review = review or config.mine.review
    for key, holds, expected in (
        ('rounds', lambda x: x >= 1, 'at least 1'),
        ('epochs', lambda x: x >= 1, 'at least 1'),
        ('count', lambda x: x >= 0, '0 (all) or more'),
        ('agreement', lambda x: 0 < x <= 1, 'above 0, at most 1'),
        ('stability', lambda x: x > 0, 'above 0'),
        ('review', lambda x: x in ('rule', 'web'), "'rule' or 'web'"),
        ('resize', lambda x: x in ('pad', 'stretch'), "'pad' or 'stretch'"),
        ('port', lambda x: 0 <= x < 65536, '0 to 65535'),
    ):
        if not holds(config.mine[key]):
            raise ConfigError(f'mine.{key}={config.mine[key]!r}: expected {expected}')
    return config


def mine(config, workdir, data_dir=None, seed_masks=None):
    """Runs (or goes on with) the rounds in `workdir`; returns the metrics of every round, a list of
    dicts.

    `config` as `checked` gives it; `seed_masks`: the path of masks that were drawn (see
    `tfds_rsna.mask_files.read`), or None for phantoms. Returns fewer rounds where a training was
    asked to stop. Raises UserError where the workdir holds another mining, where masks cannot be
    read, where a round accepts nothing.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with lock.exclusive(workdir / '.lock', wait=False):
        plain = json.loads(config.to_json())
        plain['mine'] = {
            key: value
            for key, value in plain['mine'].items()
            if key not in ('rounds', 'review', 'port')
        }
        images_lib.write_or_check(
            workdir / 'mine.json', plain | {'seed_masks': str(seed_masks or 'none')}
        )
        drawn = (
            images_lib.write_seeds(config, seed_masks, workdir / 'seeds', data_dir)
            if seed_masks
            else []
        )
        examples = images_lib.MiningImages(config, data_dir, without=drawn)
        examples.classical(workdir / 'classical')
        done = []
        for number in range(1, config.mine.rounds + 1):
            folder = workdir / f'round_{number}'
            if (folder / 'metrics.json').exists():
                done.append(json.loads((folder / 'metrics.json').read_text()))
                continue
            log.info(f'Round {number} of {config.mine.rounds}.')
            report = loop.train(
                run_config(config, workdir, number, len(drawn)), folder / 'train', data_dir
            )
            if report is None:  # asked to stop
                return done
            done.append(_Round(config, workdir, number, examples, bool(drawn)).finish(report))
        return done


def run_config(config, workdir, number, drawn=0):
    """The config of the training of round `number`; `drawn`: how many masks it began with, 0 for
    phantoms.
    """
    plain = copy.deepcopy(config.to_dict())
    plain.pop('mine')
    run = ml_collections.ConfigDict(plain)
    if drawn:
        tenth = max(1, drawn // 10)
        run.data.update(
            source='prepared', folder=str(workdir / 'seeds'), validation=tenth, holdout=tenth
        )
    if number > 1:
        run.data.extra_train_folders = (str(workdir / f'round_{number - 1}' / 'accepted'),)
        run.init_from = str(workdir / f'round_{number - 1}' / 'train')
        run.init_map = {}
        run.epochs = config.mine.epochs
    return run.lock()


class _Round:
    """One round after its training: `finish(report of the training) -> its metrics`."""

    def __init__(self, config, workdir, number, examples, drawn):
        self.config, self.workdir, self.number, self.images, self.drawn = (
            config,
            workdir,
            number,
            examples,
            drawn,
        )
        self.folder, self.began = workdir / f'round_{number}', time.monotonic()

    def finish(self, report):
        self._predict()
        rows = self._review()
        ids, eye = self.images.ids, verdicts.Verdicts(self.folder / 'verdicts.csv')
        if self.config.mine.review == 'web':
            page.review(
                self.images,
                lambda i: self._mask(self.number, i),
                rows,
                eye,
                port=self.config.mine.port,
                title=f'round {self.number}',
            )
        before = self.workdir / f'round_{self.number - 1}' / 'accepted.csv'
        kept = verdicts.read_accepted(before) if self.number > 1 else {}
        refused = {row['id']: row['reasons'] for row in rows}
        accepted = verdicts.combine(
            ids,
            refused,
            eye.current,
            kept,
            self.number,
            classical=self.number == 1 and not self.drawn,
        )
        files.write_table(
            self.folder / 'accepted.csv',
            ('id', 'round', 'by'),
            [(i, *accepted[i]) for i in ids if i in accepted],
        )
        sheets.draw(self.images, lambda i: self._mask(self.number, i), rows, accepted, self.folder)
        if not accepted:
            raise UserError(
                f'{self.folder}: none of {len(ids)} masks was accepted; look at refused.png and review.csv '
                'there for the reasons. Lower mine.agreement, begin with drawn masks, or accept some by eye '
                '(--review=web)'
            )
        self._write_records(accepted)
        metrics = self._metrics(rows, accepted, kept, eye.current, report)
        files.write_json(self.folder / 'metrics.json', metrics)
        log.info(
            f'Round {self.number}: {len(accepted):,} of {len(ids):,} masks accepted ({metrics["new"]:,} new, '
            f'{metrics["dropped"]:,} dropped); mean IoU with the classical masks {metrics["iou_with_classical"]:.3f}'
            + (
                f', with round {self.number - 1} {metrics["iou_with_previous"]:.3f}'
                if self.number > 1
                else ''
            )
        )
        return metrics

    def _predict(self):
        """Fills `masks/`: the largest component of each prediction, and the number of its pieces."""
        counts = {images_lib.SPLIT: len(self.images)}
        if cache.is_complete(self.folder / 'masks', counts):
            return
        predictor = predictor_lib.Predictor(self.folder / 'train')

        def answer(positions):
            logits, _ = predictor(self.images.images(positions))
            return [_component(logit > 0) for logit in logits]

        cache.fill(self.folder / 'masks', counts, lambda job: list(job[1]), answer=answer)

    def _mask(self, number, i):
        folder = (
            self.workdir / f'round_{number}' / 'masks' if number else self.workdir / 'classical'
        )
        return cache.read(folder, images_lib.SPLIT, i)['hand_mask']

    def _review(self):
        """Every image's measures and reasons by rule; review.csv."""
        count = len(self.images)
        before = self.workdir / f'round_{self.number - 1}' / 'masks'
        masks = (
            images_lib.read_masks(self.folder / 'masks', count),
            images_lib.read_masks(self.workdir / 'classical', count),
        )
        befores = (
            images_lib.read_masks(before, count)
            if self.number > 1
            else itertools.repeat({'hand_mask': None}, count)
        )
        rows = []
        for i, (found, classical, previous) in enumerate(zip(*masks, befores, strict=True)):
            measured, reasons = verdicts.by_rule(
                found['hand_mask'],
                int(found['pieces']),
                classical['hand_mask'],
                previous['hand_mask'],
                self.config.mine,
            )
            rows.append({'id': self.images.ids[i], 'measures': measured, 'reasons': reasons})
        files.write_table(
            self.folder / 'review.csv',
            ('id', 'accepted', *MEASURES, 'reasons'),
            [
                (
                    row['id'],
                    not row['reasons'],
                    *(
                        f'{row["measures"][m]:.4f}' if m in row['measures'] else ''
                        for m in MEASURES
                    ),
                    '; '.join(row['reasons']),
                )
                for row in rows
            ],
        )
        return rows

    def _write_records(self, accepted):
        """`accepted/`: the accepted images with their masks, as prepared records.

        Their ids begin with 'mined-': phantoms have numbers for ids too, and a run that takes one
        image for another refuses.
        """
        target, about = (
            self.folder / 'accepted',
            {'accepted': {name: list(of) for name, of in sorted(accepted.items())}},
        )
        if (target / prepared.MARKER).exists():
            if prepared.read_metadata(target) == about:
                return
            shutil.rmtree(target)  # verdicts were added after a kill

        def examples():
            for i, name in enumerate(self.images.ids):
                if name in accepted:
                    yield self.images[i] | {
                        'id': f'mined-{name}',
                        'hand_mask': self._mask(accepted[name][0], i)[..., None],
                    }

        prepared.write(target, {images_lib.SPLIT: examples()}, metadata=about)

    def _metrics(self, rows, accepted, kept, eye, report):
        column = {
            m: np.array([row['measures'].get(m, np.nan) for row in rows])
            for m in ('agreement', 'stability')
        }
        inside = np.array([row['id'] in accepted for row in rows])
        metrics = {
            'round': self.number,
            'images': len(rows),
            'accepted': len(accepted),
            'by_rule': sum(by == 'rule' for _, by in accepted.values()),
            'by_eye': sum(by == 'eye' for _, by in accepted.values()),
            'rejected_by_eye': sum(verdict == 'reject' for verdict in eye.values()),
            'new': len(set(accepted) - set(kept)),
            'dropped': len(set(kept) - set(accepted)),
            'refused_by_rule': dict(
                collections.Counter(
                    reason.partition(':')[0] for row in rows for reason in row['reasons']
                )
            ),
            'iou_with_classical': float(column['agreement'].mean()),
            'iou_with_classical_accepted': float(column['agreement'][inside].mean()),
        }
        if self.number > 1:
            metrics |= {
                'iou_with_previous': float(column['stability'].mean()),
                'iou_with_previous_accepted': float(column['stability'][inside].mean()),
                'unchanged': float((column['stability'] > 0.99).mean()),
            }
        held_out = {name: split['overall']['iou'] for name, split in report['splits'].items()}
        return metrics | {
            'iou_of_training': held_out,
            'minutes_of_training': report['minutes'],
            'minutes_of_the_rest': round((time.monotonic() - self.began) / 60, 2),
        }


def _component(predicted):
    """The findings of a predicted mask [H, W]: its largest component, and its number of larger
    pieces.
    """
    mask = hand_mask.largest_component(predicted)
    labels, _ = ndimage.label(predicted, structure=np.ones((3, 3)))
    pieces = int((np.bincount(labels.ravel())[1:] > PIECE * mask.sum()).sum())
    return {'hand_mask': mask.astype(np.uint8), 'pieces': np.int32(pieces)}
