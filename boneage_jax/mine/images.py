"""The images that mining masks, their classical masks, and the masks that a person drew."""

import copy
import functools
import json
import pathlib
from collections.abc import Collection, Iterator

import ml_collections
import numpy as np

from boneage_jax import config as config_lib
from boneage_jax.data import id_spaces
from boneage_jax.preprocess import hand_mask, resize
from boneage_jax.runtime import files, log
from boneage_jax.stages import cache
from boneage_jax.stages import records as records_lib
from tfds_rsna import prepared
from tfds_rsna.annotations import mask_files
from tfds_rsna.errors import UserError
from tfds_rsna.parallel import pools

FEWEST_SEEDS = 10  # drawn masks; fewer cannot be cut into training, validation and holdout
SPLIT = 'train'  # test and validation images of a source take no part


class MiningImages:
    """The chosen images as prepared records: `images[i]`, `len(images)`, `images.ids`.

    They are those of `config.mine` (source, folder, resize) at `config.data.size`. `mine.count` of
    them are drawn by `config.seed`, without those in `without` (ids that have a drawn mask) and
    without those of `data.holdout_ids`.
    """

    def __init__(self, config: ml_collections.ConfigDict, data_dir, without: Collection[str] = ()):
        self.folder = records_lib.get_records(native_data(config), data_dir)
        opened = prepared.open(self.folder)
        self._records = opened.splits[SPLIT]
        ids = opened.labels[SPLIT]['ids']
        without = set(without) | (records_lib.holdout_ids(config.data, data_dir) or set())
        positions = [i for i, name in enumerate(ids) if name not in without]
        positions = np.array(positions, np.int64)
        if config.mine.count:
            generator = np.random.default_rng([config.seed, len(positions)])
            positions = np.sort(generator.permutation(positions)[: config.mine.count])
        if not len(positions):
            raise UserError(f'{self.folder}: no images to mine')
        self.positions = positions
        self.ids = [ids[i] for i in positions]

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, i):
        return self._records[int(self.positions[i])]

    def images(self, chosen: Collection[int]) -> np.ndarray:
        """uint8 `[N, H, W, 1]` of the images at `chosen`."""
        return np.stack([self[i]['image'] for i in chosen])

    def classical(self, folder: pathlib.Path) -> None:
        """Fills `folder` with the images' classical masks, resumable, on all cores."""
        counts = {SPLIT: len(self)}
        if cache.is_complete(folder, counts):
            return
        log.info(f'Classical masks of {len(self):,} images.')
        look = functools.partial(_classical, str(self.folder), self.positions)
        cache.fill(folder, counts, look, workers=pools.cores() if len(self) > 100 else 1)


def native_data(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """`config.data` for the images that are to be masked."""
    data = ml_collections.ConfigDict(copy.deepcopy(config.data.to_dict()))
    data.source = config.mine.source
    data.folder = config.mine.folder
    data.resize = config.mine.resize
    data.stages = ()
    data.extra_train_folders = ()
    return data


@functools.cache
def _open(folder):
    return prepared.open(folder).splits[SPLIT]


def _classical(folder, positions, job):
    """The classical masks of a chunk of images; runs in a worker."""
    _, chunk = job
    records = _open(folder)
    found = []
    for i in chunk:
        image = records[int(positions[i])]['image'][..., 0]
        found.append({'hand_mask': hand_mask.classical(image).astype(np.uint8)})
    return found


def write_seeds(
    config: ml_collections.ConfigDict, path, folder: pathlib.Path, data_dir
) -> list[str]:
    """Writes prepared records of the images that have a drawn mask; returns their ids.

    Args:
        config: of the mining.
        path: of the masks, see `tfds_rsna.annotations.mask_files.read`.
        folder: of the records.
        data_dir: where raw data is.

    Raises:
        UserError: hardly any image has a mask there, or a mask is empty or has another shape than
            its image.
    """
    source = records_lib.get_records(native_data(config), data_dir)
    opened = prepared.open(source)
    records = opened.splits[SPLIT]
    ids = opened.labels[SPLIT]['ids']
    drawn = mask_files.read(path)
    chosen = [i for i, name in enumerate(ids) if name in drawn]
    if len(chosen) < FEWEST_SEEDS:
        raise UserError(
            f'{path}: {len(drawn)} masks, of which {len(chosen)} are of images in {source}; at '
            f'least {FEWEST_SEEDS} are needed, or --seed_masks=none. Masks are named by image: '
            f'found {", ".join(list(drawn)[:4])}; images are {", ".join(ids[:4])}'
        )
    if len(chosen) < len(drawn):
        log.info(
            f'{len(drawn) - len(chosen)} of {len(drawn)} masks in {path} belong to no image of the '
            'source: left out.'
        )

    def examples():
        for i in chosen:
            example = records[i]
            mask = drawn[example['id']]()
            yield example | {'hand_mask': _fitted(mask, example, config)}

    about = {'seed_masks': str(path)} | id_spaces.metadata(native_data(config))
    if not (folder / prepared.MARKER).exists():
        prepared.write(folder, {SPLIT: examples()}, metadata=about)
    return [ids[i] for i in chosen]


def _fitted(mask, example, config):
    """A mask as it was drawn -> uint8 `[H, W, 1]` on the prepared image."""
    height = int(example['height'])
    width = int(example['width'])
    stretch = mask.shape[0] * width / (mask.shape[1] * height)
    if config.mine.resize == 'pad' and not 0.98 < stretch < 1.02:
        raise UserError(
            f'image {example["id"]}: its mask is {mask.shape[0]}x{mask.shape[1]}, the image '
            f'{height}x{width}: another shape; draw masks on the whole image'
        )
    if not mask.any():
        raise UserError(f'image {example["id"]}: its drawn mask is empty; leave it out')
    pixels = mask.astype(np.uint8)
    both = {'image': pixels, 'hand_mask': pixels}
    return resize.resize(both, tuple(config.data.size), config.mine.resize)['hand_mask']


def read_masks(folder: pathlib.Path, count: int) -> Iterator[dict]:
    """Yields every image's annotations in order: `hand_mask` uint8 `[H, W]` and what else is."""
    for i in range(count):
        yield cache.read(folder, SPLIT, i)


def write_or_check(path: pathlib.Path, wanted: dict) -> None:
    """Writes `path` (JSON), or raises UserError where it holds another mining's settings."""
    path = pathlib.Path(path)
    if not path.exists():
        files.write_json(path, wanted)
        return
    changed = config_lib.differences(json.loads(path.read_text()), wanted)
    if changed:
        raise UserError(
            f'{path.parent} holds another mining:\n  '
            + '\n  '.join(changed)
            + '\nChoose another --workdir.'
        )
