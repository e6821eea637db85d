"""The TFDS builder of the RSNA set."""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import tensorflow_datasets as tfds

from tfds_rsna import better_copies as better_copies_lib
from tfds_rsna import labels, streamed_builder
from tfds_rsna.columns import describe
from tfds_rsna.io import decoding, fingerprint
from tfds_rsna.io.archive import Archive, Entry
from tfds_rsna.labelled_images import LabelledImages
from tfds_rsna.labels import Label
from tfds_rsna.problems import DataError, Problems
from tfds_rsna.rsna_bone_age import official, sources

_HOMEPAGE = 'https://www.rsna.org/rsnai/ai-image-challenge/rsna-pediatric-bone-age-challenge-2017'
_CITATION = """\
@article{halabi2019rsna, title={The RSNA Pediatric Bone Age Machine Learning Challenge},
  author={Halabi, Safwan S and others}, journal={Radiology}, volume={290}, number={2},
  pages={498--503}, year={2019}}"""


class RsnaBoneAge(streamed_builder.StreamedBuilder):
    """14,236 hand radiographs with bone age, in the official splits as far as they are found.

    The splits are 'train', 'validation' and 'test'. Images are read straight from the zips and
    stored byte for byte, sorted by id.
    For research, education and other non-commercial use (RSNA's terms); no re-identification.
    """

    VERSION = tfds.core.Version('1.1.0')

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike | None = None,
        source: str | os.PathLike | None = None,
        on_error: str = 'stop',
        download: bool = False,
        native_sizes: str | os.PathLike | None = None,
        better_copies: Sequence[str | os.PathLike] = (),
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
            native_sizes: table (id, width, height) of the sizes that the images had before they
                were made smaller; records then have these as `width` and `height`.
            better_copies: folders with larger copies of some images, named by their ids; of an
                image in several of them the first copy is taken.
        """
        self._native_sizes = native_sizes
        self._better_copies = tuple(better_copies)
        self._download = download
        self._source = source
        self._on_error = Problems(on_error).on_error
        super().__init__(data_dir=data_dir, **kwargs)

    @classmethod
    def describe(
        cls,
        *,
        source: str | os.PathLike | None = None,
        on_error: str = 'stop',
        download: bool = False,
        native_sizes: str | os.PathLike | None = None,
        better_copies: Sequence[str | os.PathLike] = (),
    ) -> dict:
        """A JSON-ready description that changes whenever the records could.

        It takes the builder's options. What `download` would bring is not in it: `fetch` first.

        Raises:
            UserError: missing files and wrong tables, as the build would report them.
        """
        del download
        folder = source_folder(source)
        splits = {}
        with Archive(listing=True) as archive:
            for split, found in sources.find(archive, folder, quiet=True).items():
                splits[split] = {
                    'images': fingerprint.of_files(found.candidates, folder),
                    'labels': hashlib.sha256(found.table.read()).hexdigest(),
                }
            more = _describe_copies(archive, native_sizes, better_copies)
        return {
            'builder': cls.name,
            'version': str(cls.VERSION),
            'decoder': decoding.PLAIN_VERSION,
            'on_error': Problems(on_error).on_error,
            'splits': splits,
            **more,
        }

    @staticmethod
    def fetch(source: str | os.PathLike | None = None) -> None:
        """Downloads the official zips of the splits that are not in `source`.

        The folder is made where it is missing.

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
            homepage=_HOMEPAGE,
            features=streamed_builder.image_features(),
            disable_shuffling=True,
        )

    def _options(self) -> dict | None:
        if not self._source:
            return None
        options = {'source': str(source_folder(self._source).resolve())}
        if self._native_sizes:
            options['native_sizes'] = str(pathlib.Path(self._native_sizes).resolve())
        if self._better_copies:
            folders = map(pathlib.Path, self._better_copies)
            options['better_copies'] = [str(folder.resolve()) for folder in folders]
        return options

    def _generate_splits(self, dl_manager, download_config) -> list[tfds.core.SplitInfo]:
        problems = Problems(self._on_error)
        if self._download:
            self.fetch(self._source)
        with Archive() as archive:
            self._images = {}
            copies = better_copies_lib.find(archive, list(map(pathlib.Path, self._better_copies)))
            sizes = {}
            if self._native_sizes:
                sizes = better_copies_lib.read_sizes(pathlib.Path(self._native_sizes))
            for split, found in sources.find(archive, source_folder(self._source)).items():
                paired = _pair(found, problems)
                print(
                    f'{split}: {found.table.path}: {describe(found.columns)}; {len(paired):,} of '
                    f'{len(found.rows):,} rows name an image',
                    flush=True,
                )
                pairs = _with_better_copies(paired, copies, split)
                if sizes:
                    _note_unsized(pairs, sizes, self._native_sizes, problems)
                self._images[split] = LabelledImages(pairs, problems, sizes)
            problems.raise_if_any()
            infos = super()._generate_splits(dl_manager, download_config)
        problems.raise_if_any()
        problems.report(pathlib.Path(self.data_dir))
        return infos

    def _split_generators(self, dl_manager) -> dict[str, LabelledImages]:
        del dl_manager
        return self._images


def source_folder(source: str | os.PathLike | None = None) -> pathlib.Path:
    """The folder with the RSNA files: `source`, else $BONEAGE_DATA.

    Raises:
        DataError: neither is given.
    """
    source = source or os.environ.get('BONEAGE_DATA')
    if not source:
        raise DataError(
            'rsna_bone_age: name the folder with the RSNA files (source=, --data_dir or the '
            f'environment variable BONEAGE_DATA). It may hold:\n{sources.LOOKED_FOR}'
        )
    return pathlib.Path(source).expanduser()


def _pair(found: sources.SplitSource, problems: Problems) -> list[tuple[Label, Entry]]:
    """The labels of a split with their images, ids in the order of their numbers.

    Each half without the other goes to `problems`. An id that a bad row named counts as labelled.
    """
    table = found.table.path
    rows = labels.parse(found.rows, found.columns, table, problems)
    labelled = {label.id for label in rows} | problems.ids()
    pairs = []
    for label in rows:
        if label.id in found.images:
            pairs.append((label, found.images[label.id]))
        else:
            reason = f'no image of that id in {found.images_name}'
            problems.add('label without an image', label.id, table, reason)
    for image in found.images:
        if image not in labelled:
            reason = f'no row of that id in {table}'
            problems.add('image without a label', image, found.images_name, reason)
    return sorted(pairs, key=_by_number)


def _with_better_copies(
    pairs: list[tuple[Label, Entry]], copies: Mapping[str, Entry], split: str
) -> list[tuple[Label, Entry]]:
    """The pairs with the better copies in the place of the images that have one."""
    chosen = [(label, copies.get(label.id, entry)) for label, entry in pairs]
    if copies:
        better = sum(label.id in copies for label, _ in pairs)
        print(f'{split}: {better:,} of {len(pairs):,} images have a better copy', flush=True)
    return chosen


def _note_unsized(
    pairs: list[tuple[Label, Entry]],
    sizes: Mapping[str, tuple[int, int]],
    table: str | os.PathLike,
    problems: Problems,
) -> None:
    """Notes the images whose native size the table does not have."""
    for label, entry in pairs:
        if label.id not in sizes:
            problems.add('image without a native size', label.id, entry.path, f'not in {table}')


def _describe_copies(
    archive: Archive,
    native_sizes: str | os.PathLike | None,
    folders: Sequence[str | os.PathLike],
) -> dict:
    """What a description has of the two options; nothing where they are not used."""
    described = {}
    if native_sizes:
        path = pathlib.Path(native_sizes)
        better_copies_lib.read_sizes(path)
        described['native_sizes'] = hashlib.sha256(path.read_bytes()).hexdigest()
    if folders:
        described['better_copies'] = []
        for folder in map(pathlib.Path, folders):
            copies = better_copies_lib.find(archive, [folder])
            described['better_copies'].append(fingerprint.of_files(copies.values(), folder))
    return described


def _by_number(pair: tuple[Label, Entry]) -> tuple[int, str]:
    return len(pair[0].id), pair[0].id
