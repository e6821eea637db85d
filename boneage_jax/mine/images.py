"""The images that mining masks, their classical masks, and the masks that a person drew to begin
with.
"""

import copy
import functools
import json
import pathlib

import ml_collections
import numpy as np

from boneage_jax import config as config_lib
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
    """The chosen images as prepared records: `images[i]`, `len(images)`, `images.ids`,
    `images.images(positions)`.

    They are those of `config.mine` (source, folder, resize) at `config.data.size`, `mine.count` of
    them drawn by `config.seed` without those in `without` (ids that have a drawn mask).
    """

    def __init__(self, config, data_dir, without=()):
        self.folder = records_lib.get_records(native_data(config), data_dir)
        opened = prepared.open(self.folder)
        self._records, ids = opened.splits[SPLIT], opened.labels[SPLIT]['ids']
        positions = np.array(
            [i for i, name in enumerate(ids) if name not in set(without)], np.int64
        )
        if config.mine.count:
            generator = np.random.default_rng([config.seed, len(positions)])
            positions = np.sort(generator.permutation(positions)[: config.mine.count])
        if not len(positions):
            raise UserError(f'{self.folder}: no images to mine')
        self.positions, self.ids = positions, [ids[i] for i in positions]

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, i):
        return self._records[int(self.positions[i])]

    def images(self, chosen):
        """uint8 `[N, H, W, 1]` of the images at `chosen`."""
        return np.stack([self[i]['image'] for i in chosen])

    def classical(self, folder):
        """Fills `folder` with the images' classical masks, resumable, on all cores."""
        counts = {SPLIT: len(self)}
        if cache.is_complete(folder, counts):
            return
        log.info(f'Classical masks of {len(self):,} images.')
        look = functools.partial(_classical, str(self.folder), self.positions)
        cache.fill(folder, counts, look, workers=pools.cores() if len(self) > 100 else 1)


def native_data(config):
    """`config.data` for the images that are to be masked."""
    data = ml_collections.ConfigDict(copy.deepcopy(config.data.to_dict()))
    data.update(
        source=config.mine.source,
        folder=config.mine.folder,
        fit=config.mine.resize,
        stages=(),
        extra_train_folders=(),
    )
    return data


@functools.cache
def _open(folder):
    return prepared.open(folder).splits[SPLIT]


def _classical(folder, positions, job):
    """The classical masks of a chunk of images; runs in a worker."""
    records = _open(folder)
    return [
        {
            'hand_mask': hand_mask.classical(records[int(positions[i])]['image'][..., 0]).astype(
                np.uint8
            )
        }
        for i in job[1]
    ]


def write_seeds(config, path, folder, data_dir):
    """Prepared records of the images that have a drawn mask at `path`, in `folder`; returns their
    ids.

    Raises:
        UserError: hardly any image has a mask there, or a mask is empty or has another shape than
        its image.
    """
    source = records_lib.get_records(native_data(config), data_dir)
    opened = prepared.open(source)
    records, labels = opened.splits[SPLIT], opened.labels[SPLIT]
    drawn = mask_files.read(path)
    chosen = [i for i, name in enumerate(labels['ids']) if name in drawn]
    if len(chosen) < FEWEST_SEEDS:
        raise UserError(
            f'{path}: {len(drawn)} masks, of which {len(chosen)} are of images in {source}; at least '
            f'{FEWEST_SEEDS} are needed, or --seed_masks=none. Masks are named by image: found '
            f'{", ".join(list(drawn)[:4])}; images are {", ".join(labels["ids"][:4])}'
        )
    if len(chosen) < len(drawn):
        log.info(
            f'{len(drawn) - len(chosen)} of {len(drawn)} masks in {path} belong to no image of the source: left out.'
        )

    def examples():
        for i in chosen:
            example = records[i]
            yield example | {'hand_mask': _fitted(drawn[example['id']](), example, config)}

    if not (folder / prepared.MARKER).exists():
        prepared.write(folder, {SPLIT: examples()}, metadata={'seed_masks': str(path)})
    return [labels['ids'][i] for i in chosen]


def _fitted(mask, example, config):
    """A mask as it was drawn -> uint8 `[H, W, 1]` that lies on the prepared image."""
    native = int(example['height']), int(example['width'])
    stretch = mask.shape[0] * native[1] / (mask.shape[1] * native[0])
    if config.mine.resize == 'pad' and not 0.98 < stretch < 1.02:
        raise UserError(
            f'image {example["id"]}: its mask is {mask.shape[0]}x{mask.shape[1]}, the image {native[0]}x{native[1]}: '
            'another shape; draw masks on the whole image'
        )
    if not mask.any():
        raise UserError(f'image {example["id"]}: its drawn mask is empty; leave it out')
    pixels = mask.astype(np.uint8)
    return resize.resize(
        {'image': pixels, 'hand_mask': pixels}, tuple(config.data.size), config.mine.resize
    )['hand_mask']


def read_masks(folder, count):
    """Yields every image's findings in order: dicts with `hand_mask` uint8 `[H, W]` and what else
    was found.
    """
    for i in range(count):
        yield cache.read(folder, SPLIT, i)


def write_or_check(path, wanted):
    """Writes `path` (JSON), or raises UserError where it holds another mining's settings."""
    path = pathlib.Path(path)
    if not path.exists():
        files.write_json(path, wanted)
        return
    if changed := config_lib.differences(json.loads(path.read_text()), wanted):
        raise UserError(
            f'{path.parent} holds another mining:\n  '
            + '\n  '.join(changed)
            + '\nChoose another --workdir.'
        )
