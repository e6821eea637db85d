"""The work of `pools.ordered` under Apache Beam, on many machines, with the same results in order.

    options = ['--runner=DirectRunner']  # or any other of Beam's runners
    with pools.engine(functools.partial(beam.ordered, folder=FOLDER, options=options)):
        ...

Beam gives no order and takes no answer back to the process that asked. So each job's result becomes
one file in `folder`, and this process reads the files in order and deletes them. Workers need this
package. They must see `folder` (a path or an address that Beam's file systems understand, as
gs://...) and whatever else the jobs name: a shared disk, mostly.
"""

import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator

from tfds_rsna.errors import UserError


def ordered(function: Callable, jobs: Iterable, *, folder: str, options: list[str]) -> Iterator:
    """Yields `function(job)` of every job, in the order of the jobs, from a Beam pipeline.

    Args:
        function: at the top level of a module: a worker imports it.
        jobs: picklable.
        folder: where the results pass through.
        options: of the pipeline.

    Raises:
        UserError: Beam is not installed, or a job raised it. Other errors come as Beam shows them.
    """
    try:
        import apache_beam as beam
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f'Apache Beam is not installed ({error}); give it an environment of its own: '
            'pip install -r requirements-beam.lock'
        ) from error
    jobs = list(enumerate(jobs))
    place = FileSystems.join(str(folder), f'beam-{uuid.uuid4().hex}')
    FileSystems.mkdirs(place)
    try:
        with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
            _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(_store, function, place)
        for number, _ in jobs:
            path = _path(place, number)
            with FileSystems.open(path) as file:
                result = pickle.load(file)
            FileSystems.delete([path])
            if isinstance(result, UserError):
                raise result
            yield result
    finally:
        FileSystems.delete([place])


def _path(place: str, number: int) -> str:
    return f'{place}/{number:08d}.pickle'


def _store(numbered, function: Callable, place: str) -> None:
    """Runs in a worker. A job that Beam runs twice leaves the same file twice."""
    from apache_beam.io.filesystems import FileSystems

    number, job = numbered
    try:
        result = function(job)
    except UserError as error:  # its message is for the user: not into one of Beam's tracebacks
        result = error
    attempt = f'{place}/{uuid.uuid4().hex}'
    with FileSystems.create(attempt) as file:
        pickle.dump(result, file)
    FileSystems.rename([attempt], [_path(place, number)])
