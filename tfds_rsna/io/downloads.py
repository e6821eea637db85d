"""Downloads a large file: resumable, its SHA-256 checked before it gets its name."""

import hashlib
import os
import pathlib
import shutil
import time

import requests
from tqdm import tqdm

from tfds_rsna.errors import UserError, is_disk_full

_BLOCK = 1 << 16  # what a lost connection loses at most
_TIMEOUT = (20, 60)  # seconds to connect, and between two blocks
_TRIES = 5
_LOST = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class DownloadError(UserError):
    """A download that failed; the message tells why, and whether another run continues it."""


def fetch(
    url: str, target: str | pathlib.Path, *, sha256: str | None = None, wait: float = 2.0
) -> pathlib.Path:
    """Downloads `url` to `target` unless it is there.

    Bytes go to `target.part`, which a later call continues (HTTP Range). A lost connection is tried
    again, with pauses of `wait` seconds and more. `target` appears by a rename, complete and
    checked.

    Args:
        url: where from.
        target: where to; an existing file is taken as it is.
        sha256: hex digest, where it is known.
        wait: seconds before the first new try; doubles with each.

    Raises:
        DownloadError: no connection, refused, disk full, or a wrong SHA-256 (the bad bytes are
            deleted then).
    """
    target = pathlib.Path(target)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + '.part')
    try:
        _complete(url, part, target.name, wait)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DownloadError(
            f'{target.parent}: the disk is full ({error.strerror}). {_size(part):,} bytes are kept '
            f'in {part}; make room and run the same again to go on from there'
        ) from error
    if sha256:
        found = digest(part)
        if found != sha256.lower():
            part.unlink()
            raise DownloadError(
                f'{url}: SHA-256 is {found}, not {sha256}. The file was damaged on its way, or is '
                'not the known one; it has been deleted. Run the same again'
            )
    os.replace(part, target)
    return target


def digest(path: str | pathlib.Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _complete(url: str, part: pathlib.Path, name: str, wait: float) -> None:
    """Fills `part`, however often the connection is lost; only tries that bring nothing count."""
    tries = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, name)
            return
        except _LOST as error:
            tries += 1
            if _size(part) > before:
                tries = 1
            if tries >= _TRIES:
                raise DownloadError(
                    f'{url}: {error}. {_size(part):,} bytes are kept in {part}; run the same again '
                    'to go on from there'
                ) from error
            time.sleep(wait * 2 ** (tries - 1))


def _continue(url: str, part: pathlib.Path, name: str) -> None:
    """Appends what is missing to `part`."""
    have = _size(part)
    headers = {'Accept-Encoding': 'identity'}  # a packed transfer has no byte positions
    if have:
        headers['Range'] = f'bytes={have}-'
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        # Nothing beyond what we have: whole already, or longer than it should be.
        if answer.status_code == 416:
            total = answer.headers.get('Content-Range', '').rpartition('/')[2]
            if total == str(have):
                return
            part.unlink()
            raise requests.ConnectionError(
                f'{part} did not fit the file on the server; starting over'
            )
        if not answer.ok:
            raise DownloadError(f'{url}: the server says {answer.status_code} {answer.reason}')
        if answer.status_code != 206:
            have = 0  # the server does not continue files
        total = None
        if 'Content-Length' in answer.headers:
            total = have + int(answer.headers['Content-Length'])
        free = shutil.disk_usage(part.parent).free
        if total and total - have > free:
            raise DownloadError(
                f'{url}: {total - have:,} bytes to come, {free:,} free in {part.parent}'
            )
        _append(answer, part, have, total, name)
    if total and _size(part) != total:
        raise requests.ConnectionError(
            f'connection closed after {_size(part):,} of {total:,} bytes'
        )


def _append(
    answer: requests.Response, part: pathlib.Path, have: int, total: int | None, name: str
) -> None:
    """Writes an answer behind the first `have` bytes of `part`, with a bar of progress."""
    progress = tqdm(total=total, initial=have, desc=name, unit='B', unit_scale=True, disable=None)
    mode = 'ab' if have else 'wb'
    with progress, open(part, mode) as file:
        for block in answer.iter_content(_BLOCK):
            file.write(block)
            progress.update(len(block))


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
