"""Files made anew around a changed part, with their checksums right: `change(bytes) -> bytes`."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable


def zipped(members: dict[str, bytes | str], method: int) -> bytes:
    """A zip of `members`, packed by a method of `zipfile`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', method) as made:
        for name, data in members.items():
            made.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def changed_gzip(data: bytes, change: Callable) -> bytes:
    """A gzip file with what it holds changed."""
    return gzip.compress(change(gzip.decompress(data)), mtime=0)


def changed_zip(data: bytes, change: Callable) -> bytes:
    """A zip with one member changed, the one that `change` draws."""
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        members = {info.filename: whole.read(info) for info in whole.infolist()}
        method = whole.infolist()[0].compress_type
    name = change.choice(sorted(members))
    members[name] = change(members[name])
    return zipped(members, method)


def changed_png(data: bytes, change: Callable) -> bytes:
    """A PNG with the content of one chunk changed."""
    chunks = []
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], 'big')
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    changed = change.choice(range(len(chunks)))
    parts = [data[:8]]
    for place, (kind, content) in enumerate(chunks):
        if place == changed:
            content = change(content)
        checksum = zlib.crc32(kind + content)
        parts += [struct.pack('>I', len(content)), kind, content, struct.pack('>I', checksum)]
    return b''.join(parts)
