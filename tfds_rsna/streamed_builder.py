"""The base of all builders here: it streams records into array_record shards, in their order.

TFDS's own writer sorts by hashed key. It holds up to 1 GB in memory and beyond that spills through
`tf.io.gfile`, which needs TensorFlow; RSNA's 9.6 GB would end there. This one writes one record at
a time in the order given and keeps nothing. Everything else (the `incomplete.*` folder that is
renamed at the end, features.json, dataset_info.json, `as_data_source`) stays TFDS's.
"""

import functools
import json
import operator
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer
from tqdm import tqdm

from tfds_rsna.errors import UserError, is_disk_full
from tfds_rsna.parallel import lock
from tfds_rsna.problems import DataError

SHARD_BYTES = 512 << 20
_BUILT_FROM = 'built_from.json'


class Str(tfds.features.Text):
    """A text that reads back as `str` (TFDS's own gives bytes)."""

    # What datasets call it that earlier releases built.
    ALIASES = ['tfds_rsna.streamed.Str', 'tfds_rsna.builder.Str']  # noqa: RUF012, as TFDS has it

    def decode_example_np(self, example_data: bytes) -> str:
        return example_data.decode('utf-8')


def image_features(**more) -> tfds.features.FeaturesDict:
    """The features of a source: encoded image, id, age, sex, native size, and `more`.

    The image is a scalar of bytes, not `tfds.features.Image`: that one would decode at every read,
    by rules of its own (16 bit and palettes come out wrong), and has no DICOM. `decoding.decode`
    does it instead.
    """
    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Text(doc='the image file, byte for byte as given'),
            'id': Str(doc="the image's name in its source"),
            'group': Str(doc="the patient (or study) it belongs to, '' where nothing says so"),
            'months': tfds.features.Scalar(dtype=np.float32, doc='age in months'),
            'male': tfds.features.Scalar(dtype=np.bool_),
            'width': tfds.features.Scalar(dtype=np.int32, doc='native width in pixels'),
            'height': tfds.features.Scalar(dtype=np.int32, doc='native height in pixels'),
            **more,
        }
    )


def open_split(folder: str | os.PathLike, split: str):
    """Random access to the records of a split in the folder of a finished dataset.

    Raises:
        DataError: the dataset is damaged, or another version of the code built it.
    """
    try:
        return tfds.builder_from_directory(folder).as_data_source(split)
    except Exception as error:  # TFDS's and the parsers', of many kinds
        raise _unreadable(folder, error) from error


def _unreadable(folder, error):
    lines = str(error).strip().splitlines() or ['no message']
    return DataError(
        f'{folder}: a dataset that cannot be opened: it is damaged, or another version of the code '
        f'built it ({lines[0][:200]}). Delete this folder, and it is built again'
    )


class StreamedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder that writes what `_split_generators` gives: {split: iterable of (key, example)}."""

    # Riegeli options of the shards; group_size:1 is what makes random access quick.
    ARRAY_RECORD_OPTIONS = 'group_size:1'

    def __init__(self, *, data_dir: str | os.PathLike | None = None, **kwargs):
        try:
            super().__init__(data_dir=data_dir, file_format='array_record', **kwargs)
        except Exception as error:  # TFDS reads what is there already
            built = list(pathlib.Path(data_dir or '').glob('*/*/dataset_info.json'))
            if isinstance(error, UserError) or not built:
                raise
            raise _unreadable(data_dir, error) from error

    @functools.cached_property
    def info(self) -> tfds.core.DatasetInfo:
        """TFDS's info, without a look into TFDS's bucket.

        That look would leave an empty folder in /tmp each time.
        """

        def look_nowhere():
            return None

        info = super().info
        info.initialize_from_bucket = look_nowhere
        return info

    def _generate_examples(self):
        raise NotImplementedError('StreamedBuilder takes its examples from _split_generators')

    def download_and_prepare(self, **kwargs) -> None:
        """Builds the dataset unless it is there, or waits for another process that is building it.

        Raises:
            DataError: the dataset that is there was built from something else.
            UserError: the disk is full.
        """
        built = pathlib.Path(self.data_dir)
        if not built.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            with lock.exclusive(
                built.parent / '.lock', wait=True, on_wait=self._say_waiting
            ) as alone:
                if not built.exists():
                    # Holding the lock, an unfinished folder can only be the rest of a build that
                    # was killed.
                    if alone:
                        for left in built.parent.glob('incomplete.*'):
                            shutil.rmtree(left)
                    self._build(**kwargs)
                    return
        self._check_options()
        self.info.read_from_directory(self.data_dir)

    def _build(self, **kwargs) -> None:
        self._labels = []
        self._bytes = 0
        try:
            super().download_and_prepare(**kwargs)
        except (OSError, RuntimeError) as error:  # array_record's own is a RuntimeError
            if not is_disk_full(error):
                raise
            raise UserError(self._disk_full()) from error
        self._log_built()

    def _disk_full(self) -> str:
        free = shutil.disk_usage(pathlib.Path(self.data_dir).parent).free
        needed = f' of about {self._needed / 1e9:.3g} GB' if self._needed else ''
        return (
            f'{self._data_dir_root}: the disk became full after {len(self._labels):,} images, '
            f'{self._bytes / 1e9:.3g} GB{needed}. What was written is deleted, {free / 1e9:.3g} GB '
            'are free now. Make room, or choose another folder (data_dir; the cache is '
            '$BONEAGE_CACHE)'
        )

    def _log_built(self) -> None:
        """Prints what was built, in one line that shows at a glance years taken for months."""
        months, male = np.array(self._labels, np.float64).T
        print(
            f'{self.name}: {len(months):,} images, ages {months.min():.4g} to {months.max():.4g} '
            f'months (median {np.median(months):.4g}), {100 * male.mean():.0f}% male',
            file=sys.stderr,
            flush=True,
        )

    def _say_waiting(self) -> None:
        print(
            f'{self._data_dir_root}: another process is building this dataset; waiting for it',
            flush=True,
        )

    def _options(self) -> dict | None:
        """What the dataset depends on, as JSON; None: nothing to compare with what was built."""
        return None

    def _check_options(self) -> None:
        asked = self._options()
        path = pathlib.Path(self.data_dir) / _BUILT_FROM
        if asked is None or not path.exists():
            return
        built = json.loads(path.read_text())
        if built is None or asked == built:
            return
        unlike = []
        for key in sorted({*asked, *built}):
            if asked.get(key) != built.get(key):
                unlike.append(f'{key}: {built.get(key)!r}, now {asked.get(key)!r}')
        raise DataError(
            f'{self.data_dir}: was built from something else ({"; ".join(unlike)}). Delete it or '
            'choose another data_dir'
        )

    def _log_download_bytes(self) -> None:
        print(f'{self.name}: building in {self._data_dir_root}', flush=True)

    def _log_download_done(self) -> None:
        counts = ', '.join(
            f'{name} {split.num_examples:,}' for name, split in self.info.splits.items()
        )
        print(f'{self.name}: done ({counts})', flush=True)

    def _generate_splits(self, dl_manager, download_config) -> list[tfds.core.SplitInfo]:
        del download_config
        splits = self._split_generators(dl_manager)
        self._needed = 0
        for examples in splits.values():
            if hasattr(examples, 'size'):
                self._needed += examples.size()
        infos = [self._write_split(name, examples) for name, examples in splits.items()]
        (pathlib.Path(self.data_dir) / _BUILT_FROM).write_text(json.dumps(self._options()))
        return infos

    def _write_split(self, name: str, examples: Iterable) -> tfds.core.SplitInfo:
        template = self._get_filename_template(split_name=name)
        progress = tqdm(
            examples,
            desc=f'{self.name} {name}',
            unit=' images',
            disable=None,
            leave=False,
            total=operator.length_hint(examples) or None,
        )
        folder = pathlib.Path(self.data_dir)
        lengths = []
        total = 0
        for count, size in self._write_shards(self._serialize(progress), folder, name):
            lengths.append(count)
            total += size
        if not lengths:
            raise DataError(f'{self.name}: split {name!r} has no images')
        for index in range(len(lengths)):
            target = template.sharded_filepath(shard_index=index, num_shards=len(lengths))
            os.rename(folder / f'{name}.{index}.tmp', target)
        return tfds.core.SplitInfo(
            name=name, shard_lengths=lengths, num_bytes=total, filename_template=template
        )

    def _serialize(self, examples: Iterable) -> Iterator[bytes]:
        """The records of (key, example); the labels of those that were written are kept."""
        features = self.info.features
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        for _, example in examples:
            record = serializer.get_tf_example(features.encode_example(example))
            # Features in order of their names: left to itself each process has an order of its own.
            yield record.SerializeToString(deterministic=True)
            self._labels.append((example['months'], example['male']))

    def _write_shards(
        self, records: Iterator[bytes], folder: pathlib.Path, name: str
    ) -> Iterator[tuple[int, int]]:
        """Yields (records, bytes) of each shard once it is written."""
        record = next(records, None)
        index = 0
        while record is not None:
            count = 0
            size = 0
            writer = array_record_module.ArrayRecordWriter(
                str(folder / f'{name}.{index}.tmp'), self.ARRAY_RECORD_OPTIONS
            )
            try:
                while record is not None and (count == 0 or size + len(record) <= SHARD_BYTES):
                    writer.write(record)
                    # A full disk, say: `write` raises nothing then, `close` below does.
                    if not writer.ok():
                        break
                    self._bytes += len(record)
                    count += 1
                    size += len(record)
                    record = next(records, None)
            finally:
                writer.close()
            yield count, size
            index += 1
