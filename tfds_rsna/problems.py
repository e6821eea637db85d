"""Collects what is wrong with a data set, so that one message names every kind with its count."""

import csv
import pathlib
from collections.abc import Iterable, Sequence

from tfds_rsna.errors import UserError

SHOWN = 5
REJECTED_HEADER = 'id,file,reason'  # of the list of what was dropped


class DataError(UserError):
    """Input that cannot be used as it is.

    The message names each kind of problem with its count, first ids, file and remedy.
    """


class Problems:
    """Problems by kind: `on_error='stop'` raises them together, `'skip'` drops and lists them."""

    def __init__(self, on_error: str):
        if on_error not in ('stop', 'skip'):
            raise UserError(f"on_error is 'stop' or 'skip', not {on_error!r}")
        self.on_error = on_error
        self._by_kind: dict[str, list[tuple[str, str, str]]] = {}

    def add(self, kind: str, image: str, file: str, reason: str) -> None:
        """Notes an image (its id, '' without one), the file it is about, and what is wrong."""
        self._by_kind.setdefault(kind, []).append((image, file, reason))

    def __len__(self) -> int:
        return sum(map(len, self._by_kind.values()))

    def ids(self) -> set[str]:
        """The ids of all images noted so far."""
        return {image for rows in self._by_kind.values() for image, _, _ in rows}

    def raise_if_any(self) -> None:
        """DataError that lists every kind, unless problems are to be skipped."""
        if self._by_kind and self.on_error == 'stop':
            advice = (
                'Mend these, or drop them: data.on_error=skip (as in '
                '--config=configs/X.py:...,data.on_error=skip) lists them in rejected.csv.'
            )
            raise DataError('\n'.join([*self.lines(), advice]))

    def lines(self) -> list[str]:
        """One line a kind: what, how many, and the first few."""
        lines = []
        for kind, rows in self._by_kind.items():
            shown = '; '.join(
                f'{image or "(no id)"} in {file}: {reason}' for image, file, reason in rows[:SHOWN]
            )
            if len(rows) > SHOWN:
                shown += f'; and {len(rows) - SHOWN} more'
            lines.append(f'{kind}: {len(rows)} ({shown})')
        return lines

    def write(self, path: pathlib.Path) -> None:
        """Writes `id,file,reason`, one row a problem; only the header where there are none."""
        with open(path, 'w', newline='', encoding='utf-8', errors='backslashreplace') as file:
            writer = csv.writer(file)
            writer.writerow(REJECTED_HEADER.split(','))
            for kind, rows in self._by_kind.items():
                for image, name, reason in rows:
                    writer.writerow([image, name, f'{kind}: {reason}'])

    def report(self, folder: pathlib.Path) -> None:
        """Writes `rejected.csv` into `folder`, and prints what was dropped where anything was."""
        self.write(folder / 'rejected.csv')
        if len(self):
            print('\n'.join(['dropped (see rejected.csv):', *self.lines()]), flush=True)


def left_out_lines(files: Sequence[str]) -> list[str]:
    """One line about files that were left out, with the first of them; `[]` without any."""
    if not files:
        return []
    shown = '; '.join(files[:SHOWN])
    if len(files) > SHOWN:
        shown += f'; and {len(files) - SHOWN:,} more'
    count = '1 file' if len(files) == 1 else f'{len(files):,} files'
    return [f'{count} left out: {shown}']


def duplicates(names: Iterable[str]) -> set[str]:
    """The names that occur more than once."""
    seen = set()
    twice = set()
    for name in names:
        if name in seen:
            twice.add(name)
        seen.add(name)
    return twice
