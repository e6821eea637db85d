"""A run without a network: the records read, `classical.py` fitted, the same report as of a
network.
"""

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

    about = {}  # what metrics.json says of the images: set before `go`

    def __init__(self, config, workdir, splits):
        self.config, self.workdir, self.splits = config, workdir, splits

    @staticmethod
    def check(config, *, fresh):
        if config.model.name not in classical.MODELS:
            raise ConfigError(
                f"model.name={config.model.name!r}: trainer='classical' knows "
                + ', '.join(classical.MODELS)
            )
        classical.MODELS[config.model.name](config.model)

    def run(self):
        splits, began = self.splits, time.monotonic()
        train = splits['train']
        log.info(f'Fitting {self.config.model.name} on {len(train):,} images.')
        if self.config.model.name == 'pca_logistic' and (
            above := int((train.months > classical.MONTHS[1]).sum())
        ):
            log.info(
                f'{above:,} training images older than {classical.MONTHS[1]} months count to the class of '
                f'{classical.MONTHS[1]} months; errors are against the true ages.'
            )
        images = {name: split.arrays(range(len(split)))['image'] for name, split in splits.items()}
        selecting = splits_lib.selecting(splits_lib.SELECTING, 'the number of components')
        data = [
            (images[name], splits[name].months, splits[name].male) for name in ('train', selecting)
        ]
        model = classical.fit(*data, self.config.model, seed=self.config.seed)
        kept = {'male' if sex else 'female': n for sex, n in model.components.items()}
        log.info(f'Components kept by validation MAE: {kept}')
        figures.components(
            model, images['train'].shape[1:3], self.workdir / 'figures' / 'components.png'
        )
        figures.counts(train.months, train.male, (), self.workdir / 'figures' / 'counts.png')
        task = tasks.build(self.config.task, tasks.fit(self.config.task, train.months))
        return finalize(
            self.workdir,
            dataclasses.replace(task, report=functools.partial(_with_readings, task.report)),
            splits,
            lambda split: model.predict(images[split.name], split.male),
            **self.about,
            components=kept,
            minutes=round((time.monotonic() - began) / 60, 2),
        )


def _with_readings(of_task, columns, split, train_months):
    """The task's report, and the MAE of each other reading of the classes."""
    found = of_task(columns, split, train_months)
    errors = {
        f'{name}_mae': np.abs(columns[name] - split.months)
        for name in ('argmax', 'expectation')
        if name in columns
    }
    found['overall'] |= metrics.intervals(errors) if errors else {}
    return found
