"""What a run tells: JSON lines in the workdir, TensorBoard, a progress bar, plain sentences."""

import json
import sys
import time

import tqdm

from boneage_jax.runtime import files

_SECONDS = 30  # between two lines of Progress where there is no terminal


class Log:
    """Appends to `metrics.jsonl`, and to TensorBoard's files where tensorboardX is installed.

    On resume at `step`, lines from later steps (of the part that was lost) are dropped.
    """

    def __init__(self, workdir, *, step: int, active: bool = True):
        self._active = active
        self._file = None
        self._board = None
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

    def write(self, kind: str, step: int, **values):
        """Writes `{"kind": "train" | "eval", "step": ..., values}`, on disk before this returns."""
        if not self._active:
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


def minutes(workdir) -> float:
    """The run's minutes of training and evaluation, over all its stops; lost parts do not count."""
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return round(sum(json.loads(line)['seconds'] for line in lines) / 60, 2)


def _step_of(line):
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return float('inf')


def info(text: str):
    """A sentence for the person at the terminal; it does not tear the progress bar."""
    tqdm.tqdm.write(text, file=sys.stderr)


class Progress:
    """A bar over the run's steps with loss, images/s and the time left.

    Where there is no terminal it is one line every 30 s.
    """

    def __init__(self, total: int, start: int, *, active: bool = True):
        terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=start,
            unit='step',
            disable=not active or not terminal,
            dynamic_ncols=True,
            bar_format='{percentage:3.0f}% |{bar}| step {n_fmt}/{total_fmt} {postfix} '
            '[{elapsed} < {remaining}]',
        )
        self._plain = active and not terminal
        self._total = total
        self._step = start
        # (step, time) of the first update: compilation does not count against the rate.
        self._first = None
        self._told = time.monotonic()

    def update(self, step: int, **values):
        """Moves to `step` and shows `values` (numbers or texts)."""
        texts = []
        for name, value in values.items():
            texts.append(f'{name} {value:.4g}' if isinstance(value, float) else f'{name} {value}')
        text = '  '.join(texts)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._step)
        self._step = step
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        if self._plain and (now - self._told > _SECONDS or step == self._total):
            self._told = now
            info(f'step {step}/{self._total}  {text}{self._left(now)}')

    def _left(self, now):
        step, began = self._first
        done = self._step - step
        if not done:
            return ''
        return f'  {duration((self._total - self._step) * (now - began) / done)} left'

    def close(self):
        self._bar.close()


def duration(seconds: float) -> str:
    """125.0 -> '2 min 05 s'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes:02d} min'
    if minutes:
        return f'{minutes} min {seconds:02d} s'
    return f'{seconds} s'
