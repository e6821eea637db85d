"""Zips that may be damaged or hostile: what is checked, and which errors mean damage."""

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable

# What opening a damaged zip and reading from it raises. NotImplementedError, of an unknown method
# or version, is a RuntimeError; UnicodeDecodeError is a ValueError.
DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_END = 22  # bytes of the record at the end, before the zip's comment
_MANY = 0xFFFF  # members, which a larger record counts
_LARGE = 1 << 30  # bytes
_BOMB = 100  # so many times smaller no image, table or network packs


def open_whole(file) -> zipfile.ZipFile:
    """Opens a zip (a path, or a file that can seek) whose directory lists all of its members.

    `zipfile` takes a directory whose damage hides members without a word, and a zip cut short for
    the zip that lies in it unpacked.

    Raises:
        zipfile.BadZipFile: it lists another number of members than the zip says it has, or leaves
            out the first.
        Exception: one of DAMAGED.
    """
    archive = zipfile.ZipFile(file)
    try:
        stated = _stated(archive)
        first = _begins_with_member(archive)
    except BaseException:
        archive.close()
        raise
    found = len(archive.filelist)
    if stated is not None and (found - stated) % (_MANY + 1):
        archive.close()
        raise zipfile.BadZipFile(f'its directory lists {found} of {stated} members')
    if first and all(info.header_offset for info in archive.filelist):
        archive.close()
        raise zipfile.BadZipFile('cut short: its directory leaves out what it begins with')
    return archive


def _begins_with_member(archive: zipfile.ZipFile) -> bool:
    archive.fp.seek(0)
    return archive.fp.read(4) == b'PK\3\4'


def _stated(archive: zipfile.ZipFile) -> int | None:
    """How many members the end of a zip says there are; None where that cannot be told."""
    size = _END + len(archive.comment)
    archive.fp.seek(-size, os.SEEK_END)
    end = archive.fp.read(_END)
    count = int.from_bytes(end[10:12], 'little')
    return count if end[:4] == b'PK\5\6' and count != _MANY else None


def refuse_bomb(members: Iterable[zipfile.ZipInfo]) -> None:
    """Raises zipfile.BadZipFile for members that would fill the memory when they are unpacked."""
    members = list(members)
    unpacked = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if unpacked > _LARGE and unpacked > _BOMB * packed:
        raise zipfile.BadZipFile(
            f'{packed:,} bytes that unpack to {unpacked:,}: refused as a decompression bomb'
        )
