"""A run without a network: `classical.py` fitted on the records, reported as a network is."""

import dataclasses
import functools
import time

import numpy as np

from boneage_jax import figures, tasks
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import ConfigError
from boneage_jax.runtime import log
from boneage_jax.tasks import metrics
from boneage_jax.training import classical
from boneage_jax.training.finalize import finalize


class ClassicalTrainer:
    """Principal components and a regression: nothing to resume, minutes at most."""

    def __init__(self, config, workdir, splits, about=None):
        self.config = config
        self.workdir = workdir
        self.splits = splits
        self.about = about or {}

    @staticmethod
    def check(config, *, fresh):
        del fresh
        if config.model.name not in classical.MODELS:
            raise ConfigError(
                f"model.name={config.model.name!r}: trainer='classical' has "
                + ', '.join(classical.MODELS)
            )
        classical.MODELS[config.model.name](config.model)

    def run(self):
        began = time.monotonic()
        train = self.splits['train']
        log.info(f'Fitting {self.config.model.name} on {len(train):,} images.')
        if self.config.model.name == 'pca_logistic':
            _tell_of_the_oldest(train.months)
        images = {}
        for name, split in self.splits.items():
            images[name] = split.arrays(range(len(split)))['image']

        def labelled(name):
            return images[name], self.splits[name].months, self.splits[name].male

        selecting = splits_lib.selecting(splits_lib.SELECTING, 'the number of components')
        model = classical.fit(
            labelled('train'), labelled(selecting), self.config.model, seed=self.config.seed
        )
        kept = {'male' if sex else 'female': count for sex, count in model.components.items()}
        log.info(f'Components kept by validation MAE: {kept}')
        folder = self.workdir / 'figures'
        figures.components(model, images['train'].shape[1:3], folder / 'components.png')
        figures.counts(train.months, train.male, (), folder / 'counts.png')
        task = tasks.build(self.config.task, tasks.fit(self.config.task, train.months))
        return finalize(
            self.workdir,
            dataclasses.replace(task, report=functools.partial(_with_readings, task.report)),
            self.splits,
            lambda split: model.predict(images[split.name], split.male),
            **self.about,
            components=kept,
            minutes=round((time.monotonic() - began) / 60, 2),
        )


def _tell_of_the_oldest(months):
    oldest = classical.MONTHS[1]
    above = int((months > oldest).sum())
    if above:
        log.info(
            f'{above:,} training images older than {oldest} months count to the class of {oldest} '
            'months; errors are against the true ages.'
        )


def _with_readings(report_of_task, columns, split, train_months):
    """The task's report, and the MAE of each other reading of the classes."""
    report = report_of_task(columns, split, train_months)
    errors = {}
    for name in ('argmax', 'expectation'):
        if name in columns:
            errors[f'{name}_mae'] = np.abs(columns[name] - split.months)
    if errors:
        report['overall'] |= metrics.intervals(errors)
    return report
