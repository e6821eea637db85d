"""The official RSNA files and where to get them."""

import dataclasses
import pathlib
from collections.abc import Iterable

from tfds_rsna.io import downloads, zips

BASE = 'https://s3.amazonaws.com/east1.public.rsna.org/AI/2017/'


@dataclasses.dataclass(frozen=True)
class OfficialFile:
    """A file of the challenge: its name under `BASE`, SHA-256 where known, and size in words."""

    name: str
    sha256: str | None
    size: str


FILES = {
    'train': (
        OfficialFile(
            'Bone+Age+Training+Set+Annotations.zip',
            'f6373249b6ec85d182c62ab83f05fa76dff90ba03315e455dd6de332dffc7215',
            'small',
        ),
        OfficialFile(
            'Bone+Age+Training+Set.zip',
            '9eab917f59bf520b4eb10803d33e7007ea3b3c2bd4df1c55aff45bc339b2736a',
            '9.6 GB',
        ),
    ),
    'validation': (
        OfficialFile(
            'Bone+Age+Validation+Set.zip',
            '683ea5398dd9d0730af883e673176a5c6817fd35a5a59331a500fa7affcd36f0',
            '1.1 GB',
        ),
    ),
    'test': (OfficialFile('Bone+Age+Test+Set.zip', None, '170 MB'),),
}


def download(
    folder: str | pathlib.Path, splits: Iterable[str] = tuple(FILES), *, base: str = BASE
) -> None:
    """Downloads the official zips of `splits`: finished ones stay, cut ones are continued.

    Args:
        folder: where to.
        splits: keys of `FILES`.
        base: the address of the folder with the files.

    Raises:
        downloads.DownloadError: as `downloads.fetch`; also a zip without a known SHA-256 that fails
            the zip's own test.
    """
    for split in splits:
        for file in FILES[split]:
            target = pathlib.Path(folder) / file.name
            if target.exists():
                continue
            print(f'{file.name} ({file.size}) -> {folder}', flush=True)
            # Before the rename where there is no digest, so that the name always means a whole zip.
            if file.sha256:
                downloads.fetch(base + file.name, target, sha256=file.sha256)
                continue
            unchecked = downloads.fetch(
                base + file.name, target.with_name(target.name + '.unchecked')
            )
            _test_zip(unchecked, base + file.name)
            unchecked.rename(target)


def _test_zip(path: pathlib.Path, url: str) -> None:
    try:
        with zips.open_whole(path) as archive:
            damaged = archive.testzip()
    except zips.DAMAGED as error:
        damaged = str(error)
    if damaged:
        path.unlink()
        raise downloads.DownloadError(
            f'{url}: not a whole zip ({damaged}); it has been deleted. Run the same again'
        )
