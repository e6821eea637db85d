"""TFDS builder of the hand phantoms: rendered on all cores, written in order."""

import io
import os
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tfds_rsna import streamed_builder
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.anatomy import BONE_NAMES
from tfds_rsna.hand_phantom.render import phantom
from tfds_rsna.io import decoding
from tfds_rsna.parallel import pools

_FEW = 64  # images that are rendered before a pool of processes has started


class HandPhantom(streamed_builder.StreamedBuilder):
    """`count` procedural hand radiographs in one split 'train', which a run splits later.

    The ids are '0', '1', and so on. The same (count, size, seed) gives the same records.
    """

    VERSION = tfds.core.Version('1.1.0')

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike | None = None,
        count: int = 4000,
        size: tuple[int, int] = (512, 512),
        seed: int = 0,
        **kwargs,
    ):
        """A builder.

        Args:
            data_dir: where the finished dataset goes.
            count: number of images.
            size: (rows, columns) in pixels.
            seed: of the series; image `index` of a series is the same however many are made.
            **kwargs: TFDS's own.
        """
        self._count, self._size, self._seed = _checked(count, size, seed)
        super().__init__(data_dir=data_dir, **kwargs)

    @classmethod
    def describe(
        cls, *, count: int = 4000, size: tuple[int, int] = (512, 512), seed: int = 0
    ) -> dict:
        """A JSON-ready description that changes whenever the records could.

        It takes the builder's options, and raises UserError as the builder does.
        """
        count, size, seed = _checked(count, size, seed)
        return {
            'builder': cls.name,
            'version': str(cls.VERSION),
            'decoder': decoding.PLAIN_VERSION,
            'count': count,
            'size': list(size),
            'seed': seed,
        }

    def _info(self) -> tfds.core.DatasetInfo:
        def points(*shape: int) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=np.float32, encoding='bytes')

        return tfds.core.DatasetInfo(
            builder=self,
            description='Procedural left-hand radiographs: nobody was irradiated.',
            features=streamed_builder.image_features(
                hand_mask=tfds.features.Text(doc='PNG, 255 = hand and forearm'),
                keypoints=points(3, 2),
                coco_keypoints=points(21, 2),
                bone_boxes=points(len(BONE_NAMES), 4),
            ),
            disable_shuffling=True,
        )

    def _options(self) -> dict:
        return {'count': self._count, 'size': list(self._size), 'seed': self._seed}

    def _split_generators(self, dl_manager) -> dict[str, '_Images']:
        del dl_manager  # nothing to download
        return {'train': _Images(self._seed, self._count, self._size)}


def _checked(count: int, size: tuple, seed: int) -> tuple[int, tuple[int, int], int]:
    count = int(count)
    size = (int(size[0]), int(size[1]))
    seed = int(seed)
    if count < 1:
        raise UserError(f'hand_phantom: count is {count}; give at least 1 image')
    if min(size) < 16:
        raise UserError(f'hand_phantom: size {size} is too small to draw; give at least (16, 16)')
    if seed < 0:
        raise UserError(f'hand_phantom: seed is {seed}; give 0 or more')
    return count, size, seed


class _Images:
    """The images of a series in order as (key, example), rendered on all cores."""

    def __init__(self, seed: int, count: int, size: tuple):
        self._jobs = [(seed, index, size) for index in range(count)]

    def __length_hint__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        workers = 1 if len(self._jobs) <= _FEW else None
        return pools.ordered(_example, self._jobs, workers=workers)


def _example(job: tuple[int, int, tuple[int, int]]) -> tuple[int, dict]:
    """(seed, index, size) -> (key, example)."""
    seed, index, size = job
    example = phantom(seed, index, size)
    return index, example | {
        'image': _png(example['image']),
        'hand_mask': _png(example['hand_mask'] * np.uint8(255)),
        'id': str(index),
        'group': '',
        'width': size[1],
        'height': size[0],
    }


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, 'PNG', compress_level=3)
    return stream.getvalue()
