"""A request's form, read within limits, and the images in it.

Files stay in memory or in temporary files without a name, and are gone when the request is.
"""

import dataclasses
import functools
import json
import pathlib
import re
import threading
from collections.abc import Iterator, Sequence

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from tfds_rsna.image_folder import listing
from tfds_rsna.io.archive import Archive, Entry, printable
from tfds_rsna.problems import DataError

_GZIP = b'\x1f\x8b'
_ZIP = b'PK\3\4'
_KINDS = 'none of PNG, JPEG, TIFF, BMP, DICOM'
_FIELDS = 8
_TAIL = 1024  # bytes at a form's end that hold its last boundary
_LONGEST = 1 << 20  # bytes of a field that is no file
SEXES = {'female': False, 'male': True}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may hold.

    Attributes:
        megabytes: of the whole request, and of each file that a zip unpacks to.
        images: in it.
    """

    megabytes: int = 512
    images: int = 1000

    @property
    def bytes(self) -> int:
        return self.megabytes * 1_000_000


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        files: that were sent.
        male: the sex of the images that `sexes` does not name.
        sexes: `{file: whether it is a boy's}`.
        only: the files that an answer is wanted of; empty for all.
        look: whether to find out where the network looked.
        pictures: whether the answer shows the images.
    """

    files: Sequence[UploadFile]
    male: bool | None
    sexes: dict[str, bool]
    only: frozenset[str]
    look: bool
    pictures: bool


async def read_form(request: Request, limits: Limits) -> FormData:
    """The form of a request; HTTPException 413 where it is too large, 400 where it is none."""
    too_large = HTTPException(413, f'more than {limits.megabytes:,} MB at once')
    length = request.headers.get('content-length', '0')
    if length.isdigit() and int(length) > limits.bytes:
        raise too_large
    receive = request.receive
    count = 0
    last = b''
    kind = request.headers.get('content-type', '')
    boundary = parse_options_header(kind)[1].get(b'boundary', b'')

    async def counted():
        nonlocal count, last
        message = await receive()
        body = message.get('body', b'')
        count += len(body)
        last = (last + body[-_TAIL:])[-_TAIL:]
        if count > limits.bytes:
            raise too_large
        ended = message['type'] == 'http.request' and not message.get('more_body')
        if ended and boundary + b'--' not in last:
            # This kind closes the files that were begun.
            raise MultiPartException('the form is cut short: send it again')
        return message

    limited = Request(request.scope, counted)
    if not kind.lower().startswith('multipart/form-data'):
        raise HTTPException(400, 'expected a form of files, multipart/form-data')
    try:
        return await limited.form(
            max_files=limits.images, max_fields=_FIELDS, max_part_size=_LONGEST
        )
    except HTTPException as error:
        if error.detail.startswith('Too many files'):
            raise HTTPException(413, f'more than {limits.images:,} images at once') from error
        raise
    except (LookupError, UnicodeError) as error:
        raise HTTPException(400, f'a form that cannot be read ({error})') from error


def asked(form: FormData) -> Asked:
    """What a form asks for; HTTPException 400 for what it cannot say."""
    files = form.getlist('images')
    if not files:
        raise HTTPException(400, 'no file: send images in the field "images"')
    if not all(isinstance(each, UploadFile) for each in files):
        raise HTTPException(400, 'images: a part is no file; give each a filename="..."')
    male = None
    if len(set(form.getlist('sex'))) > 1:
        raise HTTPException(400, 'sex: given twice, and not the same')
    if form.get('sex'):
        male = _male(form.get('sex'))
    named = _json(form, 'sexes', dict, '{"file": "male" or "female"}')
    sexes = {name: _male(value) for name, value in named.items()}
    only = _json(form, 'only', list, '["file"]')
    return Asked(
        files,
        male,
        sexes,
        frozenset(map(str, only)),
        form.get('look') == 'true',
        form.get('pictures') == 'true',
    )


def _json(form, field, kind, like):
    """What a field has as JSON, nothing where it is empty."""
    wrong = HTTPException(400, f'{field}: expected JSON, {like}')
    try:
        found = json.loads(form.get(field) or str(kind()))
    except (ValueError, TypeError, RecursionError) as error:
        raise wrong from error
    if not isinstance(found, kind):
        raise wrong
    return found


def _male(text):
    if not isinstance(text, str) or text not in SEXES:
        raise HTTPException(400, f'sex: expected "male" or "female", found {str(text)[:20]!r}')
    return SEXES[text]


def images(
    sent: Asked, archive: Archive, limits: Limits
) -> tuple[list[listing.Image], list[tuple[str, str]]]:
    """The images among the files, those in zips included, and (file, reason) of what is none.

    Raises HTTPException 413 where there are too many, 400 for a sex of a file that was not sent.
    """
    entries = []
    others = []
    for entry in _entries(sent.files, archive):
        if len(entries) >= limits.images:
            raise HTTPException(413, f'more than {limits.images:,} images at once')
        reason = _refused(entry, limits)
        if reason:
            others.append((entry.path, reason))
        else:
            entries.append(entry)
    found, left_out = listing.from_entries(entries)
    for entry, what in left_out:
        kind = _KINDS if what == 'no image' else what
        others.append((entry.path, f'no image that can be read ({kind})'))
    others += list(archive.failures.items())
    for what in archive.left_out:
        path, _, reason = what.rpartition(' (')
        if reason != 'hidden)':
            others.append((path, f'left out ({reason}'))
    known = {image.entry.path for image in found} | {path for path, _ in others}
    for field, names in (('sexes', sent.sexes), ('only', sent.only)):
        for name in names:
            if name not in known:
                raise HTTPException(400, f'{field}: no file {name!r} was sent')
    wanted = []
    for image in listing.with_unique_ids(found):
        path = image.entry.path
        if path in (sent.only or {path}):
            wanted.append(dataclasses.replace(image, male=sent.sexes.get(path)))
    if sent.only:
        others = [(path, reason) for path, reason in others if path in sent.only]
    return wanted, others


def _entries(files, archive) -> Iterator[Entry]:
    taken = set()
    for file in files:
        name = _free(_base_name(file.filename), taken)
        taken.add(name)
        if name.lower().endswith('.zip') or file.file.read(len(_ZIP)) == _ZIP:
            try:
                yield from archive.opened(file.file, name)
            except DataError as error:  # members that climb out
                archive.failures[name] = str(error)
            continue
        reader = functools.partial(_read, file.file, threading.Lock())
        yield Entry(name, reader, pathlib.Path(name), file.size)


def _read(file, lock, size=-1):
    with lock:
        if file.closed:
            raise OSError('the request is gone')
        file.seek(0)
        return file.read(size)


def _base_name(name):
    """The last part of a file's name, without what no terminal or table can hold."""
    last = re.split(r'[/\\]', printable(name or ''))[-1]
    return re.sub(r'[\x00-\x1f\x7f]', '_', last) or 'image'


def _free(name, taken):
    path = pathlib.PurePath(name)
    number = 2
    while name in taken:
        name = f'{path.stem} ({number}){path.suffix}'
        number += 1
    return name


def _refused(entry, limits):
    """Why a file is not even looked at, or ''."""
    if entry.size() > limits.bytes:
        return f'unpacks to more than {limits.megabytes:,} MB'
    try:
        if entry.read(2) == _GZIP:
            return 'packed by gzip: unpack it first'
    except (DataError, OSError):
        pass  # whoever decodes it says so
    return ''
