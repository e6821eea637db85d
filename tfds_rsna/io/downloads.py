"""Downloads a large file: resumable, with progress, its SHA-256 checked; a wrong file never gets
the right name.
"""

import errno
import hashlib
import os
import pathlib
import shutil
import time

import requests
from tqdm import tqdm

from tfds_rsna.errors import UserError

_BLOCK = 1 << 16  # what a lost connection loses at most
_TIMEOUT = (20, 60)  # seconds to connect, and between two blocks
_TRIES = 5


class DownloadError(UserError):
    """A download that failed: says what, why, and whether running it again goes on where it
    stopped.
    """


def fetch(url: str, target, *, sha256: str | None = None, wait: float = 2.0) -> pathlib.Path:
    """Downloads `url` to `target` unless it is there.

    Bytes go to `target.part`, which a later call continues (HTTP Range); a lost connection is tried
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
    tries = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, target.name)
            break
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            tries = 1 if _size(part) > before else tries + 1  # only tries that bring nothing count
            if tries >= _TRIES:
                raise DownloadError(
                    f'{url}: {error}. {_size(part):,} bytes are kept in {part}; run the same again '
                    'to go on from there'
                ) from error
            time.sleep(wait * 2 ** (tries - 1))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
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
                f'{url}: SHA-256 is {found}, not {sha256}. The file was damaged on its way, or is not '
                'the known one; it has been deleted. Run the same again'
            )
    os.replace(part, target)
    return target


def digest(path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _continue(url: str, part: pathlib.Path, name: str) -> None:
    """Appends what is missing to `part`."""
    have = _size(part)
    # identity: a packed transfer has no byte positions to go on from
    headers = {'Accept-Encoding': 'identity'} | ({'Range': f'bytes={have}-'} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if (
            answer.status_code == 416
        ):  # nothing beyond what we have: whole already, or longer than it should be
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
        total = (
            have + int(answer.headers['Content-Length'])
            if 'Content-Length' in answer.headers
            else None
        )
        free = shutil.disk_usage(part.parent).free
        if total and total - have > free:
            raise DownloadError(
                f'{url}: {total - have:,} bytes to come, {free:,} free in {part.parent}'
            )
        progress = tqdm(
            total=total, initial=have, desc=name, unit='B', unit_scale=True, disable=None
        )
        with progress, open(part, 'ab' if have else 'wb') as file:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                progress.update(len(block))
        if total and _size(part) != total:
            raise requests.ConnectionError(
                f'connection closed after {_size(part):,} of {total:,} bytes'
            )


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
