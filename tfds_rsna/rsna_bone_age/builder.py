"""The TFDS builder of the RSNA set."""

import hashlib
import os
import pathlib

import tensorflow_datasets as tfds

from tfds_rsna import builder as builder_lib
from tfds_rsna import labels, matched
from tfds_rsna.io import decoding, fingerprint
from tfds_rsna.io.archive import Archive
from tfds_rsna.problems import DataError, Problems
from tfds_rsna.rsna_bone_age import official, sources

_CITATION = """\
@article{halabi2019rsna, title={The RSNA Pediatric Bone Age Machine Learning Challenge},
  author={Halabi, Safwan S and others}, journal={Radiology}, volume={290}, number={2}, pages={498--503},
  year={2019}}"""


class RsnaBoneAge(builder_lib.StreamedBuilder):
    """14,236 hand radiographs with bone age: the official splits 'train', 'validation', 'test', as
    far as found.

    Images are read straight from the zips and stored byte for byte, sorted by id.
    For research, education and other non-commercial use (RSNA's terms); no re-identification.
    """

    VERSION = tfds.core.Version('1.1.0')

    def __init__(
        self,
        *,
        data_dir=None,
        source=None,
        on_error: str = 'stop',
        download: bool = False,
        **kwargs,
    ):
        """A builder.

        Args:
            data_dir: where the finished dataset goes.
            source: folder with the downloaded files (see `sources.py`); None takes $BONEAGE_DATA.
            on_error: 'stop' names everything that is wrong and writes nothing; 'skip' drops those
                images and lists them in `rejected.csv` in the dataset's folder.
            download: first downloads the official zips of the splits that are not in `source` (11
            GB in all).
        """
        self._download = download
        self._source = source
        self._on_error = Problems(on_error).on_error
        super().__init__(data_dir=data_dir, **kwargs)

    @classmethod
    def describe(cls, *, source=None, on_error: str = 'stop', download: bool = False) -> dict:
        """A JSON-ready description that changes whenever the records could; options as the
        builder's.

        What `download` would bring is not in it: `fetch` first.

        Raises:
            UserError: what the build would say about missing files and wrong tables.
        """
        del download
        folder = source_folder(source)
        with Archive(listing=True) as archive:
            splits = {
                split: {
                    'images': fingerprint.of_files(found.candidates, folder),
                    'labels': hashlib.sha256(found.table.read()).hexdigest(),
                }
                for split, found in sources.find(archive, folder, quiet=True).items()
            }
        return {
            'builder': cls.name,
            'version': str(cls.VERSION),
            'decoder': decoding.VERSION,
            'on_error': Problems(on_error).on_error,
            'splits': splits,
        }

    @staticmethod
    def fetch(source=None) -> None:
        """Downloads the official zips of the splits that are not in `source`, which is made where
        it is missing.

        Raises:
            UserError: no folder is named, one that cannot be used, or a download failed (see
            `downloads.fetch`).
        """
        folder = source_folder(source)
        folder.mkdir(parents=True, exist_ok=True)
        with Archive(listing=True) as archive:
            there = sources.find(archive, folder, required=False, quiet=True)
        official.download(folder, [split for split in sources.SPLITS if split not in there])

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='RSNA Pediatric Bone Age Challenge 2017.',
            citation=_CITATION,
            homepage='https://www.rsna.org/rsnai/ai-image-challenge/rsna-pediatric-bone-age-challenge-2017',
            features=builder_lib.image_features(),
            disable_shuffling=True,
        )

    def _options(self) -> dict | None:
        return {'source': str(source_folder(self._source).resolve())} if self._source else None

    def _generate_splits(self, dl_manager, download_config):
        problems = Problems(self._on_error)
        if self._download:
            self.fetch(self._source)
        with Archive() as archive:
            found = sources.find(archive, source_folder(self._source))
            self._images = {
                split: matched.MatchedImages(_labelled(source, problems), problems)
                for split, source in found.items()
            }
            problems.raise_if_any()
            infos = super()._generate_splits(dl_manager, download_config)
        problems.raise_if_any()
        matched.report(problems, pathlib.Path(self.data_dir) / 'rejected.csv')
        return infos

    def _split_generators(self, dl_manager):
        del dl_manager
        return self._images


def source_folder(source=None) -> pathlib.Path:
    """The folder with the RSNA files: `source`, else $BONEAGE_DATA; DataError where neither is
    given.
    """
    source = source or os.environ.get('BONEAGE_DATA')
    if not source:
        raise DataError(
            'rsna_bone_age: name the folder with the RSNA files (source=, --data_dir or the '
            f'environment variable BONEAGE_DATA). It may hold:\n{sources.LOOKED_FOR}'
        )
    return pathlib.Path(source).expanduser()


def _labelled(source: sources.SplitSource, problems: Problems) -> list:
    table = source.table.path
    rows = labels.parse(source.rows, source.columns, table, problems)
    pairs = matched.match(rows, source.images, table, source.images_name, problems)
    pairs.sort(
        key=lambda pair: (len(pair[0].id), pair[0].id)
    )  # numeric ids in the order of their numbers
    return pairs
