"""What a user names: a folder of images, a table of labels, and the table's columns."""

import dataclasses
import functools
import hashlib
import pathlib
import re
import sys

from tfds_rsna.columns import Columns, describe, find_columns
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import looks, matching
from tfds_rsna.io import fingerprint
from tfds_rsna.io.archive import Archive, Entry, is_file
from tfds_rsna.labels import Label, check_unit, doubtful_groups, parse, read_table
from tfds_rsna.problems import DataError, Problems, left_out_lines
from tfds_rsna.table_files import Table

PER_YEAR = {'months': 1, 'years': 12}
_ANY_ZIP = re.compile('')


def all_entries(archive: Archive, place: pathlib.Path) -> list[Entry]:
    """Every file below a folder (subfolders and zips in it included) or inside one zip, sorted."""
    if place.is_dir():
        return list(archive.entries(place, _ANY_ZIP))
    return list(archive.members(place))


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """A user's own images.

    Attributes:
        images: folder with the images, subfolders and zips in it included; or one zip.
        labels: CSV (comma, semicolon, tab) or xlsx with a header row.
        id_column: names the images; where no image column is given also the files (with or without
            extension).
        months_column: the age, in `age_unit`.
        male_column: the sex: M/F, male/female, boy/girl in any case and in other languages;
            True/False or 1/0 under a header like 'male' or 'sex (0=male, 1=female)'.
        image_column: the file below `images`, where the ids are not the files' names.
        group_column: the patient (or study) an image belongs to, where one has several.
        source_column: where an image comes from (a hospital, a machine): errors are then reported
            for each.
        age_unit: 'months' or 'years'.
        sex: 'male' or 'female': of all images where the table has no column of the sex, and of the
            rows where that is empty.
    """

    images: str | pathlib.Path | None = None
    labels: str | pathlib.Path | None = None
    id_column: str = 'id'
    months_column: str = 'boneage'
    male_column: str = 'male'
    image_column: str | None = None
    group_column: str | None = None
    source_column: str | None = None
    age_unit: str = 'months'
    sex: str | None = None

    def __post_init__(self):
        if self.age_unit not in PER_YEAR:
            raise UserError(
                f"data.image_folder.age_unit is 'months' or 'years', not {self.age_unit!r}"
            )
        if self.sex not in (None, '', 'male', 'female'):
            raise UserError(f"data.image_folder.sex is 'male' or 'female', not {self.sex!r}")

    @property
    def columns(self) -> Columns:
        """The table's columns; that of the sex is None where `sex` takes its place."""
        columns = Columns(
            id=self.id_column,
            months=self.months_column,
            male=self.male_column,
            image=self.image_column or None,
            group=self.group_column or None,
            source=self.source_column or None,
            per_year=PER_YEAR[self.age_unit],
        )
        header = list(self._rows[0])
        if not self.sex or self.male_column in header:
            return columns
        other = find_columns(header, str(self.table), columns.named | {'male': ''})['male']
        if other:
            raise DataError(
                f'{self.table}: no column {self.male_column!r}, and {other!r} looks like the sex: '
                f'data.image_folder.male_column={other}; data.image_folder.sex is for tables that '
                'do not say it'
            )
        return dataclasses.replace(columns, male=None)

    @functools.cached_property
    def place(self) -> pathlib.Path:
        """The folder or zip of images; DataError where there is none."""
        if not self.images:
            raise DataError(
                'image_folder: needs images= (data.image_folder.images=...), the folder with the '
                'images'
            )
        place = pathlib.Path(self.images).expanduser()
        is_zip = place.suffix.lower() == '.zip' and place.is_file()
        if not place.is_dir() and not is_zip:
            raise DataError(
                f'{place}: no such folder (or zip) of images; data.image_folder.images names it'
            )
        return place

    @functools.cached_property
    def table(self) -> pathlib.Path:
        """The file of labels; DataError where there is none."""
        if not self.labels:
            raise DataError(
                'image_folder: needs labels= (data.image_folder.labels=...), the CSV or xlsx with '
                'ids, ages and sexes'
            )
        path = pathlib.Path(self.labels).expanduser()
        if not path.is_file():
            raise DataError(
                f'{path}: no such file; data.image_folder.labels names the CSV or xlsx with ids, '
                'ages and sexes'
            )
        return path

    def pairs(self, archive: Archive, problems: Problems) -> list[tuple[Label, Entry]]:
        """The images with their labels, in the order of the table.

        Args:
            archive: keeps zips open while the images are read.
            problems: takes what does not fit, and what the archive could not open.

        Raises:
            DataError: no such folder or file, a table that cannot be read or lacks columns, ages in
                the wrong unit, a sex that cannot be told, a damaged zip (unless the archive is
                tolerant).
        """
        entries = all_entries(archive, self.place)
        left_out = []

        def is_image(entry):
            reason = looks.look(entry).reason
            if reason:
                left_out.append(f'{entry.path} ({reason})')
            return not reason

        pairs = self._pair(archive, entries, problems, is_image)
        for path, reason in archive.failures.items():
            problems.add('zip that cannot be opened', '', path, reason)
        taken = {entry.path for _, entry in pairs}
        left_out += archive.left_out
        for entry in entries:
            if entry.path in taken or matching.IMAGE.search(entry.name):
                continue
            if not is_file(entry, self.table):
                left_out.append(entry.path)
        for line in left_out_lines(left_out):
            _say(f'{self.place}: {line}')
        return pairs

    def describe(self, *, tolerant: bool = False) -> dict:
        """What the records depend on, JSON-ready; DataError as `pairs`."""
        with Archive(listing=True, tolerant=tolerant) as archive:
            entries = all_entries(archive, self.place)
            # What a packed inner zip holds is not known here; as a part of its outer zip it counts.
            packed = [entry for entry in entries if entry.is_zip]
            pairs = self._pair(archive, entries, Problems('skip'), _may_be_image)
            used = [entry for _, entry in pairs] + packed
        columns = dataclasses.asdict(self._columns_for(entries))
        if not self.source_column:
            del columns['source']
        sex = {'sex': self.sex} if self.sex else {}
        return {
            **sex,
            'columns': columns,
            'images': fingerprint.of_files(used, self.place),
            'labels': self.table_digest(),
        }

    def table_digest(self) -> str:
        """SHA-256 of the table's content, hex."""
        return hashlib.sha256(self._table_bytes).hexdigest()

    @functools.cached_property
    def _table_bytes(self) -> bytes:
        try:
            return self.table.read_bytes()
        except OSError as error:
            raise DataError(
                f'{self.table}: cannot be read ({error.strerror}); mend its permissions'
            ) from error

    @functools.cached_property
    def _rows(self) -> Table:
        names = [self.id_column, self.months_column, self.image_column]
        names += [self.group_column, self.source_column, '' if self.sex else self.male_column]
        needed = set(filter(None, names))
        return read_table(self._table_bytes, str(self.table), needed.issubset)

    def _columns_for(self, entries: list[Entry]) -> Columns:
        """`columns`, with one that names the files where the table has it and none was named."""
        columns = self.columns
        # Who names the column of ids means it.
        if columns.image or columns.id != 'id' or 'id' not in self._rows[0]:
            return columns
        found = matching.file_column(self._rows, columns.id, entries)
        if not found:
            matching.refuse_other_ids(self._rows, columns.id, entries, str(self.table))
        return dataclasses.replace(columns, image=found)

    def _pair(
        self, archive: Archive, entries: list[Entry], problems: Problems, is_image=None
    ) -> list[tuple[Label, Entry]]:
        """The pairs of `entries`; says what was read where no zip among them is still packed."""
        name = str(self.table)
        columns = self._columns_for(entries)
        male = self.sex == 'male' if self.sex else None
        labels = parse(self._rows, columns, name, problems, male=male)
        doubts = [*check_unit(labels, columns, name, self._rows), *doubtful_groups(labels)]
        pairs = matching.pair(labels, entries, name, str(self.place), problems, is_image)
        complete = not any(entry.is_zip for entry in entries)
        # Where a zip cannot be opened the builder says so.
        if complete and labels and entries and not pairs and not archive.failures:
            raise DataError(
                f'{self.place}: not one image there has a usable label in {name}: '
                f'{matching.examples(labels, entries)}'
            )
        if complete:
            rows = len(self._rows)
            summary = f'{describe(columns)}; {len(pairs):,} of {rows:,} rows name an image'
            for line in filter(None, (self._rows.note, summary, *doubts, *matching.renamed(pairs))):
                _say(f'{name}: {line}')
        return pairs


def _may_be_image(entry: Entry) -> bool:
    """Whether a file has the name of an image, or else its content."""
    return matching.IMAGE.search(entry.name) is not None or not looks.look(entry).reason


@functools.cache
def _say(line: str) -> None:
    """Prints a line, once in a process: a build reads its table more than once."""
    print(line, file=sys.stderr, flush=True)
