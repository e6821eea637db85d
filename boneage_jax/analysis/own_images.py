"""The images of a network's own configuration, wherever the network is."""

import pathlib

import ml_collections

from boneage_jax.data.source import Split
from boneage_jax.runs import exported, workdir
from boneage_jax.stages import records
from tfds_rsna.errors import UserError


def open_splits(
    place: pathlib.Path | str, config: ml_collections.ConfigDict, data_dir: str | None = None
) -> dict[str, Split]:
    """`{split: images}` as a network's configuration finds them on this machine.

    Args:
        place: the network: a workdir, an exported file, or the name of a shipped one.
        config: its configuration.
        data_dir: folder of the raw data.

    Raises:
        UserError: they are not found; an exported file holds none, and no path of another machine.
        ConfigError: images that are held out here were trained on: they are others than the run's.
    """
    path = exported.find(place)
    if not exported.is_file(path):
        return records.open_splits(config, data_dir)
    try:
        splits = records.open_splits(config, data_dir)
    except UserError as error:
        raise UserError(
            f'{place} holds the network, not the images that this command needs, and these are not '
            f'where its configuration has them ({error}). Set BONEAGE_DATA or --data_dir, give the '
            'workdir of its run, or take `boneage score`, which names images by a config'
        ) from error
    workdir.check_no_leakage(path, splits)
    return splits
