"""The loop: build, resume, step, log, evaluate, save. No maths: that is in step.py."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from flax import nnx

from boneage_jax import figures, tasks
from boneage_jax.data import augment, duplicates, pipeline
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import ConfigError, DivergedError
from boneage_jax.figures import examples as examples_lib
from boneage_jax.runs import initialize, predictor
from boneage_jax.runs import state as state_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import checkpoint, files, log, profiler, setup, sharding
from boneage_jax.stages import records
from boneage_jax.training import evaluate, feature_cache, flops, optimizer
from boneage_jax.training import step as step_lib
from boneage_jax.training.classical_trainer import ClassicalTrainer
from boneage_jax.training.finalize import finalize
from tfds_rsna.parallel import lock


def train(config, workdir, data_dir=None):
    """Trains (or resumes) the run of `config` in `workdir`, evaluates its best checkpoint, writes
    results and figures.

    Returns the content of metrics.json; None where the run was asked to stop (SIGTERM) and saved.
    Resume order: the workdir's latest checkpoint, then `config.init_from`, then scratch. Raises
    Locked where another process uses the workdir, ConfigError where it holds a run of another
    configuration, Diverged, CheckpointError, and the data's errors.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    setup.set_up_jax(config)
    main, trainer = sharding.is_main(), TRAINERS[config.trainer]
    with lock.exclusive(workdir / '.lock', wait=False) if main else contextlib.nullcontext():
        workdir_lib.write_or_check_config(workdir, config, write=main)
        sharding.barrier('config')
        if (workdir / 'metrics.json').exists():
            log.info(
                f'{workdir} holds a finished run; delete it or choose another --workdir to train again.'
            )
            return workdir_lib.read_metrics(workdir)
        # Before hours of preparing: what cannot be built is refused now.
        trainer.check(config, fresh=not workdir_lib.has_results(workdir))
        splits = records.open_splits(config, data_dir)
        workdir_lib.write_or_check_splits(workdir, splits, write=main)
        found = duplicates.check(splits, workdir) if main else {}
        run = trainer(config, workdir, splits)
        run.about = {
            'labels': workdir_lib.label_digests(splits),
            'records': splits['train'].folder,
            'leaks': found,
        }
        return run.run()


class GradientTrainer:
    """Everything that one gradient-trained run holds; `run()` is the loop."""

    about = {}  # what metrics.json says of the images: set before `go`

    def __init__(self, config, workdir, splits):
        self.config, self.workdir, self.main = config, workdir, sharding.is_main()
        self.images = self.splits = (
            splits  # `splits` is what the network reads: images, or kept features of them
        )
        self.mesh = sharding.make_mesh()
        model = predictor.build_model(config)
        self.keeps_features, self.attends = (
            feature_cache.can_cache(config, model),
            getattr(model, 'gate', None) is not None,
        )
        self.batches = self._batches('host' if self.keeps_features else config.data.placement)
        self.total = config.epochs * self.batches.steps_per_epoch
        self.task = self._fit_task()
        self.rate = optimizer.schedule(
            config.optimizer, steps_per_epoch=self.batches.steps_per_epoch, total_steps=self.total
        )
        transform = optimizer.build(config.optimizer, self.rate)
        state, graphdefs = state_lib.create_state(model, transform, config.frozen)
        self.graphdefs = graphdefs
        replicated = sharding.replicated_sharding(self.mesh)
        places, whole = sharding.state_sharding(state, self.mesh, config.sharding)
        self.state = sharding.place(jax.tree.map(np.asarray, state), places)
        self.train_step = jax.jit(
            step_lib.make_train_step(
                graphdefs,
                self.task,
                transform,
                config.augment.to_dict(),
                grad_accum_steps=config.grad_accum_steps,
                whole=whole,
            ),
            donate_argnums=0,
            out_shardings=(places, replicated),
        )
        self.batch_stats_step = jax.jit(
            step_lib.make_batch_stats_step(graphdefs), out_shardings=replicated
        )
        self.eval_step = jax.jit(
            step_lib.make_eval_step(graphdefs, self.task, flip_tta=config.flip_tta),
            out_shardings=replicated,
        )

    def _batches(self, placement):
        return pipeline.TrainBatches(
            self.splits['train'],
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            placement=placement,
            mesh=self.mesh,
        )

    @staticmethod
    def check(config, *, fresh):
        """Refuses, within a second and before any data is touched, what could not be built or
        traced later.
        """
        sharding.check_batch_size(config.batch_size, sharding.make_mesh(), config.grad_accum_steps)
        augment.check(config.augment.to_dict())
        task = tasks.build(config.task, tasks.fit(config.task, np.array([0.0, 240.0])))
        if config.grad_accum_steps > 1 and task.batch_dependent_loss:
            raise ConfigError(
                f'grad_accum_steps={config.grad_accum_steps}: the loss of task.name={config.task.name!r} compares '
                'all images of a batch; set grad_accum_steps=1 and lower batch_size, or take more devices'
            )
        model = nnx.eval_shape(lambda: predictor.build_model(config))
        feature_cache.can_cache(config, model)
        _, *arrays = state_lib.partition(model, config.frozen)
        if fresh:
            initialize.check(config, state_lib.State(None, *arrays, None, None))
        batch = {'image': jnp.float32, 'hand_mask': jnp.uint8}
        batch = {
            name: jax.ShapeDtypeStruct((2, *config.data.size, 1), kind)
            for name, kind in batch.items()
        }
        batch |= {'keypoints': jax.ShapeDtypeStruct((2, 3, 2), jnp.float32)}
        batch |= {
            name: jax.ShapeDtypeStruct((2,), kind)
            for name, kind in {'months': jnp.float32, 'male': jnp.bool, 'valid': jnp.bool}.items()
        }
        model.eval()
        jax.eval_shape(lambda m, b: task.loss(*m(b['image'], b['male']), b)[0], model, batch)

    def _fit_task(self):
        path = self.workdir / 'task.json'
        if not path.exists() and self.main:
            files.write_json(path, tasks.fit(self.config.task, self.splits['train'].months))
        sharding.barrier('task')
        return tasks.build(self.config.task, json.loads(path.read_text()))

    def run(self):
        with contextlib.ExitStack() as stack:
            self.checkpoints = stack.enter_context(
                checkpoint.Checkpoints(self.workdir, clean=self.main)
            )
            start = self._resume()
            if (
                self.keeps_features
            ):  # before SIGTERM waits for the end of a step: here a stop at once loses nothing
                self.splits = feature_cache.with_features(
                    self.images,
                    self.state,
                    self.graphdefs,
                    self.config,
                    files.cache_folder() / 'features',
                )
                self.batches = self._batches(self.config.data.placement)
            preemption = stack.enter_context(sharding.Preemption())
            self._introduce(start)
            self.log = log.Log(self.workdir, step=start, active=self.main)
            self.progress = log.Progress(self.total, start, active=self.main)
            self.trace = profiler.Profiler(
                self.config.profile_steps, self.workdir / 'profile', active=self.main
            )
            try:
                finished = self._loop(start, preemption)
            finally:
                self.trace.close()
                self.progress.close()
                self.log.close()
            if not finished:
                log.info(
                    f'Asked to stop: saved step {int(self.state.step)} in {self.workdir}. '
                    'Run the same command to go on.'
                )
                return None
            return self._report_best()

    def _resume(self):
        if self.checkpoints.latest is not None:
            self.state = self.checkpoints.load(self.state)
            log.info(f'Resuming {self.workdir} at step {self.checkpoints.latest}.')
        else:
            self.state = initialize.start(self.state, self.config, self.splits)
        return int(self.state.step)

    def _introduce(self, start):
        config = self.config
        count = parameter_overview.count_parameters(self.state.params)
        sizes = ', '.join(f'{name} {len(split):,}' for name, split in self.splits.items())
        device = jax.devices()[0]
        frozen = parameter_overview.count_parameters(self.state.frozen_params)
        log.info(
            f'{config.model.name}: {count:,} trainable parameters{f", {frozen:,} frozen" if frozen else ""}; '
            f'{self._forward_cost()}images: {sizes}; '
            f'{self.total - start:,} steps of {config.batch_size} on {jax.device_count()} {device.device_kind}.'
        )
        log.info('Compiling the training step; the first step takes some seconds to a few minutes.')

    def _forward_cost(self):
        """'1.08 GFLOP an image (forward); ', or nothing where XLA does not say."""
        batches = pipeline.eval_batches(
            self.splits[splits_lib.SELECTING], batch_size=self.config.batch_size
        )
        batch = sharding.shard_batch(
            next(iter(batches)), self.mesh
        )  # as evaluation has it, which so is traced only once
        count = flops.flops(self.eval_step, self.state, batch, {})
        passes = self.config.batch_size * (2 if self.config.flip_tta else 1)
        return f'{flops.format_flops(count / passes)} an image (forward); ' if count else ''

    def _draw_inputs(self):
        """figures/inputs.png: the first images as the network sees them, augmented; of classes,
        counts.png.
        """
        train, first = self.images['train'], self.batches.indices(0)[:16]
        batch = {'months': train.months[first], 'male': train.male[first], **train.arrays(first)}
        seen = jax.jit(functools.partial(augment.augment, options=self.config.augment.to_dict()))(
            jax.random.key(self.config.seed), batch
        )
        captions = [
            f'{train.ids[i]}: {train.months[i]:g} mo {"M" if train.male[i] else "F"}' for i in first
        ]
        figures.image_sheet(
            np.asarray(seen['image']), captions, self.workdir / 'figures' / 'inputs.png'
        )
        if 'edges' in (fitted := json.loads((self.workdir / 'task.json').read_text())):
            figures.counts(
                train.months, train.male, fitted['edges'], self.workdir / 'figures' / 'counts.png'
            )

    def _loop(self, start, preemption):
        """True when the run reached its end, False when it was asked to stop (and saved)."""
        config, key = self.config, jax.random.key(self.config.seed)
        every = config.eval_every_epochs * self.batches.steps_per_epoch
        pending, began = [], time.monotonic()
        if self._out_of_patience():  # stopped by patience, then killed before its report
            return True
        stream = self.batches.iterate(start, self.total)
        for step in range(start + 1, self.total + 1):
            batch = sharding.shard_batch(next(stream), self.mesh)
            self.trace.before(step)
            called = time.monotonic()
            self.state, metrics = self.train_step(self.state, batch, self.batches.resident, key)
            if step == start + 1:  # the call returns when the step is compiled, before it has run
                log.info(f'Compiled in {time.monotonic() - called:.1f} s.')
            self.trace.after(step, metrics)
            pending.append(metrics)
            evaluating = step % every == 0 or step == self.total
            if step == start + 1 or step % config.log_every_steps == 0 or evaluating:
                self._log(step, pending, began)
                if (
                    step == 1 and self.main
                ):  # not before: other hosts wait half a minute at most for the first step
                    self._draw_inputs()
                pending, began = [], time.monotonic()
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
        # waits for the device, so that the time below is the time of the steps
        self._check_healthy()
        totals = {
            name: np.sum([jax.device_get(m[name]) for m in pending], axis=0) for name in pending[0]
        }
        means = {name: float(total / count) for name, (total, count) in totals.items()}
        seconds = time.monotonic() - began
        rate = len(pending) * self.config.batch_size / seconds
        epoch = step / self.batches.steps_per_epoch
        self.log.write(
            'train',
            step,
            epoch=round(epoch, 4),
            **means,
            images_per_second=round(rate, 1),
            seconds=round(seconds, 3),
            learning_rate=float(self.rate(step - 1)) * float(self.state.loop_state['lr_scale']),
        )
        self.progress.update(
            step,
            **{
                'loss': means['loss'],
                self.task.selection_metric: means[self.task.selection_metric],
                'images/s': f'{rate:.0f}',
            },
        )

    def _refresh_statistics(self):
        """Batch statistics of the first training batches, not augmented, in the place of the
        running ones.
        """
        count = min(self.config.precise_bn_batches, self.batches.steps_per_epoch)
        total = None
        for batch in map(self.batches, range(count)):
            one = self.batch_stats_step(
                self.state, sharding.shard_batch(batch, self.mesh), self.batches.resident
            )
            total = one if total is None else jax.tree.map(jnp.add, total, one)
        if count:
            mean = jax.tree.map(lambda x: x / count, total)
            self.state = dataclasses.replace(self.state, batch_stats=mean)

    def _evaluate(self, step):
        split, began = (
            self.splits[splits_lib.selecting(splits_lib.SELECTING, 'the checkpoint')],
            time.monotonic(),
        )
        self._refresh_statistics()
        _, means = evaluate.predict(
            self.eval_step, self.state, split, batch_size=self.config.batch_size, mesh=self.mesh
        )
        value, shown = means[self.task.selection_metric], self.task.metric_format.format
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
        epoch = step / self.batches.steps_per_epoch
        self.log.write(
            'eval',
            step,
            epoch=round(epoch, 4),
            split=split.name,
            **means,
            seconds=round(time.monotonic() - began, 3),
        )
        if self.main:
            log.info(
                f'epoch {epoch:.0f}/{self.config.epochs}: {split.name} {shown(value)} '
                f'(best {shown(float(loop_state["best"]))})'
            )
        self._save(step, value if loop_state['best_step'] == step else None)

    def _save(self, step, value=None):
        """Returns the seconds it took."""
        began = time.monotonic()
        self._check_healthy()
        self.checkpoints.save(step, self.state, value)
        return time.monotonic() - began

    def _check_healthy(self):
        """Raises Diverged before anything of a broken state is written; looked at whenever the host
        waits anyway.
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
        return (
            f'the last good checkpoint is step {latest} in {self.checkpoints.directory}.'
            if latest is not None
            else 'no checkpoint was saved before.'
        )

    def _report_best(self):
        best = self.checkpoints.best
        self.state = self.checkpoints.load(self.state, best)

        def predict(split):
            return evaluate.predict(
                self.eval_step, self.state, split, batch_size=self.config.batch_size, mesh=self.mesh
            )[0]

        written = finalize(
            self.workdir,
            self.task,
            self.splits,
            predict,
            **self.about,
            step=best,
            epoch=best / self.batches.steps_per_epoch,
            flip_tta=self.config.flip_tta,
            minutes=log.minutes(self.workdir),
        )
        if self.main and self.attends:
            seen = examples_lib.predict_examples(
                predictor.Predictor(self.workdir), self.images[splits_lib.SELECTING], 8
            )
            figures.draw_attention(*seen, self.workdir / 'figures' / 'attention.png')
        return written


TRAINERS = {'gradient': GradientTrainer, 'classical': ClassicalTrainer}
