"""The TFDS builder for a user's own images."""

import dataclasses
import os
import pathlib

import tensorflow_datasets as tfds

from tfds_rsna import streamed_builder
from tfds_rsna.image_folder.source import FolderSource
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Archive
from tfds_rsna.labelled_images import LabelledImages
from tfds_rsna.problems import DataError, Problems


class ImageFolder(streamed_builder.StreamedBuilder):
    """PNG, JPEG, TIFF, BMP or DICOM images and a CSV or xlsx of ages and sexes.

    There is one split, 'train', in the table's order.
    """

    VERSION = tfds.core.Version('1.2.0')

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike | None = None,
        on_error: str = 'stop',
        config=None,
        version=None,
        **source,
    ):
        """A builder.

        Args:
            data_dir: where the finished dataset goes.
            on_error: 'stop' names everything that is wrong and writes nothing; 'skip' drops those
                images and lists them in `rejected.csv` in the dataset's folder.
            config, version: TFDS's own.
            **source: `images`, `labels` and the columns, see `FolderSource`.
        """
        self._source = FolderSource(**source)
        self._on_error = Problems(on_error).on_error
        super().__init__(data_dir=data_dir, config=config, version=version)

    @classmethod
    def describe(cls, *, on_error: str = 'stop', **source) -> dict:
        """A JSON-ready description that changes whenever the records could.

        It takes the builder's options.

        Raises:
            UserError: missing places, columns and units, as the build would report them.
        """
        return {
            'builder': cls.name,
            'version': str(cls.VERSION),
            'decoder': decoding.VERSION,
            'on_error': Problems(on_error).on_error,
            **FolderSource(**source).describe(tolerant=on_error == 'skip'),
        }

    def _info(self) -> tfds.core.DatasetInfo:
        more = {}
        if self._source.source_column:
            more['source'] = streamed_builder.Str(doc='where it comes from')
        return tfds.core.DatasetInfo(
            builder=self,
            description="A user's own hand radiographs with ages.",
            features=streamed_builder.image_features(**more),
            disable_shuffling=True,
        )

    def _options(self) -> dict | None:
        if not self._source.images or not self._source.labels:
            return None
        return {
            'images': str(pathlib.Path(self._source.images).expanduser().resolve()),
            'labels_sha256': self._source.table_digest(),
            **dataclasses.asdict(self._source.columns),
        }

    def _generate_splits(self, dl_manager, download_config) -> list[tfds.core.SplitInfo]:
        problems = Problems(self._on_error)
        with Archive(tolerant=self._on_error == 'skip') as archive:
            pairs = self._source.pairs(archive, problems)
            if not pairs:
                nothing = (
                    f'{self._source.place}: not one image there has a usable label in '
                    f'{self._source.table}'
                )
                raise DataError('\n'.join([nothing, *problems.lines()]))
            problems.raise_if_any()
            self._images = LabelledImages(pairs, problems)
            infos = super()._generate_splits(dl_manager, download_config)
        problems.raise_if_any()
        problems.report(pathlib.Path(self.data_dir))
        return infos

    def _split_generators(self, dl_manager) -> dict[str, LabelledImages]:
        del dl_manager
        return {'train': self._images}
