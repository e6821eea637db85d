"""The rounds of positive mining: train, predict, keep the largest component, review, grow.

Iglovikov 2018, section 3.2. Whatever a round has finished is on disk and is not done again: its
run, its masks (in chunks), its review, its verdicts by eye, its accepted set. metrics.json is
written last: with it the round is over.
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

from boneage_jax.data import id_spaces
from boneage_jax.errors import ConfigError
from boneage_jax.mine import images as images_lib
from boneage_jax.mine import page, sheets, verdicts, views
from boneage_jax.runs import predictor as predictor_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import files, log
from boneage_jax.stages import cache
from boneage_jax.training import loop
from tfds_rsna import prepared
from tfds_rsna.errors import UserError
from tfds_rsna.parallel import lock

# What `mine.agreement_with` names, in words.
OTHER_MASKS = {'classical': 'classical masks', 'views': 'masks of turned views'}
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


def checked(
    config: ml_collections.ConfigDict, *, rounds: int | None = None, review: str | None = None
) -> ml_collections.ConfigDict:
    """The config with `mine.rounds` and `mine.review` replaced where given.

    Raises ConfigError where it cannot be mined with.
    """
    config = config.copy_and_resolve_references()
    if 'mine' not in config or config.task.name != 'segmentation':
        raise ConfigError('this config mines no masks; take configs/unet.py')
    with config.unlocked():
        if rounds is not None:
            config.mine.rounds = rounds
        if review:
            config.mine.review = review
    for key, holds, expected in (
        ('rounds', lambda x: x >= 1, 'at least 1'),
        ('epochs', lambda x: x >= 1, 'at least 1'),
        ('count', lambda x: x >= 0, '0 (all) or more'),
        ('agreement', lambda x: 0 < x <= 1, 'above 0, at most 1'),
        ('stability', lambda x: x > 0, 'above 0'),
        ('review', lambda x: x in ('rule', 'web'), "'rule' or 'web'"),
        ('agreement_with', lambda x: x in ('classical', 'views'), "'classical' or 'views'"),
        ('first_epochs', lambda x: x >= 0, '0 (as `epochs` of the config) or more'),
        ('seed_repeats', lambda x: x >= 1, 'at least 1'),
        ('resize', lambda x: x in ('pad', 'stretch'), "'pad' or 'stretch'"),
        ('port', lambda x: 0 <= x < 65536, '0 to 65535'),
    ):
        if not holds(config.mine[key]):
            raise ConfigError(f'mine.{key}={config.mine[key]!r}: expected {expected}')
    return config


def mine(config: ml_collections.ConfigDict, workdir, data_dir=None, seed_masks=None) -> list[dict]:
    """Runs the rounds in `workdir`, or continues them; returns the metrics of every round.

    Args:
        config: as `checked` gives it.
        workdir: folder of the rounds.
        data_dir: where raw data is (default: $BONEAGE_DATA).
        seed_masks: path of masks that were drawn (see `tfds_rsna.annotations.mask_files.read`), or
            None for phantoms.

    Returns:
        Dicts; fewer than `mine.rounds` where a training was asked to stop.

    Raises:
        UserError: the workdir holds another mining, masks cannot be read, or a round accepts
            nothing.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with lock.exclusive(workdir / '.lock', wait=False):
        settings = json.loads(config.to_json())
        for key in ('rounds', 'review', 'port'):  # these may differ when a mining is continued
            del settings['mine'][key]
        settings['seed_masks'] = str(seed_masks or 'none')
        images_lib.write_or_check(workdir / 'mine.json', settings)
        drawn = []
        if seed_masks:
            drawn = images_lib.write_seeds(config, seed_masks, workdir / 'seeds', data_dir)
        examples = images_lib.MiningImages(config, data_dir, without=drawn)
        if config.mine.agreement_with == 'classical':
            examples.classical(workdir / 'classical')
        done = []
        for number in range(1, config.mine.rounds + 1):
            folder = workdir / f'round_{number}'
            if (folder / 'metrics.json').exists():
                done.append(workdir_lib.read_metrics(folder))
                continue
            log.info(f'Round {number} of {config.mine.rounds}.')
            run = run_config(config, workdir, number, len(drawn))
            report = loop.train(run, folder / 'train', data_dir)
            if report is None:  # asked to stop
                return done
            done.append(_Round(config, workdir, number, examples, bool(drawn)).finish(report))
        return done


def run_config(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, number: int, drawn: int = 0
) -> ml_collections.ConfigDict:
    """The config of the training of round `number`.

    `drawn` is how many masks it began with, 0 for phantoms.
    """
    plain = copy.deepcopy(config.to_dict())
    plain.pop('mine')
    run = ml_collections.ConfigDict(plain)
    if drawn:
        tenth = max(1, drawn // 10)
        run.data.source = 'prepared'
        run.data.folder = str(workdir / 'seeds')
        run.data.validation = tenth
        run.data.holdout = tenth
        run.data.stages = ()
        if config.mine.first_epochs:
            run.epochs = config.mine.first_epochs
    else:
        run.data.holdout_ids = ''  # ids of the mined images; phantoms have numbers too
    if number > 1:
        before = workdir / f'round_{number - 1}'
        folders = (*run.data.extra_train_folders, str(before / 'accepted'))
        run.data.extra_train_folders = folders
        run.data.train_repeats = config.mine.seed_repeats if drawn else 1
        run.init_from = str(before / 'train')
        run.init_map = {}
        run.epochs = config.mine.epochs
    return run.lock()


class _Round:
    """One round after its training: `finish(report of the training) -> its metrics`."""

    def __init__(self, config, workdir, number, images, drawn):
        self.config = config
        self.workdir = workdir
        self.number = number
        self.images = images
        self.drawn = drawn  # whether the mining began with drawn masks
        self.by = config.mine.agreement_with
        self.folder = workdir / f'round_{number}'
        self.began = time.monotonic()

    def finish(self, report):
        self._predict()
        rows = self._review()
        ids = self.images.ids
        eye = verdicts.Verdicts(self.folder / 'verdicts.csv')
        if self.config.mine.review == 'web':
            page.review(
                self.images,
                self._current_mask,
                rows,
                eye,
                port=self.config.mine.port,
                title=f'round {self.number}',
            )
        kept = {}
        if self.number > 1:
            kept = verdicts.read_accepted(self.workdir / f'round_{self.number - 1}/accepted.csv')
        refused = {row['id']: row['reasons'] for row in rows}
        classical = self.number == 1 and not self.drawn and self.by == 'classical'
        accepted = verdicts.combine(
            ids, refused, eye.current, kept, self.number, classical=classical
        )
        files.write_table(
            self.folder / 'accepted.csv',
            ('id', 'round', 'by'),
            [(name, *accepted[name]) for name in ids if name in accepted],
        )
        sheets.draw(self.images, self._current_mask, rows, accepted, self.folder)
        if not accepted:
            raise UserError(
                f'{self.folder}: none of {len(ids)} masks was accepted; look at refused.png and '
                'review.csv there for the reasons. Lower mine.agreement, begin with drawn masks, '
                'or accept some by eye (--review=web)'
            )
        self._write_records(accepted)
        metrics = self._metrics(rows, accepted, kept, eye.current, report)
        files.write_json(self.folder / 'metrics.json', metrics)
        self._log(metrics)
        return metrics

    def _predict(self):
        """Fills `masks/`: the largest component of each prediction, and how many pieces it had."""
        counts = {images_lib.SPLIT: len(self.images)}
        if cache.is_complete(self.folder / 'masks', counts):
            return
        predictor = predictor_lib.Predictor(self.folder / 'train')

        def answer(positions):
            images = self.images.images(positions)
            if self.by == 'views':
                return views.masks(predictor, images)
            logits, _ = predictor(images)
            return [views.component(logit > 0) for logit in logits]

        cache.fill(self.folder / 'masks', counts, lambda job: list(job[1]), answer=answer)

    def _mask(self, number, i):
        """The mask of image i of a round; of round 0, its classical mask."""
        if number:
            folder = self.workdir / f'round_{number}' / 'masks'
        else:
            folder = self.workdir / 'classical'
        return cache.read(folder, images_lib.SPLIT, i)['hand_mask']

    def _current_mask(self, i):
        return self._mask(self.number, i)

    def _review(self):
        """Every image's measures and reasons by rule; writes review.csv."""
        count = len(self.images)
        masks = images_lib.read_masks(self.folder / 'masks', count)
        if self.by == 'classical':
            others = images_lib.read_masks(self.workdir / 'classical', count)
        else:
            others = itertools.repeat(None, count)
        if self.number > 1:
            before = self.workdir / f'round_{self.number - 1}' / 'masks'
            previous = images_lib.read_masks(before, count)
        else:
            previous = itertools.repeat({'hand_mask': None}, count)
        rows = []
        for name, found, other, last in zip(self.images.ids, masks, others, previous, strict=True):
            measured, reasons = verdicts.by_rule(
                found['hand_mask'],
                int(found['pieces']),
                found['other_view'] if other is None else other['hand_mask'],
                last['hand_mask'],
                self.config.mine,
            )
            rows.append({'id': name, 'measures': measured, 'reasons': reasons})
        columns = ('id', 'accepted', *MEASURES, 'reasons')
        files.write_table(self.folder / 'review.csv', columns, map(_review_line, rows))
        return rows

    def _write_records(self, accepted):
        """`accepted/`: the accepted images with their masks, as prepared records.

        Their ids begin with 'mined-', as phantoms have numbers for ids too. They are the source's
        images still: the records declare its id space.
        """
        target = self.folder / 'accepted'
        about = {'accepted': {name: list(of) for name, of in sorted(accepted.items())}}
        about |= id_spaces.metadata(images_lib.native_data(self.config))
        if (target / prepared.MARKER).exists():
            if prepared.read_metadata(target)['accepted'] == about['accepted']:
                return
            shutil.rmtree(target)  # verdicts were added after a kill

        def examples():
            for i, name in enumerate(self.images.ids):
                if name in accepted:
                    number, _ = accepted[name]
                    mask = self._mask(number, i)[..., None]
                    yield self.images[i] | {'id': id_spaces.MINED + name, 'hand_mask': mask}

        prepared.write(target, {images_lib.SPLIT: examples()}, metadata=about)

    def _metrics(self, rows, accepted, kept, eye, report):
        agreement = _column(rows, 'agreement')
        stability = _column(rows, 'stability')
        inside = np.array([row['id'] in accepted for row in rows])
        rules = collections.Counter()
        for row in rows:
            rules.update(reason.partition(':')[0] for reason in row['reasons'])
        metrics = {
            'round': self.number,
            'images': len(rows),
            'accepted': len(accepted),
            'by_rule': sum(by == 'rule' for _, by in accepted.values()),
            'by_eye': sum(by == 'eye' for _, by in accepted.values()),
            'rejected_by_eye': sum(verdict == 'reject' for verdict in eye.values()),
            'new': len(set(accepted) - set(kept)),
            'dropped': len(set(kept) - set(accepted)),
            'refused_by_rule': dict(rules),
            f'iou_with_{self.by}': float(agreement.mean()),
            f'iou_with_{self.by}_accepted': float(agreement[inside].mean()),
        }
        if self.number > 1:
            metrics |= {
                'iou_with_previous': float(stability.mean()),
                'iou_with_previous_accepted': float(stability[inside].mean()),
                'unchanged': float((stability > 0.99).mean()),
            }
        held_out = {name: split['overall']['iou'] for name, split in report['splits'].items()}
        return metrics | {
            'iou_of_training': held_out,
            'minutes_of_training': report['minutes'],
            'minutes_of_the_rest': round((time.monotonic() - self.began) / 60, 2),
        }

    def _log(self, metrics):
        line = (
            f'Round {self.number}: {metrics["accepted"]:,} of {metrics["images"]:,} masks accepted '
            f'({metrics["new"]:,} new, {metrics["dropped"]:,} dropped); mean IoU with the '
            f'{OTHER_MASKS[self.by]} {metrics[f"iou_with_{self.by}"]:.3f}'
        )
        if self.number > 1:
            line += f', with round {self.number - 1} {metrics["iou_with_previous"]:.3f}'
        log.info(line)


def _review_line(row):
    """A line of review.csv."""
    measured = row['measures']
    figures = [f'{measured[name]:.4f}' if name in measured else '' for name in MEASURES]
    return (row['id'], not row['reasons'], *figures, '; '.join(row['reasons']))


def _column(rows, measure):
    """One measure of every image, NaN where it was not taken."""
    return np.array([row['measures'].get(measure, np.nan) for row in rows])
