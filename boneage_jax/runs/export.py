"""The trained network of a run as one file: its best parameters and batch statistics.

    python -m boneage_jax.export --workdir=runs/a --output=a.safetensors

`--config=...:init_from=a.safetensors` starts another run from it, bit for bit, and
`models.pretrained.load(model, 'a.safetensors')` fills a network of the same configuration. The
arrays have our names. The metadata holds `config` and `task` (the run's config.json and task.json),
`step`, and `trained_on`: hashes of the training images' ids and id spaces, so that a run that
holds out some of these images refuses to start from it.
"""

import json
import pathlib

import safetensors.numpy

from boneage_jax.models import pretrained
from boneage_jax.runs import training_ids
from boneage_jax.runtime import checkpoint, files, log
from tfds_rsna.errors import UserError


def export(workdir, output):
    """Writes the best parameters of the run in `workdir` to the file `output`, whole or not at all.

    Raises UserError where there is no run, it has no checkpoint yet, or `output` cannot be written.
    """
    workdir = pathlib.Path(workdir)
    output = pathlib.Path(output)
    if output.suffix != '.safetensors':
        raise UserError(f'--output={output}: expected a name that ends in .safetensors')
    if output.exists():
        raise UserError(f'--output={output}: exists already; delete it or give another name')
    if not output.parent.is_dir():
        raise UserError(f'--output={output}: no such folder')
    try:
        metadata = {name: (workdir / f'{name}.json').read_text() for name in ('config', 'task')}
        fingerprints = training_ids.fingerprints(workdir)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f'{workdir}: no trained network lies there ({error}); give the workdir of a run'
        ) from error
    with checkpoint.Checkpoints(workdir) as checkpoints:
        step, arrays = checkpoints.read_parameters()
    metadata |= {
        'format': pretrained.FORMAT,
        'step': str(step),
        'trained_on': json.dumps(fingerprints),
        training_ids.SPACES: 'in the fingerprints',
    }
    with files.replacing(output) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)
    megabytes = output.stat().st_size / 1e6
    log.info(f'{output}: {len(arrays)} arrays of step {step}, {megabytes:,.1f} MB.')
