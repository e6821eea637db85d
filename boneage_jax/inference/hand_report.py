"""What the check for hands says of a user's images, as a table; no age is predicted."""

import pathlib
from collections import Counter

from boneage_jax import cli
from boneage_jax.inference import hand_check
from boneage_jax.runs import predictions, shipped
from boneage_jax.runtime import files, log
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import listing
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import Archive, printable

COLUMNS = ('id', 'file', 'status', 'score', 'flags')
_BATCH = 32  # images in memory at once


def write(place: pathlib.Path, output: pathlib.Path, *, overwrite: bool = False) -> list[dict]:
    """Judges the images at `place` and writes `output`.

    Args:
        place: an image, a folder of images, or a zip of them.
        output: the CSV to write.
        overwrite: replace an output that exists.

    Returns:
        The rows of `output`, `COLUMNS`; `flags` joined by ';', the reason among them. What could
        not be looked into, such as a damaged zip, has a row too.

    Raises:
        UserError: there are no images, the networks are not shipped, or `output` exists.
    """
    place = pathlib.Path(place).expanduser()
    output = pathlib.Path(output)
    cli.refuse_existing(output, overwrite, (place,))
    check = hand_check.checker()
    if check is None:
        raise UserError(f'the networks of hands are not there; shipped are: {shipped.listed()}')
    rows = []
    with Archive(tolerant=True) as archive:
        listed, lines = listing.listing(archive, place)
        for line in lines:
            log.info(line)
        for path, reason in archive.failures.items():
            row = {'id': '', 'file': path, 'score': '', 'status': predictions.UNREADABLE}
            rows.append(row | {'flags': reason})
            log.info(reason)
        for start in range(0, len(listed), _BATCH):
            rows += _judged(listed[start : start + _BATCH], check)
    cells = [[row[name] for name in COLUMNS] for row in rows]
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(output, list(COLUMNS), cells)
    counts = Counter(row['status'] for row in rows)
    told = ', '.join(f'{count:,} {status}' for status, count in counts.items())
    log.info(f'{len(rows):,} images: {told}: {output}')
    return rows


def _judged(listed, check):
    """The rows of some files."""
    rows = []
    images = []
    for file in listed:
        row = {'id': file.id, 'file': printable(str(file.entry.path)), 'score': ''}
        try:
            image = decoding.read(file.entry.read(), file.entry.path)
        except (UserError, OSError) as error:
            rows.append(row | {'status': predictions.UNREADABLE, 'flags': str(error)})
            continue
        rows.append(row | {'flags': image.flags})
        images.append(image.grey)
    verdicts = iter(check(images))
    for row in rows:
        if 'status' in row:
            continue
        verdict = next(verdicts)
        row['status'] = predictions.REFUSED if verdict.reason else predictions.OK
        row['score'] = f'{verdict.score:.3f}'
        row['flags'] = ';'.join((*row['flags'], *verdict.told))
    return rows
