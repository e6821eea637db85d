"""The images of a network's own configuration, prepared or as they came."""

import pathlib
from collections.abc import Collection, Iterator

import ml_collections

from boneage_jax.data.source import Split
from boneage_jax.runs import exported, workdir
from boneage_jax.stages import records
from tfds_rsna.errors import UserError

CHUNK = 16  # native images that are held, and go through stages, together


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


def native_chunks(
    data: ml_collections.ConfigDict, wanted: Collection[str], data_dir: str | None = None
) -> Iterator[list[dict]]:
    """The source's images with the ids `wanted`, as they came, at most `CHUNK` at a time.

    Dicts with `image` uint8 `[H, W]`, `id` and the labels, in the source's order; ids that it lacks
    are passed over.
    """
    builder = records.build_source(data, data_dir)
    chunk = []
    for split in builder.info.splits:
        for record in builder.as_data_source(split):
            if str(record['id']) in wanted:
                chunk.append(records.decode_record(record))
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
