"""What a workdir promises: one run, of one configuration, on the same images throughout."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess

import ml_collections

from boneage_jax import config as config_lib
from boneage_jax import renamed
from boneage_jax.data import id_spaces, source
from boneage_jax.errors import ConfigError
from boneage_jax.runs import exported, shipped, training_ids
from boneage_jax.runtime import files, setup
from tfds_rsna.errors import UserError
from tfds_rsna.parallel import pools

# Keys that may change between the stops of a run: they change what is written or how fast, never
# the result.
HARMLESS = (
    'log_every_steps',
    'checkpoint_every_steps',
    'profile_steps',
    'sharding',
    'data.placement',
    'data.download',
    *config_lib.RECORDED,
)
# What a run writes beside config.json.
WRITTEN = ('task.json', 'splits.json', 'predictions.csv', 'metrics.jsonl', 'metrics.json')


def has_results(workdir: pathlib.Path) -> bool:
    """Whether anything worth keeping was written: a checkpoint or a report."""
    return any((workdir / 'checkpoints').glob('[0-9]*')) or (workdir / 'metrics.json').exists()


def read_json(path: pathlib.Path) -> dict:
    """The content of a JSON file that a run wrote; UserError where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read ({error!r}); is its run finished?') from error


def read_metrics(workdir: pathlib.Path) -> dict:
    """The content of a run's metrics.json, names of earlier releases translated.

    Raises UserError where it cannot be read.
    """
    return renamed.report(read_json(pathlib.Path(workdir) / 'metrics.json'))


def write_or_check_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, *, write: bool
) -> None:
    """Writes config.json, or refuses a workdir that holds a run of another configuration.

    A run that ended before its first checkpoint left nothing worth keeping: its files are written
    anew. Knobs that a newer release added do not count while they have their neutral value, and
    names of earlier releases are translated.

    Args:
        workdir: of the run.
        config: of the run.
        write: False where another process writes.

    Raises:
        ConfigError: it holds a run of another configuration, and the message has the keys.
    """
    path = workdir / 'config.json'
    wanted = json.loads(config.to_json())
    if path.exists() and has_results(workdir):
        saved = renamed.config(json.loads(path.read_text()))
        changed = config_lib.differences(saved, wanted, (*HARMLESS, *_new_knobs(saved, wanted)))
        if changed:
            raise ConfigError(
                f'{workdir} holds a run of another configuration:\n  '
                + '\n  '.join(changed)
                + '\nChoose another --workdir (init_from starts it from this run), or give the '
                'configuration of this run.'
            )
    elif write:
        _refuse_foreign(workdir)
        (workdir / 'task.json').unlink(missing_ok=True)
        files.write_json(path, wanted)


def _refuse_foreign(workdir):
    """Refuses (ConfigError) a folder whose files have a run's names and are not of one."""
    path = workdir / 'config.json'
    try:
        is_ours = not path.exists() or 'data' in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        is_ours = False
    others = [path] if not is_ours else []
    if not path.exists():
        others = [workdir / name for name in WRITTEN if (workdir / name).exists()]
    if others:
        raise ConfigError(
            f'{others[0]} exists and is not of a run of this program; choose another --workdir'
        )


def _new_knobs(saved, wanted):
    """Keys that an earlier release did not have and that are at their neutral value."""
    then = config_lib.flat(saved)
    now = config_lib.flat(wanted)
    neutral = config_lib.flat(config_lib.base())
    return [
        key
        for key, value in neutral.items()
        if key not in then and key in now and config_lib.same(now[key], value)
    ]


def write_or_check_splits(
    workdir: pathlib.Path, splits: dict[str, source.Split], *, write: bool
) -> None:
    """Writes splits.json (`training_ids.document`), or refuses other images than the run's.

    Going on would train on images that were held out before, or hold out images that were trained
    on.

    Args:
        workdir: of the run.
        splits: of the run.
        write: False where another process writes.

    Raises:
        ConfigError: the images differ.
    """
    path = workdir / 'splits.json'
    ids = training_ids.document(splits)
    if path.exists() and has_results(workdir):
        before = json.loads(path.read_text())
        moved = []
        for name in sorted({*before, *ids} - {training_ids.SPACES}):
            if before.get(name) != ids.get(name):
                count = len({*before.get(name, [])} ^ {*ids.get(name, [])})
                moved.append(f'{name}: {count} images differ')
        if moved:
            raise ConfigError(
                f'{path}: the images changed since this run began ({"; ".join(moved)}). Give it '
                'the images it began with, or start a new run in another --workdir.'
            )
    elif write:
        files.write_json(path, ids)


def check_no_leakage(other: pathlib.Path | str, splits: dict[str, source.Split]) -> None:
    """Refuses to start from a run that trained on images which this one holds out.

    Ids are compared within their id spaces (`boneage_jax.data.id_spaces`).

    Args:
        other: the workdir to start from, an exported file, or the name of a shipped network.
        splits: of this run.

    Raises:
        ConfigError: some were trained on there, or there is no run with splits.json and
            config.json.
    """
    place = exported.find(other)
    if exported.is_file(place):
        check_no_leakage_of_file(place, exported.read(place).metadata, splits)
        return
    try:
        json.loads((place / 'config.json').read_text())
        trained = training_ids.of_run(place)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f'init_from={str(other)!r}: no run lies there ({error}); give its workdir, or a '
            f'shipped network ({shipped.listed()})'
        ) from error
    _refuse_trained(str(other), trained.among, splits)


def check_no_leakage_of_file(
    path: pathlib.Path | str,
    metadata: dict[str, str],
    splits: dict[str, source.Split],
) -> None:
    """The same for weights that were exported from a run.

    Their metadata tells its images, as fingerprints. A file that tells none (ImageNet weights) saw
    none of them.
    """
    _refuse_trained(str(path), training_ids.ExportedIds(metadata).among, splits)


def _refuse_trained(other, among, splits):
    """Refuses splits with images that are `among(ids, spaces)` those trained on."""
    for name, split in splits.items():
        if name == 'train':
            continue
        leaked = among(split.ids, split.spaces or [id_spaces.UNDECLARED] * len(split.ids))
        if leaked:
            raise ConfigError(
                f'init_from={other!r}: {len(leaked)} of the {len(split.ids)} {name} images were '
                f'trained on there (first: {leaked[0]}); take the same data.split_seed, '
                'data.validation and data.holdout in both runs'
            )


def label_digests(splits: dict[str, source.Split]) -> dict[str, dict]:
    """What a run was taught and asked: `{split: {'images', 'sha256'}}`.

    The digest is over (id, months, sex) sorted by id: the same images with the same labels give the
    same digest, whatever file they came in.
    """
    found = {}
    for name, split in splits.items():
        months = [float(value) for value in split.months]
        male = [bool(value) for value in split.male]
        rows = sorted(zip(split.ids, months, male))
        digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        found[name] = {'images': len(rows), 'sha256': digest}
    return found


def provenance() -> dict:
    """What a figure was made with: commit ('+' where files differ from it), versions, processor."""
    commit = _git('rev-parse', '--short=12', 'HEAD')
    if commit and _git('status', '--porcelain', '--untracked-files=no'):
        commit += '+'
    packages = ('jax', 'flax', 'optax', 'numpy')
    return {
        'commit': commit,
        'versions': {name: importlib.metadata.version(name) for name in packages},
        'processor': f'{pools.cores()} x {setup.processor_name()}',
    }


def _git(*arguments):
    """What git prints about this checkout, None where there is no git or no checkout."""
    command = ['git', '-C', str(pathlib.Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def unique_names(workdirs: list[pathlib.Path]) -> list[str]:
    """The paths without what they share: runs/full/seed0, runs/full/seed1 -> seed0, seed1.

    Raises UserError where one comes twice.
    """
    places = [workdir.resolve() for workdir in workdirs]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f'the same run twice: {place}; each counts once')
    common = os.path.commonpath([place.parent for place in places])
    return [place.relative_to(common).as_posix() for place in places]
