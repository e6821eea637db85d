"""What a run says: JSON lines in the workdir (and TensorBoard where tensorboardX is installed), a
bar, plain words.
"""

import json
import sys
import time

import tqdm

from boneage_jax.runtime import files


class Log:
    """Appends to `metrics.jsonl`. On resume at `step`, lines from later steps (of the part that was
    lost) are dropped.
    """

    def __init__(self, workdir, *, step, active=True):
        self.active = active
        self._file = self._board = None
        if not active:
            return
        path = workdir / 'metrics.jsonl'
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            files.write_atomic(path, ''.join(line + '\n' for line in kept))
        self._file = path.open('a')
        try:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / 'tensorboard'), purge_step=step)
        except ImportError:
            pass

    def write(self, kind, step, **values):
        """One line `{"kind": "train" | "eval", "step": ..., values}`, on disk before this returns."""
        if not self.active:
            return
        self._file.write(json.dumps({'kind': kind, 'step': step, **values}) + '\n')
        self._file.flush()
        if self._board:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f'{kind}/{name}', value, step)

    def close(self):
        for sink in (self._file, self._board):
            if sink:
                sink.close()


def minutes(workdir):
    """The run's minutes of training and evaluation, over all its stops (the lost parts are not
    counted).
    """
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return round(sum(json.loads(line)['seconds'] for line in lines) / 60, 2)


def _step_of(line):
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return float('inf')


def info(text):
    """A sentence for the person at the terminal; does not tear the progress bar."""
    tqdm.tqdm.write(text, file=sys.stderr)


class Progress:
    """A bar over the run's steps with loss, images/s and the time left; one line every 30 s where
    there is no terminal.
    """

    def __init__(self, total, start, *, active=True):
        terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=start,
            unit='step',
            disable=not active or not terminal,
            dynamic_ncols=True,
            bar_format='{percentage:3.0f}% |{bar}| step {n_fmt}/{total_fmt} {postfix} [{elapsed} < {remaining}]',
        )
        self._plain = active and not terminal
        self._total, self._now = total, start
        self._first = (
            None  # (step, time) of the first update: compilation does not count against the rate
        )
        self._said = time.monotonic()

    def update(self, step, **values):
        text = '  '.join(
            f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in values.items()
        )
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._now)
        self._now, now = step, time.monotonic()
        self._first = self._first or (step, now)
        if self._plain and (now - self._said > 30 or step == self._total):
            self._said = now
            done, seconds = step - self._first[0], now - self._first[1]
            left = f'  {duration((self._total - step) * seconds / done)} left' if done else ''
            info(f'step {step}/{self._total}  {text}{left}')

    def close(self):
        self._bar.close()


def duration(seconds):
    """125.0 -> '2 min 05 s'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f'{hours} h {minutes:02d} min'
        if hours
        else f'{minutes} min {seconds:02d} s'
        if minutes
        else f'{seconds} s'
    )
