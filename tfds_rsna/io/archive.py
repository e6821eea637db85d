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
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator

from tfds_rsna.errors import is_disk_full
from tfds_rsna.io import zips
from tfds_rsna.problems import DataError

MAX_DEPTH = 16  # folders in folders, and zips in zips
_HEAD = 1 << 18  # bytes that tell what a file is
_DEFLATE64 = 9
# What systems leave beside the user's own files; nobody misses them.
_SYSTEM = re.compile(
    r'(^|/)(__MACOSX|\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)(/|$)', re.IGNORECASE
)
_LOCAL_HEADER = struct.Struct('<4s22xHH')


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file on disk or inside a zip.

    Attributes:
        path: as people would write it ('outer.zip/inner.zip/image.png'), below the folder that was
            looked into. It can always be printed: of a name that is no UTF-8 the bytes count as
            those of Windows.
        read: gives its bytes, or its first `read(size)`; may be called from any thread.
        file: the file on disk, of a zip's member the outermost zip.
        packed: the size of a zip's member, None for a file on disk.
    """

    path: str
    read: Callable[..., bytes]
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

    def head(self) -> bytes:
        """The file's first bytes, enough to tell what it is."""
        return self.read(_HEAD)

    def size(self) -> int:
        """Bytes that `read` will give; OSError where the file is gone."""
        return self.file.stat().st_size if self.packed is None else self.packed


class Archive(contextlib.ExitStack):
    """Keeps the opened zips open: use it as a context manager, or `close()` it.

    Attributes:
        failures: with `tolerant=True`, {path: message} of what could not be looked into (a damaged
            zip, an encrypted member); the rest is listed.
        left_out: what was not looked into, such as folders too deep, in words.
    """

    def __init__(self, *, listing: bool = False, tolerant: bool = False):
        """An archive.

        Args:
            listing: zips that are compressed inside of zips are entries themselves: to look into
                one means to unpack it, which takes too long where only names are needed.
            tolerant: what cannot be opened is noted in `failures` and stops nothing.
        """
        super().__init__()
        self._listing = listing
        self._tolerant = tolerant
        self.failures: dict[str, str] = {}
        self.left_out: list[str] = []

    def entries(self, folder: pathlib.Path, wanted: re.Pattern) -> Iterator[Entry]:
        """Every file under `folder`, sorted; of the zips, those whose path `wanted` finds.

        Raises:
            DataError: a wanted zip is damaged, encrypted, or has member paths that climb out of it.
        """
        for path in sorted(self._walk(folder)):
            relative = printable(path.relative_to(folder).as_posix())
            if path.suffix.lower() != '.zip':
                yield on_disk(path, relative)
            elif wanted.search(relative):
                yield from self._inside(path, relative, path, str(path))

    def members(self, path: pathlib.Path) -> Iterator[Entry]:
        """Every file inside one zip; DataError as `entries`."""
        prefix = f'{path.name}/'
        for entry in self._inside(path, path.name, path, str(path)):
            yield dataclasses.replace(entry, path=entry.path.removeprefix(prefix))

    def opened(self, file, name: str) -> Iterator[Entry]:
        """Every file inside a zip that is open and has a descriptor, which `name` names."""
        yield from self._inside(file, name, pathlib.Path(name), name)

    def _inside(self, file, path: str, outer: pathlib.Path, full: str, depth: int = 0):
        """`outer`: the zip on disk; `full`: this zip for messages, from the root on."""
        try:
            file = self._open(file) if isinstance(file, pathlib.Path) else file
            archive = self.enter_context(zips.open_whole(file))
        except zips.DAMAGED as error:
            # DataError, of a file that cannot be opened, is a ValueError.
            if not isinstance(error, DataError):
                error = DataError(f'{full}: not a whole zip ({error}); download it again')
            self._fail(path, error)
            return
        seen = set()
        for info in sorted(archive.infolist(), key=operator.attrgetter('filename')):
            name = member_name(info)
            inner = f'{path}/{name}'
            check_member(info.filename, full)
            if info.is_dir() or name.endswith('/') or _SYSTEM.search(name):
                continue
            if posixpath.basename(name).startswith('.') or name.startswith('.'):
                self.left_out.append(f'{inner} (hidden)')
                continue
            if inner in seen:
                self.left_out.append(f'{inner} (a second member of that name)')
                continue
            seen.add(inner)
            if info.flag_bits & 1:
                self._fail(
                    inner,
                    DataError(f'{full}/{name}: encrypted; unpack the zip with its password first'),
                )
                continue
            is_zip = name.lower().endswith('.zip')
            packed = info.compress_type != zipfile.ZIP_STORED
            if is_zip and not (packed and self._listing):
                if depth == MAX_DEPTH:
                    self.left_out.append(f'{inner} (zips in zips, too deep)')
                    continue
                try:
                    inner_file = self._open_inner(file, archive, info, f'{full}/{name}')
                except DataError as error:
                    self._fail(inner, error)
                else:
                    yield from self._inside(inner_file, inner, outer, f'{full}/{name}', depth + 1)
            else:
                yield Entry(inner, _reader(archive, info, inner), outer, info.file_size)

    def _fail(self, path: str, error: DataError) -> None:
        if not self._tolerant:
            raise error
        self.failures[path] = str(error)

    def _open(self, path: pathlib.Path) -> io.BufferedReader:
        try:
            return self.enter_context(path.open('rb'))
        except OSError as error:
            raise DataError(
                f'{path}: cannot be opened ({error.strerror}); mend its permissions, or move it '
                'away'
            ) from error

    def _open_inner(self, file, archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str):
        """A zip inside a zip: a window into the outer file, or unpacked into a temporary one."""
        if info.compress_type == zipfile.ZIP_STORED:
            with _named(info, path):  # of a directory whose offsets lie
                header = Window(file, info.header_offset, _LOCAL_HEADER.size).read()
            if len(header) < _LOCAL_HEADER.size:
                raise DataError(f'{path}: damaged in the zip (no header there)')
            _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
            start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
            return Window(file, start, info.file_size)
        unpacked = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115, the stack closes it
        with _named(info, path), archive.open(info) as source:
            shutil.copyfileobj(source, unpacked, 1 << 20)
        return unpacked

    def _walk(self, folder: pathlib.Path) -> Iterator[pathlib.Path]:
        def fail(error: OSError) -> None:
            path = pathlib.Path(error.filename or folder)
            reason = f'{path}: cannot be looked into ({error.strerror}); mend its permissions'
            self._fail(printable(path.relative_to(folder).as_posix()), DataError(reason))

        for root, folders, files in os.walk(folder, followlinks=True, onerror=fail):
            inner = pathlib.Path(root)
            depth = len(inner.relative_to(folder).parts)
            shown = []
            for name in sorted(folders):
                if name.startswith('.') or _SYSTEM.search(name):
                    continue
                path = inner / name
                real = os.path.realpath(path)
                if path.is_symlink() and pathlib.Path(os.path.realpath(inner)).is_relative_to(real):
                    continue  # a link to a folder that it is in: its files are listed already
                if depth == MAX_DEPTH:
                    relative = printable(path.relative_to(folder).as_posix())
                    self.left_out.append(f'{relative}/ (folders in folders, too deep)')
                else:
                    shown.append(name)
            folders[:] = shown  # os.walk goes into the folders that are left in its list
            for name in files:
                path = inner / name
                if _SYSTEM.search(name):
                    continue
                if name.startswith('.') or _is_special(path):
                    relative = printable(path.relative_to(folder).as_posix())
                    reason = 'hidden' if name.startswith('.') else 'a device, pipe or socket'
                    self.left_out.append(f'{relative} ({reason})')
                else:
                    yield path


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


def _is_special(path: pathlib.Path) -> bool:
    """Whether a path is there and no regular file: to read from a pipe may take for ever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a dangling link: whoever reads it says so
        return False


def is_file(entry: Entry, path: pathlib.Path) -> bool:
    """Whether an entry is this file on disk, by whatever name; False of one that leads nowhere."""
    try:
        return entry.packed is None and entry.file.samefile(path)
    except OSError:
        return False


def on_disk(path: pathlib.Path, relative: str) -> Entry:
    """The entry of a file on disk."""

    def read(size: int = -1) -> bytes:
        with path.open('rb') as file:
            return file.read(size)

    return Entry(relative, read, path)


def printable(name: str) -> str:
    """A file's name that can be printed: where it is no UTF-8, its bytes count as Windows' own."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode('cp1252', 'replace')
    return name


def member_name(info: zipfile.ZipInfo) -> str:
    """The name of a zip's member as its maker meant it.

    Backslashes (old .NET) are slashes, ./ and a second slash are nothing, and UTF-8 is read as
    such where the zip does not declare it (macOS).
    """
    name = info.filename
    if not info.flag_bits & 0x800:
        try:
            name = name.encode('cp437').decode()
        except (UnicodeEncodeError, UnicodeDecodeError):
            name = info.filename
    return printable(re.sub(r'(^|/)(\./|/)+', r'\1', name.replace('\\', '/')))


def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> Callable[..., bytes]:
    def read(size: int = -1) -> bytes:
        with _named(info, path):
            if size < 0:
                zips.refuse_bomb([info])
            with archive.open(info) as file:
                return file.read(size)

    return read


@contextlib.contextmanager
def _named(info: zipfile.ZipInfo, path: str) -> Iterator[None]:
    """What goes wrong inside with a member becomes a DataError that names it."""
    try:
        yield
    except NotImplementedError as error:
        method = info.compress_type
        known = zipfile.compressor_names.get(method, 'unknown')
        advice = ' (Windows Explorer does so from 2 GB on)' if method == _DEFLATE64 else ''
        raise DataError(
            f'{path}: packed by method {method} ({known}){advice}, which cannot be unpacked here. '
            'Unpack the zip with the program that made it, or with 7-Zip, and give the folder'
        ) from error
    except zips.DAMAGED as error:
        if is_disk_full(error):
            raise
        raise DataError(f'{path}: damaged in the zip ({error})') from error
