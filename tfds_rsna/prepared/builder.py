"""The TFDS builder behind `prepared.write` and `prepared.open`."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow_datasets as tfds

from tfds_rsna import streamed_builder
from tfds_rsna.errors import UserError

SCALARS = {'months': np.float32, 'male': np.bool_, 'width': np.int32, 'height': np.int32}
STRINGS = ('id', 'group', 'source', 'flags')


class PreparedError(UserError):
    """A folder that holds no finished prepared records, or other things where they should go."""


def damaged(place: object, error: Exception) -> PreparedError:
    """The error for records at `place` that cannot be read because of `error`."""
    lines = str(error).strip().splitlines() or ['no message']
    return PreparedError(
        f'{place}: damaged records ({type(error).__name__}: {lines[0][:200]}); delete the folder '
        'and prepare again'
    )


@contextlib.contextmanager
def damage_named(place: object):
    """What TFDS and the parsers raise of damaged files becomes a PreparedError."""
    try:
        yield
    except (PreparedError, MemoryError):
        raise
    except Exception as error:
        raise damaged(place, error) from error


class Prepared(streamed_builder.StreamedBuilder):
    """Images of one fixed size as raw arrays.

    `Prepared(data_dir=FOLDER)` opens a folder that `prepared.write` wrote. Arrays are
    `Tensor(encoding='bytes')`: a read is one copy of the array, not a Python list of its numbers.
    """

    VERSION = tfds.core.Version('1.0.0')
    # Raw pixels are stored as they are: unpacking zstd would cost more than reading them costs.
    ARRAY_RECORD_OPTIONS = 'group_size:1,uncompressed'

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike,
        features: tfds.features.FeaturesDict | None = None,
        splits: Mapping[str, Iterable[dict]] | None = None,
        description: str = '',
        **kwargs,
    ):
        self._features = features or _stored_features(pathlib.Path(data_dir))
        self._splits = splits
        self._description = description
        super().__init__(data_dir=str(data_dir), **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._description or 'Prepared images.',
            features=self._features,
            disable_shuffling=True,
        )

    def _log_download_bytes(self) -> None:
        """Prints nothing: the caller tells what it prepares, and this folder is temporary."""

    _log_download_done = _log_built = _log_download_bytes

    def _split_generators(self, dl_manager) -> dict[str, Iterable[tuple[int, dict]]]:
        del dl_manager
        if self._splits is None:
            raise PreparedError(f'{self.data_dir}: nothing prepared here; run prepare again')
        return {name: enumerate(examples) for name, examples in self._splits.items()}


def infer_features(example: Mapping) -> tfds.features.FeaturesDict:
    """The features of an example: scalars and texts by name, every other entry a fixed-size array.

    Raises:
        ValueError: no `image` of uint8 [H, W, 1], a missing scalar, or an entry that is not an
            array.
    """
    missing = [key for key in ('image', 'id', *SCALARS) if key not in example]
    if missing:
        raise ValueError(
            f'a prepared example lacks {", ".join(missing)}; it has {", ".join(example)}'
        )
    _check_image(example['image'])
    features = {}
    for key, value in example.items():
        if key in SCALARS:
            features[key] = tfds.features.Scalar(dtype=SCALARS[key])
        elif key in STRINGS:
            features[key] = streamed_builder.Str()
        elif isinstance(value, np.ndarray) and value.ndim:
            features[key] = tfds.features.Tensor(
                shape=value.shape, dtype=value.dtype, encoding='bytes'
            )
        else:
            raise ValueError(
                f'{key}: a {type(value).__name__}; prepared examples hold arrays, '
                f'{", ".join(SCALARS)} and {", ".join(STRINGS)}'
            )
    return tfds.features.FeaturesDict(features)


def _check_image(image) -> None:
    if not isinstance(image, np.ndarray):
        raise ValueError(f'image must be uint8 [H, W, 1], not {type(image).__name__}')
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 1:
        raise ValueError(f'image must be uint8 [H, W, 1], not {image.dtype} {image.shape}')


def _stored_features(folder: pathlib.Path) -> tfds.features.FeaturesDict:
    home = folder / Prepared.name / str(Prepared.VERSION)
    if not (home / 'features.json').exists():
        raise PreparedError(f'{folder}: no prepared records here; run prepare again')
    return tfds.features.FeatureConnector.from_config(str(home))
