"""The trained network of a run as one file: its best parameters and batch statistics.

    boneage export --workdir=runs/a --output=a.safetensors

The arrays have our names. The metadata, texts by key, holds all that it takes to use the network
and to judge it:

- `format`, `format_version`: 'boneage_jax' and the version of this list.
- `config`, `task`: the run's config.json and task.json. Paths that say where somebody's files are
  (absolute ones, and those that lead through `~` or `..`) keep their last name alone.
- `kind`, `step`: what it predicts, and the checkpoint's step.
- `dtype`: of the parameters in the file. What does not fit float16 is float32.
- `commit`, `version`: of the code that exported it.
- `figures`: a JSON file of the caller's, or what the run's metrics.json says of its splits.
- `intervals`: 90% intervals by sex, `inference/intervals.py`, where the run predicts ages.
- `stage_networks`: the shipped networks that prepare its images, `{name: sha256}` of their files.
- `about`: a JSON file of the caller's, with keys such as `data`, `terms`, `description`.
- `trained_on`, `selected_by`: hashes of the ids and id spaces of the images that it was trained on
  and selected by, and `id_spaces`, hashes of these spaces: a run that holds out some of the images
  refuses to start from the file.
- `train_images`, `train_sha256`: how many images it was trained on, and the digest of their ids.
- `arrays_sha256`: the digest of the arrays.

Arrays whose names begin with `beside/` are not the network's: reduced embeddings of the training
images, `inference/neighbours.py`.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from boneage_jax import config as config_lib
from boneage_jax import renamed, tasks
from boneage_jax.runs import exported, shipped, training_ids
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runtime import checkpoint, files, log, tensors
from boneage_jax.stages import catalog
from tfds_rsna.errors import UserError

DTYPES = ('float32', 'float16')
# Of a metrics.json, what is true of the network wherever it is.
_FIGURES = ('kind', 'selected_by', 'step', 'commit', 'versions', 'device', 'splits')
_ROUNDED = 2**-10  # relative: what rounding to float16 may cost a variance
_DIGITS = 6  # of figures


def export(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    dtype: str = 'float32',
    figures: pathlib.Path | None = None,
    about: pathlib.Path | None = None,
    max_megabytes: float = 0.0,
    beside: Callable[[dict, dict], tuple[dict, dict]] | None = None,
) -> None:
    """Writes the best parameters of the run in `workdir` to the file `output`, whole or not at all.

    Args:
        workdir: of the run.
        output: the file to write, NAME.safetensors.
        dtype: 'float32', bit for bit, or 'float16', at half the size.
        figures: a JSON file; None takes the figures of the run's own metrics.json.
        about: a JSON file with `data`, `terms`, `description` and what else there is to say.
        max_megabytes: how large the file may be; 0 = any size.
        beside: `(arrays, metadata)` of the network -> those of the file: adds what needs the run's
            images or predictions, see `inference/export.py`. None adds nothing.

    Raises:
        UserError: there is no run, it has no checkpoint yet, its parameters are not finite, its
            images go through a network that comes with no release, a JSON file holds no object, or
            `output` cannot be written or would be too large.
    """
    workdir = pathlib.Path(workdir)
    output = pathlib.Path(output)
    _check_arguments(output, dtype)
    arrays, metadata = _collect(workdir, dtype, figures, about)
    if beside is not None:
        arrays, metadata = beside(arrays, metadata)
    _write(output, arrays, metadata, max_megabytes)


def _check_arguments(output, dtype):
    if dtype not in DTYPES:
        raise UserError(f'--dtype={dtype}: expected one of {", ".join(DTYPES)}')
    if output.suffix != tensors.SUFFIX:
        raise UserError(f'--output={output}: expected a name that ends in {tensors.SUFFIX}')
    if output.exists():
        raise UserError(f'--output={output}: exists already; delete it or give another name')
    if not output.parent.is_dir():
        raise UserError(f'--output={output}: no such folder')


def _collect(workdir, dtype, figures, about):
    """(`{name: array}`, `{key: text}`) of the network and of what the run's own files say."""
    metadata = _metadata(workdir)
    metadata |= {
        'dtype': dtype,
        'figures': _dumped(_figures(workdir) if figures is None else _object(figures, '--figures')),
        'about': _dumped({} if about is None else _object(about, '--about')),
    }
    with checkpoint.Checkpoints(workdir) as checkpoints:
        step, arrays = checkpoints.read_parameters()
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f'{workdir}: {name} of step {step} is not finite; the run diverged')
    if dtype == 'float16':
        arrays, kept = _halved(arrays)
        if kept:
            first = ', '.join(kept[:5])
            log.info(f'{len(kept)} arrays do not fit float16 and stay float32; first: {first}')
    return arrays, metadata | {'step': str(step)}


def _write(output, arrays, metadata, max_megabytes):
    with files.replacing(output) as temporary:
        tensors.write(temporary, arrays, metadata)
        megabytes = temporary.stat().st_size / 1e6
        if 0 < max_megabytes < megabytes:
            raise UserError(
                f'--output={output}: would be {megabytes:,.2f} MB, more than the '
                f'{max_megabytes:,.2f} MB of --max_megabytes; take --dtype=float16, '
                '--noembeddings, or a smaller network'
            )
    log.info(
        f'{output}: {len(arrays)} arrays of step {metadata["step"]}, {metadata["dtype"]}, '
        f'{megabytes:,.2f} MB.'
    )


def _metadata(workdir):
    """What the run's own files say, but for its figures."""
    try:
        config, task, splits = (
            json.loads((workdir / f'{name}.json').read_text())
            for name in ('config', 'task', 'splits')
        )
        config = renamed.config(config)
        train = [str(image) for image in splits['train']]
        seen = training_ids.fingerprints(workdir)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f'{workdir}: no trained network lies there ({error}); give the workdir of a run'
        ) from error
    networks = stage_networks(config, workdir)
    digests = {name: exported.digest(shipped.find(name)) for name in sorted({*networks.values()})}
    joined = '\n'.join(sorted(train))
    return {
        'format': tensors.FORMAT,
        'format_version': str(exported.VERSION),
        'config': _dumped(_portable(config, networks)),
        'task': _dumped(task),
        'kind': _kind(config),
        exported.STAGE_NETWORKS: _dumped(digests),
        **{name: _dumped(hashes) for name, hashes in seen.items()},
        'train_images': str(len(train)),
        'train_sha256': hashlib.sha256(joined.encode()).hexdigest(),
        'commit': workdir_lib.provenance()['commit'] or '',
        'version': _version(),
    }


def _kind(config):
    return tasks.for_checks(config_lib.from_saved(config, 'config.json').task).kind


def _version():
    try:
        return importlib.metadata.version('boneage_jax')
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return ''


def _halved(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the arrays as float16 where they fit, the names of those that do not)."""
    halved = {}
    kept = []
    for name, array in arrays.items():
        halved[name] = array
        if not np.issubdtype(array.dtype, np.floating):
            continue
        with np.errstate(over='ignore'):
            half = array.astype(np.float16)
        if _fits(name, array, half):
            halved[name] = half
        else:
            kept.append(name)
    return halved, kept


def _fits(name, array, half):
    """Whether float16 holds an array.

    The network divides by the roots of variances: small ones must not round to nothing.
    """
    if not np.isfinite(half).all():
        return False
    if name.rpartition('.')[2] != 'var':
        return True
    return bool((np.abs(half.astype(array.dtype) - array) <= _ROUNDED * np.abs(array)).all())


def _figures(workdir):
    """What metrics.json says of the network and its splits; {} where the run is not finished."""
    if not (workdir / 'metrics.json').exists():
        log.info(f'{workdir} is not finished: no figures are in the file.')
        return {}
    report = workdir_lib.read_metrics(workdir)
    return _condensed({name: report[name] for name in _FIGURES if name in report})


def _condensed(value):
    """A report without lists (by class, by image), numbers rounded."""
    if isinstance(value, dict):
        inner = {name: _condensed(each) for name, each in value.items()}
        return {name: each for name, each in inner.items() if each is not None}
    if isinstance(value, float):
        return float(f'{value:.{_DIGITS}g}')
    return None if isinstance(value, list) else value


def _object(path, flag):
    """The object in a JSON file of the user's."""
    try:
        value = json.loads(pathlib.Path(path).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{flag}={path}: cannot be read as JSON ({error})') from error
    if not isinstance(value, dict):
        raise UserError(f'{flag}={path}: expected an object, {{"key": ...}}, found {value!r:.60}')
    return value


def _portable(config, networks):
    """A configuration without the folders of the machine that it ran on.

    The `networks` {stage: name} that its stages ask come with the code: they are named.
    """
    portable = _shortened(config)
    for stage, name in networks.items():
        if portable['data']['stage_options'][stage]['run']:
            portable['data']['stage_options'][stage]['run'] = name
    return portable


def _shortened(value):
    if isinstance(value, Mapping):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_shortened(each) for each in value]
    if isinstance(value, str) and re.match(
        r'(hf:)?([/~\\]|[A-Za-z]:[/\\])|(.*[/\\])?\.\.[/\\]', value
    ):
        return re.split(r'[/\\]', value.rstrip('/\\'))[-1]
    return value


def stage_networks(config: Mapping, workdir: pathlib.Path) -> dict[str, str]:
    """`{stage: name}` of the shipped networks that the stages of a configuration ask.

    Raises UserError where a stage asks another one: it would be missing wherever the file goes.
    """
    found = {}
    for stage in config['data'].get('stages', ()):
        known = catalog.STAGES.get(stage)
        options = config['data'].get('stage_options', {}).get(stage, {})
        if known is None or 'run' not in known.options:
            continue
        run = options.get('run') or known.shipped
        name = _shipped_name(exported.find(run))
        if not name:
            raise UserError(
                f'{workdir}: its images go through the stage {stage} with the network of {run}, '
                'which the file cannot carry and which does not come with the code '
                f'({shipped.listed()}); predict with the workdir, or train with a shipped network'
            )
        found[stage] = name
    return found


def _shipped_name(path):
    """The name of the shipped network at `path`, or of the one that a copy is of; '' for others."""
    if not path.is_file():
        return ''
    wanted = exported.digest(path)
    matching = [name for name in shipped.names() if exported.digest(shipped.find(name)) == wanted]
    return matching[0] if matching else ''


def _dumped(value):
    return json.dumps(value, separators=(',', ':'))
