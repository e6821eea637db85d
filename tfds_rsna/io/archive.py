"""The files under a folder, those inside of zips (and their zips) included, without unpacking."""

import contextlib
import dataclasses
import io
import operator
import os
import pathlib
import posixpath
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator

from tfds_rsna.problems import DataError

MAX_DEPTH = 4
_LOCAL_HEADER = struct.Struct('<4s22xHH')


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file on disk or inside a zip.

    Attributes:
        path: as people would write it ('outer.zip/inner.zip/image.png'), below the folder that was
            looked into.
        read: gives its bytes; may be called from any thread.
        file: the file on disk, of a zip's member the outermost zip.
        packed: the size of a zip's member, None for a file on disk.
    """

    path: str
    read: Callable[[], bytes]
    file: pathlib.Path
    packed: int | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path)

    @property
    def is_zip(self) -> bool:
        """Whether this is a zip that was not looked into (`Archive(listing=True)`)."""
        return self.name.lower().endswith('.zip')

    def size(self) -> int:
        """Bytes that `read` will give; OSError where the file is gone."""
        return self.file.stat().st_size if self.packed is None else self.packed


class Archive(contextlib.ExitStack):
    """Keeps the opened zips open: use it as a context manager, or `close()` it.

    With `listing=True` zips that are compressed inside of zips are entries themselves: to look into
    one means to unpack it, which takes too long where only names are needed.
    """

    def __init__(self, *, listing: bool = False):
        super().__init__()
        self._listing = listing

    def entries(self, folder: pathlib.Path, wanted: re.Pattern) -> Iterator[Entry]:
        """Every file under `folder`, sorted; of the zips, those whose path `wanted` finds.

        Raises:
            DataError: a wanted zip is damaged, encrypted, or has member paths that climb out of it.
        """
        for path in sorted(_walk(folder)):
            relative = path.relative_to(folder).as_posix()
            if path.suffix.lower() != '.zip':
                yield Entry(relative, path.read_bytes, path)
            elif wanted.search(relative):
                yield from self._inside(self._open(path), relative, path, str(path))

    def members(self, path: pathlib.Path) -> Iterator[Entry]:
        """Every file inside one zip; DataError as `entries`."""
        prefix = f'{path.name}/'
        for entry in self._inside(self._open(path), path.name, path, str(path)):
            yield dataclasses.replace(entry, path=entry.path.removeprefix(prefix))

    def _inside(self, file, path: str, outer: pathlib.Path, full: str) -> Iterator[Entry]:
        """`outer`: the zip on disk; `full`: this zip for messages, from the root on."""
        try:
            archive = self.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f'{full}: not a whole zip ({error}); download it again') from error
        for info in sorted(archive.infolist(), key=operator.attrgetter('filename')):
            inner = f'{path}/{info.filename}'
            check_member(info.filename, full)
            if info.is_dir() or '__MACOSX' in inner or info.filename.startswith('.'):
                continue
            if info.flag_bits & 1:
                raise DataError(
                    f'{full}/{info.filename}: encrypted; unpack the zip with its password first'
                )
            is_zip = info.filename.lower().endswith('.zip')
            packed = info.compress_type != zipfile.ZIP_STORED
            if is_zip and not (packed and self._listing):
                inner_file = self._open_inner(file, archive, info)
                yield from self._inside(inner_file, inner, outer, f'{full}/{info.filename}')
            else:
                yield Entry(inner, _reader(archive, info, inner), outer, info.file_size)

    def _open(self, path: pathlib.Path) -> io.BufferedReader:
        try:
            return self.enter_context(path.open('rb'))
        except OSError as error:
            raise DataError(
                f'{path}: cannot be opened ({error.strerror}); mend its permissions, or move it '
                'away'
            ) from error

    def _open_inner(self, file, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
        """A zip inside a zip: a window into the outer file, or unpacked into a temporary one."""
        if info.compress_type == zipfile.ZIP_STORED:
            header = Window(file, info.header_offset, _LOCAL_HEADER.size).read()
            _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
            start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
            return Window(file, start, info.file_size)
        unpacked = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115, the stack closes it
        with archive.open(info) as source:
            shutil.copyfileobj(source, unpacked, 1 << 20)
        return unpacked


class Window(io.RawIOBase):
    """`size` bytes of a file (or of another window) from `start` on, as a read-only file.

    Reads with `os.pread`, so that the windows of one file do not disturb each other from different
    threads.
    """

    def __init__(self, file, start: int, size: int):
        self._start = start
        if isinstance(file, Window):
            self._start += file._start
        self._descriptor = file.fileno()
        self._size = size
        self._at = 0

    def fileno(self) -> int:
        return self._descriptor

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        self._at = max(0, offset + origins[whence])
        return self._at

    def readinto(self, buffer) -> int:
        length = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._descriptor, length, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def check_member(member: str, archive: str) -> None:
    """DataError for a member whose path leads out of the folder that it is unpacked into."""
    parts = re.split(r'[/\\]', member)
    if '..' in parts or member.startswith(('/', '\\')) or re.match(r'[A-Za-z]:', member):
        raise DataError(
            f'{archive}: member {member!r} climbs out of the zip; this is not a file to trust. '
            'Download it again from its official place'
        )


def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return archive.read(info)
        except (
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            EOFError,
            OSError,
            NotImplementedError,
        ) as error:
            raise DataError(f'{path}: damaged in the zip ({error})') from error

    return read


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for root, folders, files in os.walk(folder, followlinks=True):
        depth = len(pathlib.Path(root).relative_to(folder).parts)
        shown = sorted(name for name in folders if not name.startswith('.'))
        # os.walk goes into the folders that are left in its list.
        folders[:] = shown if depth < MAX_DEPTH else []
        for name in files:
            if not name.startswith('.'):
                yield pathlib.Path(root, name)
