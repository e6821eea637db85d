"""Collects what is wrong with a data set, so that one message names every kind with its count."""

import csv
import pathlib
from collections.abc import Iterable

from tfds_rsna.errors import UserError

SHOWN = 5


class DataError(UserError):
    """Input that cannot be used as it is: each kind of problem with its count, first ids, file and
    remedy.
    """


class Problems:
    """Problems by kind; `on_error='stop'` raises them together, `'skip'` drops the images and lists
    them.
    """

    def __init__(self, on_error: str):
        if on_error not in ('stop', 'skip'):
            raise UserError(f"on_error is 'stop' or 'skip', not {on_error!r}")
        self.on_error = on_error
        self._by_kind: dict[str, list[tuple[str, str, str]]] = {}

    def add(self, kind: str, image: str, file: str, reason: str) -> None:
        """Notes an image (its id, '' where it has none), the file it is about, and what is wrong."""
        self._by_kind.setdefault(kind, []).append((image, file, reason))

    def __len__(self) -> int:
        return sum(map(len, self._by_kind.values()))

    def ids(self) -> set[str]:
        """The ids of all images noted so far."""
        return {image for rows in self._by_kind.values() for image, _, _ in rows}

    def raise_if_any(self) -> None:
        """DataError that lists every kind, unless problems are to be skipped."""
        if self._by_kind and self.on_error == 'stop':
            raise DataError(
                '\n'.join(
                    [
                        *self.lines(),
                        'Mend these, or drop them: data.on_error=skip (as in '
                        '--config=configs/X.py:...,data.on_error=skip) lists them in rejected.csv.',
                    ]
                )
            )

    def lines(self) -> list[str]:
        """One line a kind: what, how many, and the first few."""
        lines = []
        for kind, rows in self._by_kind.items():
            shown = '; '.join(
                f'{image or "(no id)"} in {file}: {reason}' for image, file, reason in rows[:SHOWN]
            )
            more = f'; and {len(rows) - SHOWN} more' if len(rows) > SHOWN else ''
            lines.append(f'{kind}: {len(rows)} ({shown}{more})')
        return lines

    def write(self, path: pathlib.Path) -> None:
        """Writes `id,file,reason`, one row a problem; only the header where there are none."""
        with open(path, 'w', newline='', encoding='utf-8') as file:
            rows = csv.writer(file)
            rows.writerow(['id', 'file', 'reason'])
            for kind, found in self._by_kind.items():
                rows.writerows([image, name, f'{kind}: {reason}'] for image, name, reason in found)


def duplicates(names: Iterable[str]) -> set[str]:
    """The names that occur more than once."""
    seen, twice = set(), set()
    for name in names:
        (twice if name in seen else seen).add(name)
    return twice
