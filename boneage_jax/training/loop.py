"""The loop: build, resume, step, log, evaluate, save. No maths: that is in step.py."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from clu import parameter_overview
from flax import nnx

from boneage_jax import figures, tasks
from boneage_jax.data import augment, duplicates, pipeline, views
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import ConfigError, DivergedError
from boneage_jax.figures import examples as examples_lib
from boneage_jax.runs import initialize, predictor
from boneage_jax.runs import state as state_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import checkpoint, files, log, profiler, setup, sharding
from boneage_jax.stages import records
from boneage_jax.training import evaluate, feature_cache, flops, optimizer, programs
from boneage_jax.training import step as step_lib
from boneage_jax.training.classical_trainer import ClassicalTrainer
from boneage_jax.training.finalize import finalize
from boneage_jax.training.trainer import Trainer
from tfds_rsna.parallel import lock

INPUTS_SHOWN = 16  # images in figures/inputs.png
ATTENTION_SHOWN = 8  # images in figures/attention.png


def train(config: ml_collections.ConfigDict, workdir, data_dir=None) -> dict | None:
    """Trains (or resumes) the run of `config` in `workdir` and writes its results and figures.

    It starts from the workdir's latest checkpoint, else from `config.init_from`, else from scratch.
    What is reported is the best checkpoint.

    Args:
        config: the configuration.
        workdir: the folder of the run.
        data_dir: where the source's files are; $BONEAGE_DATA where it is None.

    Returns:
        The content of metrics.json; None where the run was asked to stop (SIGTERM) and saved.

    Raises:
        LockedError: another process uses the workdir.
        ConfigError: the configuration cannot be run, or the workdir holds a run of another one.
        DivergedError: the loss is not finite any more.
        CheckpointError: a checkpoint cannot be read or written.
        UserError: what is wrong with the data.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    setup.set_up_jax(config)
    main = sharding.is_main()
    trainer = TRAINERS[config.trainer]
    with contextlib.ExitStack() as stack:
        if main:
            stack.enter_context(lock.exclusive(workdir / '.lock', wait=False))
        workdir_lib.write_or_check_config(workdir, config, write=main)
        sharding.barrier('config')
        if (workdir / 'metrics.json').exists():
            log.info(
                f'{workdir} holds a finished run; delete it or choose another --workdir to train '
                'again.'
            )
            return workdir_lib.read_metrics(workdir)
        # Before hours of preparing: what cannot be built is refused now.
        trainer.check(config, fresh=not workdir_lib.has_results(workdir))
        splits = records.open_splits(config, data_dir)
        workdir_lib.write_or_check_splits(workdir, splits, write=main)
        about = {
            'labels': workdir_lib.label_digests(splits),
            'records': splits['train'].folder,
            'leaks': duplicates.check(splits, workdir) if main else {},
        }
        return trainer(config, workdir, splits, about).run()


class GradientTrainer:
    """Everything that one gradient-trained run holds; `run()` is the loop."""

    def __init__(self, config, workdir, splits, about=None):
        self.config = config
        self.workdir = workdir
        self.about = about or {}
        self.main = sharding.is_main()
        self.mesh = sharding.make_mesh()
        self.images = splits
        self.splits = splits  # what the network reads: the images, or kept features of them

        model = predictor.build_model(config)
        self.attends = getattr(model, 'gate', None) is not None
        self.keeps_features = feature_cache.can_cache(config, model)
        self.batches = self._batches('host' if self.keeps_features else config.data.placement)
        steps_per_epoch = self.batches.steps_per_epoch
        self.total = config.epochs * steps_per_epoch
        self.task = self._fit_task()
        self.rate = optimizer.schedule(
            config.optimizer, steps_per_epoch=steps_per_epoch, total_steps=self.total
        )
        transform = optimizer.build(config.optimizer, self.rate)
        state, self.graphdefs = state_lib.create_state(
            model, transform, config.frozen, averaged=config.ema > 0
        )
        steps = programs.build(config, state, self.graphdefs, self.task, transform, self.mesh)
        self.state = sharding.place(jax.tree.map(np.asarray, state), steps.places)
        self.train_step = steps.train_step
        self.batch_stats_step = steps.batch_stats_step
        self.eval_step = steps.eval_step

    @staticmethod
    def check(config, *, fresh):
        """Refuses what could not be built or traced later, within a second."""
        sharding.check_batch_size(config.batch_size, sharding.make_mesh(), config.grad_accum_steps)
        task = tasks.for_checks(config.task)
        if config.turn_tta and task.kind in ('segmentation', 'keypoints'):
            raise ConfigError(
                f'turn_tta={config.turn_tta}: the task {config.task.name} has no mean over turned '
                'images; give turn_tta=0'
            )
        if config.grad_accum_steps > 1 and task.batch_dependent_loss:
            raise ConfigError(
                f'grad_accum_steps={config.grad_accum_steps}: the loss of '
                f'task.name={config.task.name!r} compares all images of a batch; set '
                'grad_accum_steps=1 and lower batch_size, or take more devices'
            )
        model = nnx.eval_shape(lambda: predictor.build_model(config))
        feature_cache.can_cache(config, model)
        _, *arrays = state_lib.partition(model, config.frozen)
        if config.ema and not config.precise_bn_batches and arrays[-1]:
            raise ConfigError(
                f'ema={config.ema:g}: batch statistics of the averaged parameters are needed; set '
                'precise_bn_batches (50, say)'
            )
        if fresh:
            initialize.check(config, state_lib.State(None, *arrays, None, None))
        model.eval()

        def loss(model, batch):
            batch = augment.to_float(batch)
            return task.loss(*model(batch['image'], batch['male']), batch)[0]

        jax.eval_shape(loss, model, programs.batch_shapes(config, 2))

    def run(self):
        with contextlib.ExitStack() as stack:
            self.checkpoints = stack.enter_context(
                checkpoint.Checkpoints(self.workdir, clean=self.main)
            )
            start = self._resume()
            # Before SIGTERM waits for the end of a step: a stop at once loses nothing here.
            if self.keeps_features:
                self._take_features()
            preemption = stack.enter_context(sharding.Preemption())
            self._introduce(start)
            with self._reporting(start):
                finished = self._loop(start, preemption)
            if not finished:
                log.info(
                    f'Asked to stop: saved step {int(self.state.step)} in {self.workdir}. '
                    'Run the same command to go on.'
                )
                return None
            return self._report_best()

    def _resume(self):
        """Loads what the run starts from; returns the step."""
        if self.checkpoints.latest is not None:
            self.state = self.checkpoints.load(self.state)
            log.info(f'Resuming {self.workdir} at step {self.checkpoints.latest}.')
        else:
            state = initialize.start(self.state, self.config, self.splits)
            if state.averages:
                averages = jax.tree.map(jnp.copy, state.params)
                state = dataclasses.replace(state, averages=averages)
            self.state = state
        return int(self.state.step)

    @contextlib.contextmanager
    def _reporting(self, start):
        """The log, the progress bar and the profiler, closed at the end however the loop ends."""
        self.log = log.Log(self.workdir, step=start, active=self.main)
        self.progress = log.Progress(self.total, start, active=self.main)
        self.trace = profiler.Profiler(
            self.config.profile_steps, self.workdir / 'profile', active=self.main
        )
        try:
            yield
        finally:
            self.trace.close()
            self.progress.close()
            self.log.close()

    def _loop(self, start, preemption):
        """True when the run reached its end, False when it was asked to stop (and saved)."""
        if self._out_of_patience():  # stopped by patience, then killed before its report
            return True
        config = self.config
        key = jax.random.key(config.seed)
        steps_between_evaluations = config.eval_every_epochs * self.batches.steps_per_epoch
        stream = self.batches.iterate(start, self.total)
        pending = []  # metrics of the steps since the last line of the log
        began = time.monotonic()
        for step in range(start + 1, self.total + 1):
            batch = sharding.shard_batch(next(stream), self.mesh)
            self.trace.before(step)
            called = time.monotonic()
            self.state, metrics = self.train_step(self.state, batch, self.batches.resident, key)
            if step == start + 1:  # the call returns when the step is compiled, before it has run
                log.info(f'Compiled in {time.monotonic() - called:.1f} s.')
            self.trace.after(step, metrics)
            pending.append(metrics)

            evaluating = step % steps_between_evaluations == 0 or step == self.total
            if step == start + 1 or step % config.log_every_steps == 0 or evaluating:
                self._log(step, pending, began)
                # Not before: other hosts wait half a minute at most for the first step.
                if step == 1 and self.main:
                    self._draw_inputs()
                pending = []
                began = time.monotonic()
            if evaluating:
                self._evaluate(step)
                if self._out_of_patience():
                    return True
                began = time.monotonic()
            elif step % config.checkpoint_every_steps == 0:
                began += self._save(step)
            if preemption.requested(step) and step < self.total:
                if self.checkpoints.latest != step:
                    self._save(step)
                return False
        return True

    def _out_of_patience(self):
        return 0 < self.config.patience <= int(self.state.loop_state['evals_since_best'])

    def _log(self, step, pending, began):
        """A line of the log over the steps `pending`, which began at the time `began`."""
        # Waits for the device, so that the time below is the time of the steps.
        self._check_healthy()
        totals = {}
        for name in pending[0]:
            values = [jax.device_get(metrics[name]) for metrics in pending]
            totals[name] = np.sum(values, axis=0)
        means = {name: float(total / count) for name, (total, count) in totals.items()}
        seconds = time.monotonic() - began
        images_per_second = len(pending) * self.config.batch_size / seconds
        self.log.write(
            'train',
            step,
            epoch=round(self._epoch(step), 4),
            **means,
            images_per_second=round(images_per_second, 1),
            seconds=round(seconds, 3),
            learning_rate=float(self.rate(step - 1)) * float(self.state.loop_state['lr_scale']),
        )
        metric = self.task.selection_metric
        shown = {'loss': means['loss'], metric: means[metric]}
        self.progress.update(step, **shown, **{'images/s': f'{images_per_second:.0f}'})

    def _evaluate(self, step):
        """Evaluates the selecting split, updates the loop's state, saves."""
        began = time.monotonic()
        split = self.splits[splits_lib.selecting(splits_lib.SELECTING, 'the checkpoint')]
        self._refresh_batch_stats()
        _, means = self._predict(split)
        value = means[self.task.selection_metric]
        if not np.isfinite(value):
            raise DivergedError(
                f'step {step}: the {split.name} error is not finite; {self._last_good()} Lower '
                'optimizer.learning_rate or set optimizer.grad_clip_norm, in a new --workdir.'
            )
        loop_state = step_lib.update_loop_state(
            jax.device_get(self.state.loop_state), value, step, self.config.optimizer
        )
        self.state = dataclasses.replace(
            self.state, loop_state=sharding.place_replicated(loop_state, self.mesh)
        )
        self.log.write(
            'eval',
            step,
            epoch=round(self._epoch(step), 4),
            split=split.name,
            **means,
            seconds=round(time.monotonic() - began, 3),
        )
        if self.main:
            show = self.task.metric_format.format
            log.info(
                f'epoch {self._epoch(step):.0f}/{self.config.epochs}: {split.name} {show(value)} '
                f'(best {show(float(loop_state["best"]))})'
            )
        is_best = loop_state['best_step'] == step
        self._save(step, value if is_best else None)

    def _refresh_batch_stats(self):
        """Replaces the running batch statistics by those of the first training batches.

        These are not augmented; `step.make_batch_stats_step` says why.
        """
        count = min(self.config.precise_bn_batches, self.batches.steps_per_epoch)
        if not count:
            return
        evaluated = self.state.evaluated()
        total = None
        for number in range(count):
            batch = sharding.shard_batch(self.batches(number), self.mesh)
            one = self.batch_stats_step(evaluated, batch, self.batches.resident)
            total = one if total is None else jax.tree.map(jnp.add, total, one)
        mean = jax.tree.map(lambda x: x / count, total)
        self.state = dataclasses.replace(self.state, batch_stats=mean)

    def _predict(self, split):
        return evaluate.predict(
            self.eval_step,
            self.state.evaluated(),
            split,
            batch_size=self.config.batch_size,
            mesh=self.mesh,
        )

    def _save(self, step, value=None):
        """Saves a checkpoint, with `value` as one of the best; returns the seconds it took."""
        began = time.monotonic()
        self._check_healthy()
        self.checkpoints.save(step, self.state, value)
        return time.monotonic() - began

    def _check_healthy(self):
        """Raises DivergedError before anything of a broken state is written.

        It looks whenever the host waits anyway.
        """
        bad = int(self.state.loop_state['first_nonfinite_step'])
        if bad < 0:
            return
        raise DivergedError(
            f'step {bad}: the loss or its gradient is not finite; images of that batch: '
            f'{", ".join(self.batches.ids(bad))}; {self._last_good()} Look at these images, lower '
            'optimizer.learning_rate or set optimizer.grad_clip_norm, in a new --workdir.'
        )

    def _last_good(self):
        latest = self.checkpoints.latest
        if latest is None:
            return 'no checkpoint was saved before.'
        return f'the last good checkpoint is step {latest} in {self.checkpoints.directory}.'

    def _report_best(self):
        """Predicts with the best checkpoint, writes results and figures."""
        best = self.checkpoints.best
        self.state = self.checkpoints.load(self.state, best)
        written = finalize(
            self.workdir,
            self.task,
            self.splits,
            lambda split: self._predict(split)[0],
            **self.about,
            step=best,
            epoch=self._epoch(best),
            flip_tta=self.config.flip_tta,
            minutes=log.minutes(self.workdir),
        )
        if self.main and self.attends:
            self._draw_attention()
        return written

    # What the run is built from.

    def _fit_task(self):
        path = self.workdir / 'task.json'
        if not path.exists() and self.main:
            files.write_json(path, tasks.fit(self.config.task, self.splits['train'].months))
        sharding.barrier('task')
        return tasks.build(self.config.task, json.loads(path.read_text()))

    def _batches(self, placement):
        return pipeline.TrainBatches(
            self.splits['train'],
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            placement=placement,
            mesh=self.mesh,
        )

    def _take_features(self):
        """Trains on what the frozen backbone makes of the images from here on."""
        folder = files.cache_folder() / 'features'
        self.splits = feature_cache.with_features(
            self.images, self.state, self.graphdefs, self.config, folder
        )
        self.batches = self._batches(self.config.data.placement)

    def _epoch(self, step):
        return step / self.batches.steps_per_epoch

    # What a person sees of it.

    def _introduce(self, start):
        count = parameter_overview.count_parameters(self.state.params)
        frozen = parameter_overview.count_parameters(self.state.frozen_params)
        parameters = f'{count:,} trainable parameters'
        if frozen:
            parameters += f', {frozen:,} frozen'
        sizes = ', '.join(f'{name} {len(split):,}' for name, split in self.splits.items())
        log.info(
            f'{self.config.model.name}: {parameters}; {self._forward_cost()}images: {sizes}; '
            f'{self.total - start:,} steps of {self.config.batch_size} on {jax.device_count()} '
            f'{jax.devices()[0].device_kind}.'
        )
        log.info('Compiling the training step; the first step takes some seconds to a few minutes.')

    def _forward_cost(self):
        """'1.08 GFLOP an image (forward); ', or nothing where XLA does not say."""
        size = self.config.batch_size
        split = self.splits[splits_lib.SELECTING]
        # A batch as evaluation has it: so it is traced only once.
        batch = sharding.shard_batch(next(pipeline.eval_batches(split, batch_size=size)), self.mesh)
        count = flops.flops(self.eval_step, self.state, batch, {})
        if not count:
            return ''
        passes = size * views.Views.of_config(self.config).count
        return f'{flops.format_flops(count / passes)} an image (forward); '

    def _draw_inputs(self):
        """figures/inputs.png: the first images as the network sees them, augmented.

        Of classes also figures/counts.png.
        """
        folder = self.workdir / 'figures'
        train = self.images['train']
        first = self.batches.indices(0)[:INPUTS_SHOWN]
        augmented = jax.jit(
            functools.partial(augment.augment, options=self.config.augment.to_dict())
        )(jax.random.key(self.config.seed), pipeline.take(train, first))
        captions = []
        for i in first:
            sex = 'M' if train.male[i] else 'F'
            captions.append(f'{train.ids[i]}: {train.months[i]:g} mo {sex}')
        figures.image_sheet(np.asarray(augmented['image']), captions, folder / 'inputs.png')
        fitted = json.loads((self.workdir / 'task.json').read_text())
        if 'edges' in fitted:
            figures.counts(train.months, train.male, fitted['edges'], folder / 'counts.png')

    def _draw_attention(self):
        """figures/attention.png: what the best network looks at."""
        seen = examples_lib.predict_examples(
            predictor.Predictor(self.workdir), self.images[splits_lib.SELECTING], ATTENTION_SHOWN
        )
        figures.draw_attention(*seen, self.workdir / 'figures' / 'attention.png')


TRAINERS: dict[str, type[Trainer]] = {
    'gradient': GradientTrainer,
    'classical': ClassicalTrainer,
}
