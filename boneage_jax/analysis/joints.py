"""Boxes that people drew around joints and bones, where they lie on the images of a split."""

import pathlib

import ml_collections
import numpy as np

from boneage_jax.analysis import own_images
from boneage_jax.data.source import Split
from boneage_jax.stages import plan, records
from tfds_rsna.annotations import joint_boxes
from tfds_rsna.errors import UserError


def of_split(
    split: Split,
    config: ml_collections.ConfigDict,
    table: pathlib.Path | str,
    data_dir: str | None = None,
) -> np.ndarray:
    """The boxes of a table of joints on the prepared images: float32 `[N, T, 4]`.

    In pixels (row0, column0, row1, column1) of the images as the network sees them: the boxes go
    through the stages of `config` with their native image. An image of fewer boxes than T, or of
    none, has NaN in their place.

    Args:
        split: N images.
        config: of the run whose images they are.
        table: as `joint_boxes.read` takes it, here or below `data_dir`.
        data_dir: folder of the raw data.

    Raises:
        UserError: the table cannot be read, or has boxes on none of the images.
    """
    path = plan.find_file(str(table), data_dir, '--joints')
    annotated = {image: hand for image, hand in joint_boxes.read(path).items() if len(hand.boxes)}
    wanted = annotated.keys() & set(split.ids)
    if not wanted:
        raise UserError(
            f'{path}: boxes of {len(annotated):,} images, none of them among the {len(split):,} '
            f'{split.name} images; name another --split, or the table of these images'
        )
    placed = {}
    for chunk in own_images.native_chunks(config.data, wanted, data_dir):
        for example in chunk:
            hand = annotated[str(example['id'])]
            example['bone_boxes'] = hand.scaled(example['image'].shape[:2]).boxes
        for example in records.process(chunk, config.data, data_dir):
            if isinstance(example, dict):
                placed[str(example['id'])] = example['bone_boxes']
    most = max((len(boxes) for boxes in placed.values()), default=0)
    found = np.full((len(split), most, 4), np.nan, np.float32)
    for i, image in enumerate(split.ids):
        boxes = placed.get(image, ())
        found[i, : len(boxes)] = np.reshape(boxes, (-1, 4))
    return found
