"""A profiler trace of some steps of a run: what the device did, and what the host did meanwhile."""

import jax

from boneage_jax.runtime import log


class Profiler:
    """Traces the steps of `steps` into `folder`; call `before` and `after` of each step.

    '10:15' are the steps 10 to 15, '' is none. A run that resumes among them traces the rest of
    them. `close` ends a trace that the run's end cut short.
    """

    def __init__(self, steps: str, folder, *, active: bool = True):
        self._first, self._last = 1, 0  # none
        if steps and active:
            self._first, self._last = map(int, steps.split(':'))
        self._folder = folder
        self._running = False

    def before(self, step: int):
        if self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result):
        """`result`: what the step gave; the trace ends when that is there."""
        if self._running and step >= self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self):
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info(
                f'Profiler trace: {self._folder}; open its .trace.json.gz in '
                'https://ui.perfetto.dev, or the folder in TensorBoard with the plugin xprof.'
            )
