"""What a file is, by its name and its first bytes: an image to be read, or something else."""

import dataclasses

from tfds_rsna.image_folder import matching
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Entry
from tfds_rsna.problems import DataError

_MOST_HEADER = 1 << 28  # bytes of a DICOM before its pixels; directories of CDs are large


@dataclasses.dataclass(frozen=True)
class Look:
    """Why a file is no image, '' where it is one; and the sex in its header."""

    reason: str = ''
    male: bool | None = None


def look(entry: Entry) -> Look:
    """An image has the name of one, or its content; a DICOM that is no image is none.

    What cannot be read counts as an image where its name says so: whoever decodes it says the rest.
    """
    named = matching.IMAGE.search(entry.name) is not None
    try:
        head = decoding.unpacked_head(entry.head())
    except (DataError, OSError):
        return Look() if named else Look('cannot be read')
    if not named and not decoding.is_image(head):
        return Look(decoding.describe(head, 'no image'))
    if not decoding.is_dicom(head, entry.name.lower().removesuffix('.gz')):
        return Look()
    from tfds_rsna.io import dicom  # optional dependency

    try:
        found = dicom.header(head)
        if found is None:
            found = dicom.header(decoding.unpacked_head(entry.read(), _MOST_HEADER))
        kind, male = found or ('', None)
    except (DataError, OSError):
        return Look()
    return Look(f'DICOM, {kind}' if kind else '', male)
