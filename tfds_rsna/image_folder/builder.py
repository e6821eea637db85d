"""The TFDS builder for a user's own films."""
import hashlib
import pathlib
import re

import tensorflow_datasets as tfds

from tfds_rsna import checked, labels, streamed
from tfds_rsna.archive import Archive
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import matching
from tfds_rsna.problems import DataError, Problems

PER_YEAR = {'months': 1, 'years': 12}
_ANY_ZIP = re.compile('')


class ImageFolder(streamed.StreamedBuilder):
    """PNG, JPEG, TIFF or DICOM films and a CSV or xlsx of ages and sexes; one split, 'train', in the table's order."""

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, *, data_dir=None, images=None, labels=None, id_column: str = 'id',
                 months_column: str = 'boneage', male_column: str = 'male', image_column: str | None = None,
                 age_unit: str = 'months', on_error: str = 'stop', **kwargs):
        """A builder.

        Args:
            data_dir: where the finished dataset goes.
            images: folder with the films, subfolders and zips in it included; or one zip.
            labels: CSV (comma, semicolon, tab) or xlsx with a header row.
            id_column: names the films; where no image column is given also the files (with or without extension).
            months_column: the age, in `age_unit`.
            male_column: the sex: True/False, 1/0, M/F, male/female, boy/girl, in any case.
            image_column: the file below `images`, where the ids are not the files' names.
            age_unit: 'months' or 'years'.
            on_error: 'stop' names everything that is wrong and writes nothing; 'skip' drops those films and
                lists them in `rejected.csv` in the dataset's folder.
        """
        if age_unit not in PER_YEAR:
            raise UserError(f"age_unit is 'months' or 'years', not {age_unit!r}")
        self._images, self._labels = images, labels
        self._columns = dict(id=id_column, months=months_column, male=male_column, image=image_column,
                             per_year=PER_YEAR[age_unit])
        self._on_error = Problems(on_error).on_error
        super().__init__(data_dir=data_dir, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, description="A user's own hand radiographs with ages.",
                                     features=streamed.film_features(), disable_shuffling=True)

    def _options(self) -> dict | None:
        if self._images is None or self._labels is None:
            return None
        table = hashlib.sha256(self._table().read_bytes()).hexdigest()
        return {'images': str(pathlib.Path(self._images).expanduser().resolve()), 'labels_sha256': table,
                **self._columns}

    def _table(self) -> pathlib.Path:
        path = pathlib.Path(self._labels).expanduser()
        if not path.is_file():
            raise DataError(f'{path}: no such file; labels= names the CSV or xlsx with ids, ages and sexes')
        return path

    def _generate_splits(self, dl_manager, download_config):
        if self._images is None or self._labels is None:
            raise DataError('image_folder: needs images= (the folder with the films) and labels= (the CSV)')
        problems = Problems(self._on_error)
        place = pathlib.Path(self._images).expanduser()
        table = self._table()
        rows = labels.parse(labels.read_table(table.read_bytes(), str(table)), labels.Columns(**self._columns),
                            str(table), problems)
        with Archive() as archive:
            if place.is_dir():
                entries = list(archive.entries(place, _ANY_ZIP))
            elif place.suffix.lower() == '.zip' and place.is_file():
                entries = list(archive.members(place))
            else:
                raise DataError(f'{place}: no such folder (or zip) of films')
            pairs = matching.pair(rows, entries, str(table), str(place), problems)
            if not pairs:
                raise DataError('\n'.join([f'{place}: not one film there has a usable label in {table}',
                                           *problems.lines()]))
            problems.raise_if_any()
            self._films = checked.CheckedFilms([(label, entry.path, entry.read) for label, entry in pairs], problems)
            infos = super()._generate_splits(dl_manager, download_config)
        problems.raise_if_any()
        checked.report(problems, pathlib.Path(self.data_dir) / 'rejected.csv')
        return infos

    def _split_generators(self, dl_manager):
        del dl_manager
        return {'train': self._films}
