"""A network as one file with all that prediction needs and a reader wants to know.

`export` writes it as safetensors, which this package opens, in a format that runs elsewhere
(`portable.py`), or as a folder for a model hub (`hub.py`). The last two are made from the first.

`runs/export.py` takes the network and what the run's own files say. Here joins what takes the run's
predictions or images: the intervals of its ages, the reduced embeddings of its training images, and
what the rounding to float16 costs in months.
"""

import json
import pathlib
import tempfile

import numpy as np

from boneage_jax.data import source
from boneage_jax.data import splits as splits_lib
from boneage_jax.data.source import Split
from boneage_jax.inference import hub as hub_lib
from boneage_jax.inference import intervals, neighbours, portable
from boneage_jax.runs import export as export_lib
from boneage_jax.runs import exported, training_ids
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runs.predictor import Predictor, read_config, read_task
from boneage_jax.runtime import log, setup, tensors
from boneage_jax.stages import records
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

ROUNDING = 'float16'  # the figures' key of what the rounding costs
NEIGHBOURS = 'neighbours'  # and of the embeddings
_FAR = (0.95, 0.99)  # quantiles, beyond which validation images are counted


def export(
    workdir: pathlib.Path | str,
    output: pathlib.Path | str | None = None,
    *,
    format_name: str = 'safetensors',
    hub: pathlib.Path | str | None = None,
    **options,
) -> None:
    """Writes a network to the file `output`, or to the folder `hub`, whole or not at all.

    Args:
        workdir: of a run; for other formats and a hub also an exported file or a shipped name.
        output: the file to write.
        format_name: 'safetensors', or one that runs without this package: 'stablehlo', 'onnx'.
        hub: a folder to write for a model hub, in the place of `output`.
        **options: of `write_file`, where `workdir` is a run.

    Raises:
        UserError: as `write_file`, `portable.write` and `hub.write`; both or none of `output` and
            `hub`; options for a network that is a file already.
    """
    if (output is None) == (hub is None):
        raise UserError('give one of --output (a file) and --hub (a folder)')
    if hub is not None and format_name != 'safetensors':
        raise UserError(f'--hub holds safetensors; leave out --format={format_name}')
    if hub is None and format_name == 'safetensors':
        write_file(workdir, output, **options)
        return
    target = pathlib.Path(hub if output is None else output)
    if output is None:
        hub_lib.check(target)
    else:
        portable.check(target, format_name)
    place = exported.find(workdir)
    if exported.is_file(place):
        _refuse_options(place, options)
        _write_other(place, target, format_name, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        draft = pathlib.Path(folder) / f'{place.name}{tensors.SUFFIX}'
        write_file(place, draft, **options)
        _write_other(draft, target, format_name, options)


def _write_other(place, target, format_name, options):
    if format_name == 'safetensors':
        hub_lib.write(place, target)
    else:
        portable.write(place, target, format_name, options.get('max_megabytes', 0.0))


def _refuse_options(place, options):
    """Refuses what is said of a run where the network is a file, whose contents are settled."""
    unlike = []
    for name, default in (('dtype', 'float32'), ('figures', None), ('about', None)):
        if options.get(name, default) != default:
            unlike.append(f'--{name}')
    if options.get('measure_rounding'):
        unlike.append('--measure_rounding')
    if unlike:
        raise UserError(
            f'{" and ".join(unlike)}: {place} is exported already, as it is; give the workdir of '
            'its run, or leave them out'
        )


def write_file(
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    dtype: str = 'float32',
    figures: pathlib.Path | None = None,
    about: pathlib.Path | None = None,
    embeddings: bool = True,
    measure_rounding: bool = False,
    max_megabytes: float = 0.0,
    data_dir: str | None = None,
) -> None:
    """Writes the run in `workdir` to the file `output`, NAME.safetensors, whole or not at all.

    Args:
        workdir: of the run.
        output: the file to write, NAME.safetensors.
        dtype: 'float32', bit for bit, or 'float16', at half the size.
        figures: a JSON file; None takes the figures of the run's own metrics.json.
        about: a JSON file with `data`, `terms`, `description` and what else there is to say.
        embeddings: keep the training images' reduced embeddings, where the run predicts ages and
            its images are prepared on this machine. It takes a pass over them.
        measure_rounding: predict the images of predictions.csv with the rounded network, and keep
            the difference in the figures. Needs dtype 'float16'.
        max_megabytes: how large the file may be; 0 = any size.
        data_dir: folder of the raw data.

    Raises:
        UserError: as `runs.export.export`; and where the rounding is to be measured and the run's
            images are not at hand.
    """
    workdir = pathlib.Path(workdir)
    if measure_rounding and dtype != 'float16':
        raise UserError(f'--measure_rounding: nothing is rounded with --dtype={dtype}')

    def beside(arrays, metadata):
        if read_task(workdir).months is None:
            if measure_rounding:
                raise UserError(f'--measure_rounding: {workdir} predicts no ages')
            return arrays, metadata
        metadata = metadata | _intervals(workdir)
        if embeddings or measure_rounding:
            extra, found = _with_images(
                workdir, arrays, metadata, embeddings, measure_rounding, data_dir
            )
            arrays = arrays | extra
            known = json.loads(metadata['figures'])
            metadata['figures'] = json.dumps(found | known, separators=(',', ':'))
        return arrays, metadata

    export_lib.export(
        workdir,
        output,
        dtype=dtype,
        figures=figures,
        about=about,
        max_megabytes=max_megabytes,
        beside=beside,
    )


def _intervals(workdir):
    """The metadata of the intervals; {} and a line where there are none."""
    try:
        return {exported.INTERVALS: intervals.document(*intervals.of_network(workdir))}
    except intervals.MissingIntervalsError as error:
        log.info(f'No intervals are in the file: {error}.')
        return {}


def _with_images(workdir, arrays, metadata, embeddings, measure_rounding, data_dir):
    """(arrays beside the network's, figures) that take the run's images."""
    config = read_config(workdir)
    setup.set_up_jax(config)
    try:
        splits = _splits(workdir, config, data_dir)
    except UserError as error:
        if measure_rounding:
            raise UserError(f'--measure_rounding: {error}') from error
        log.info(f'No embeddings are in the file: {error}')
        return {}, {}
    with tempfile.TemporaryDirectory() as folder:
        draft = pathlib.Path(folder) / f'draft{tensors.SUFFIX}'
        tensors.write(draft, arrays, metadata)
        predictor = Predictor(draft)  # of the very numbers that the file will hold

    figures = {}
    seen = {}
    if measure_rounding:
        figures[ROUNDING], seen = _rounding(predictor, workdir, splits)
    if not embeddings:
        return {}, figures
    try:
        reference, figures[NEIGHBOURS] = _reference(predictor, splits, seen)
    except UserError as error:
        log.info(f'No embeddings are in the file: {error}.')
        return {}, figures
    return reference.arrays(), figures


def _splits(workdir, config, data_dir) -> dict[str, Split]:
    """The run's own images, each once. UserError where they are not here, or are others by now."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.download = False
    if records.existing_records(config.data, data_dir) is None:
        raise UserError(
            f'the images of {workdir} are not prepared on this machine; `boneage prepare '
            f'--config={workdir / "config.json"}` prepares them'
        )
    opened = records.open_splits(config, data_dir)
    saved = workdir_lib.read_json(workdir / 'splits.json')
    for name, ids in training_ids.document(opened).items():
        if name != training_ids.SPACES and sorted(ids) != sorted(saved.get(name, ())):
            raise UserError(
                f'the {name} images of {workdir} are not those that its config finds now '
                f'({len(saved.get(name, ()))} then, {len(ids)} now); give the data that it was '
                'trained on'
            )
    return {name: source.each_once(split) for name, split in opened.items()}


def _seen(predictor, split):
    """(months `[N]`, embeddings `[N, F]` or None) of a split, as the run's evaluation has them."""
    log.info(f'Predicting {len(split):,} {split.name} images.')
    months = []
    embeddings = []
    for _, _, prediction, aux in predictor.over(split, tta=True):
        months.append(np.asarray(predictor.task.months(prediction)))
        embeddings.append(aux.get('embeddings'))
    if embeddings[0] is None:
        return np.concatenate(months), None
    return np.concatenate(months), np.concatenate(embeddings)


def _rounding(predictor, workdir, splits):
    """(figures by split, {split: what `_seen` gave}) of the images of the run's predictions.csv."""
    table = predictions_lib.read(workdir / 'predictions.csv')
    figures = {}
    seen = {}
    for name in predictions_lib.splits(table):
        before = predictions_lib.of_split(table, name)
        seen[name] = _seen(predictor, splits[name])
        after = {'id': np.asarray(splits[name].ids), 'prediction': seen[name][0]}
        after = predictions_lib.align(after, before, where=name, name='the file', other='the run')
        change = after['prediction'] - before['prediction']
        errors = before['prediction'] - before['age']
        delta, lower, upper = metrics.paired_difference(errors + change, errors)
        figures[name] = {
            'images': len(change),
            'mae_float32': _figure(np.abs(errors).mean()),
            'mae': _figure(np.abs(errors + change).mean()),
            'mae_difference': {
                'value': _figure(delta),
                'lower': _figure(lower),
                'upper': _figure(upper),
            },
            'mean_change': _figure(np.abs(change).mean()),
            'largest_change': _figure(np.abs(change).max()),
        }
        log.info(
            f'{name}, {len(change):,} images: rounding to float16 changes the MAE by {delta:+.4f} '
            f'months ({lower:+.4f} to {upper:+.4f}), an age by {np.abs(change).max():.3f} at most.'
        )
    return figures, seen


def _reference(predictor, splits, seen):
    """(the reference of the training images, its figures: how far validation images are)."""
    embeddings = {}
    for name in ('train', splits_lib.SELECTING):
        _, embeddings[name] = seen.get(name) or _seen(predictor, splits[name])
        if embeddings[name] is None:
            raise UserError(f'{predictor.config.model.name} gives none')
    train = splits['train']
    reference = neighbours.fit(embeddings['train'], train.months, train.male)
    quantiles = reference.quantile(embeddings[splits_lib.SELECTING])
    figures = {
        'train_images': len(reference.months),
        'dimensions': len(reference.components),
        'validation_images': len(quantiles),
    }
    for level in _FAR:
        share = float((quantiles > level).mean())
        figures[f'validation_beyond_{100 * level:g}_percent'] = _figure(share)
    log.info(
        f'Embeddings of {figures["train_images"]:,} training images, {figures["dimensions"]} '
        f'components. {100 * share:.1f}% of {len(quantiles):,} validation images are farther from '
        f'their neighbours than {100 * level:g}% of the training images.'
    )
    return reference, figures


def _figure(value):
    return float(f'{value:.6g}')
