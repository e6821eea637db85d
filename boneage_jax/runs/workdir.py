"""What a workdir promises: one run, of one configuration, on the same images from its first step to
its report.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess

from boneage_jax import config as config_lib
from boneage_jax.errors import ConfigError
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
)


def has_results(workdir):
    """Whether anything worth keeping was written: a checkpoint or a report."""
    return any((workdir / 'checkpoints').glob('[0-9]*')) or (workdir / 'metrics.json').exists()


def write_or_check_config(workdir, config, *, write):
    """Writes config.json, or refuses a workdir that holds a run of another configuration
    (ConfigError).

    A run that ended before its first checkpoint left nothing worth keeping: its files are written
    anew. Knobs that a newer release added do not count while they have their neutral value.
    """
    path, wanted = workdir / 'config.json', json.loads(config.to_json())
    if path.exists() and has_results(workdir):
        saved = json.loads(path.read_text())
        now, then = config_lib.flat(wanted), config_lib.flat(saved)
        new = [
            key
            for key, value in config_lib.flat(config_lib.base()).items()
            if key not in then and key in now and config_lib.same(now[key], value)
        ]
        changed = config_lib.differences(saved, wanted, ignore=(*HARMLESS, *new))
        if changed:
            raise ConfigError(
                f'{workdir} holds a run of another configuration:\n  '
                + '\n  '.join(changed)
                + '\nChoose another '
                '--workdir (init_from starts it from this run), or give the configuration of this run.'
            )
    elif write:
        (workdir / 'task.json').unlink(missing_ok=True)
        files.write_json(path, wanted)


def write_or_check_splits(workdir, splits, *, write):
    """Writes splits.json, `{split: [id, ...]}`, or refuses to go on with other images than the run
    began with.

    Going on would train on images that were held out before, or hold out images that were trained
    on.
    """
    path, ids = workdir / 'splits.json', {name: list(split.ids) for name, split in splits.items()}
    if path.exists() and has_results(workdir):
        before = json.loads(path.read_text())
        moved = [
            f'{name}: {len(set(before.get(name, [])) ^ set(ids.get(name, [])))} images differ'
            for name in sorted({*before, *ids})
            if before.get(name) != ids.get(name)
        ]
        if moved:
            raise ConfigError(
                f'{path}: the images changed since this run began ({"; ".join(moved)}). Give it the images it began with, '
                'or start a new run in another --workdir.'
            )
    elif write:
        files.write_json(path, ids)


def check_no_leakage(other, config, splits):
    """Refuses to start from a run that trained on images which this one holds out (ConfigError).

    Ids are compared where both runs read the same source; a run without splits.json or config.json
    is refused too.
    """
    other = pathlib.Path(other)
    try:
        trained = set(json.loads((other / 'splits.json').read_text())['train'])
        theirs = json.loads((other / 'config.json').read_text())['data']
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f'init_from={str(other)!r}: no run lies there ({error}); give its workdir'
        ) from error
    _refuse_trained(
        str(other), trained, theirs, config, {name: split.ids for name, split in splits.items()}
    )


def check_no_leakage_of_file(path, metadata, config, splits):
    """The same for weights that were exported from a run: their metadata tells its data and its
    images, as `fingerprint`s.

    A file that tells neither (ImageNet weights) saw none of them.
    """
    if 'trained_on' not in metadata:
        return
    theirs, trained = (
        json.loads(metadata['config'])['data'],
        set(json.loads(metadata['trained_on'])),
    )
    _refuse_trained(
        str(path),
        trained,
        theirs,
        config,
        {name: [fingerprint(image) for image in split.ids] for name, split in splits.items()},
    )


def fingerprint(image):
    """Stands for an image's id where a file travels: the same image is known again, its name is not
    told.
    """
    return hashlib.sha256(str(image).encode()).hexdigest()[:12]


def _refuse_trained(other, trained, theirs, config, ids):
    ours = json.loads(config.data.to_json())
    if any(theirs.get(key) != ours[key] for key in ('source', 'folder', 'phantom', 'image_folder')):
        return
    for name, images in ids.items():
        leaked = trained & set(images)
        if name != 'train' and leaked:
            raise ConfigError(
                f'init_from={other!r}: {len(leaked)} of the {len(images)} {name} images were trained on there; take '
                'the same data.split_seed, data.validation and data.holdout in both runs'
            )


def label_digests(splits):
    """What a run was taught and asked: `{split: {'images', 'sha256'}}`, the digest over (id,
    months, sex) sorted by id.

    The same images with the same labels give the same digest, whatever file they came in.
    """
    found = {}
    for name, split in splits.items():
        rows = sorted(
            zip(split.ids, (float(m) for m in split.months), (bool(m) for m in split.male))
        )
        found[name] = {
            'images': len(rows),
            'sha256': hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        }
    return found


def provenance():
    """With what a figure was made: commit (with '+' where files differ from it), versions,
    processor.
    """
    here = pathlib.Path(__file__).parent

    def git(*arguments):
        try:
            return subprocess.run(
                ['git', '-C', str(here), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):  # no git, or not a checkout
            return None

    commit = git('rev-parse', '--short=12', 'HEAD')
    if commit and git('status', '--porcelain', '--untracked-files=no'):
        commit += '+'
    versions = {
        name: importlib.metadata.version(name) for name in ('jax', 'flax', 'optax', 'numpy')
    }
    return {
        'commit': commit,
        'versions': versions,
        'processor': f'{pools.cores()} x {setup.processor_name()}',
    }


def unique_names(workdirs):
    """The paths without what they share: runs/full/seed0, runs/full/seed1 -> seed0, seed1.
    UserError where one comes twice.
    """
    places = [workdir.resolve() for workdir in workdirs]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f'the same run twice: {place}; each counts once')
    common = os.path.commonpath([place.parent for place in places])
    return [place.relative_to(common).as_posix() for place in places]
