"""Tables as people keep them: CSV of any spreadsheet, or xlsx -> rows of text by column."""

import csv
import io
import re
from collections.abc import Callable, Sequence

from tfds_rsna import xlsx
from tfds_rsna.problems import DataError, duplicates
from tfds_rsna.xlsx import Line

_DELIMITERS = ',;\t|'
_LOOKED_AT = 50  # rows by which the delimiter is found
_DECIMAL_COMMA = re.compile(r'^\s*-?\d+,\d+\s*$')
_SEP = re.compile(r'^"?sep=(.)"?\s*$', re.IGNORECASE)  # what Excel writes for itself
_OLD_EXCEL = b'\xd0\xcf\x11\xe0'
_ENCRYPTED = 'EncryptedPackage'.encode('utf-16-le')  # what Excel's container of a password holds
# What a file begins with that is no table, and what it is.
_OTHERS = {
    b'\x1f\x8b': 'packed by gzip; unpack it',
    b'BZh': 'packed by bzip2; unpack it',
    b'\xfd7zXZ': 'packed by xz; unpack it',
    b'7z\xbc\xaf': 'a 7-Zip archive; unpack it',
    b'Rar!': 'a RAR archive; unpack it',
    b'PAR1': 'a Parquet file; save it as CSV',
    b'%PDF': 'a PDF; save the table as CSV',
    b'{\\rtf': 'a text document; save the table as CSV',
    b'<': 'a web page or XML, whatever its name; open it in a spreadsheet and save it as CSV',
    b'{': 'JSON; save it as CSV',
    b'[': 'JSON; save it as CSV',
}
# The longest first: UTF-32's mark begins with that of UTF-16.
_MARKS = (
    (b'\xff\xfe\0\0', 'utf-32'),
    (b'\0\0\xfe\xff', 'utf-32'),
    (b'\xff\xfe', 'utf-16'),
    (b'\xfe\xff', 'utf-16'),
)


class Table(list[dict[str, str]]):
    """The rows of a table.

    Attributes:
        note: what was decided in reading them, for people: the sheet of several that they are
            from, or the coding; '' where there was nothing to decide.
    """

    def __init__(self, rows: Sequence[dict[str, str]], note: str = ''):
        super().__init__(rows)
        self.note = note


def read_table(data: bytes, name: str, fits: Callable[[list[str]], bool] | None = None) -> Table:
    """Rows of a CSV or of a sheet of an xlsx, all as text.

    A CSV may use commas, semicolons, tabs or bars (`sep=;` above the header says which), and UTF-8,
    UTF-16, UTF-32 or Windows' coding of Western Europe (which is said). Where anything but a comma
    parts the columns, the comma is the decimal mark (the spreadsheets of half of Europe).

    Args:
        data: the file.
        name: its name, for messages.
        fits: whether a header has the columns that are needed. It decides where several sheets of
            an xlsx have rows.

    Raises:
        DataError: empty, without rows, not such a file, a column that occurs twice, a row of a CSV
            with more cells than the header, a quotation mark that is not closed, another header
            among the rows, or several sheets that could each be meant.
    """
    if not data:
        raise DataError(f'{name}: zero bytes; a label table is needed')
    if data[:4] == b'PK\x03\x04':
        sheets, notes = xlsx.read(data, name)
        title, note = _choose_sheet(sheets, name, fits)
        lines = _filled(sheets[title])
        note = '; '.join(filter(None, (note, notes[title])))
        spare_cells = True  # notes beside a sheet's table are no mistake
    else:
        read, note = _read_csv(data, name)
        lines = _filled(read)
        spare_cells = False
    if len(lines) < 2:
        raise DataError(f'{name}: no rows below the header')
    header = _header(lines)
    _refuse_titles(header, lines[1:], name)
    twice = duplicates(filter(None, header))
    if twice:
        raise DataError(f'{name}: column {", ".join(sorted(twice))} occurs twice')
    table = []
    for number, row in lines[1:]:
        cells = [cell.strip() for cell in row]
        if not spare_cells and any(cells[len(header) :]):
            raise DataError(
                f'{name}, row {number}: {len(cells)} cells under a header of {len(header)}: '
                f'{", ".join(map(repr, cells))}. Is a comma part of a text or of a number there? '
                'Put that cell in quotes'
            )
        _refuse_header(cells, header, f'{name}, row {number}')
        cells += [''] * (len(header) - len(cells))
        table.append(dict(zip(header, cells)))
    return Table(table, note)


def _refuse_titles(header: list[str], lines: list[Line], name: str) -> None:
    """DataError where the first row is a title or a remark above the header."""
    if sum(map(bool, header)) > 1:
        return
    for number, row in lines:
        cells = list(filter(None, map(str.strip, row)))
        if len(cells) > 1:
            raise DataError(
                f'{name}: the first row is {header[0]!r} alone, and row {number} has '
                f'{len(cells)} cells: {", ".join(map(repr, cells[:4]))}. The first row must name '
                'the columns: delete what stands above them'
            )


def _refuse_header(cells: list[str], header: list[str], where: str) -> None:
    """DataError for a row with names of columns that is not the header once more."""
    names = {name.casefold() for name in header if name}
    found = {cell.casefold() for cell in cells} & names
    again = all(cell.casefold() == name.casefold() for cell, name in zip(cells, header))
    if len(found) > 1 and not again:
        raise DataError(
            f'{where}: another header ({", ".join(filter(None, cells))}) below that of the first '
            f'row ({", ".join(filter(None, header))}). A table has one row of names: make one of '
            'two, and two tables of two'
        )


def _filled(lines: list[Line]) -> list[Line]:
    return [(number, row) for number, row in lines if any(cell.strip() for cell in row)]


def _header(lines: list[Line]) -> list[str]:
    return [cell.strip() for cell in lines[0][1]]


def _choose_sheet(
    sheets: dict[str, list[Line]], name: str, fits: Callable[[list[str]], bool] | None
) -> tuple[str, str]:
    """(the sheet that is meant, which it is in words where there are several)."""
    filled = {title: _filled(lines) for title, lines in sheets.items()}
    candidates = [title for title, lines in filled.items() if len(lines) > 1]
    if len(candidates) > 1 and fits:
        fitting = [title for title in candidates if fits(_header(filled[title]))]
        candidates = fitting or candidates
    if len(candidates) > 1:
        shown = '; '.join(
            f'{title!r} has {", ".join(_header(filled[title]))}' for title in candidates
        )
        raise DataError(
            f'{name}: {len(candidates)} of its {len(sheets)} sheets could be the table: {shown}. '
            'Save the one that is meant as a file of its own, or name its columns'
        )
    chosen = candidates[0] if candidates else next(iter(filled))
    if len(filled) == 1:
        return chosen, ''
    return chosen, f'sheet {chosen!r} of {", ".join(map(repr, filled))} is read'


def _read_csv(data: bytes, name: str) -> tuple[list[Line], str]:
    """(the lines of a CSV, what was decided about its coding)."""
    text, note = decode_text(data, name)
    text = xlsx.UNSEEN.sub('', text)
    first, _, rest = text.partition('\n')
    stated = _SEP.match(first)
    if stated:
        text = rest
    delimiter = stated[1] if stated else _delimiter(text)
    first_row = 2 if stated else 1
    rows = []
    reader = csv.reader(
        io.StringIO(text, newline=''), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    try:
        rows.extend(reader)
    except csv.Error as error:
        row = len(rows) + first_row
        raise DataError(
            f'{name}: not a readable CSV: {error} (row {row}, up to line '
            f'{reader.line_num + first_row - 1}). Is a quotation mark not closed, or part of a '
            'text? Inside of quotes it is written twice'
        ) from error
    _refuse_swallowed(rows, delimiter, name, first_row)
    if delimiter != ',':
        rows = [list(map(_decimal_point, row)) for row in rows]
    rows = [list(map(xlsx.bare, row)) for row in rows]
    return list(enumerate(rows, start=first_row)), note


def _refuse_swallowed(rows: list[list[str]], delimiter: str, name: str, first_row: int) -> None:
    """DataError for a cell that holds whole rows: two stray quotation marks put them there."""
    width = len(rows[0]) if rows else 0
    for number, row in enumerate(rows, start=first_row):
        for cell in row:
            inner = cell.strip().splitlines()[1:]
            counts = [line.count(delimiter) for line in inner]
            if width > 2 and counts and all(count == width - 1 for count in counts[:-1] or counts):
                raise DataError(
                    f'{name}, row {number}: one cell holds {len(inner) + 1} lines that look like '
                    f'rows: {cell.strip()[:60]!r}. Is a quotation mark part of a text? Inside of '
                    'quotes it is written twice'
                )


def decode_text(data: bytes, name: str) -> tuple[str, str]:
    """(the text of a file in one of the codings that spreadsheets write, a note where guessed).

    DataError where it is no text.
    """
    if data[:4] == _OLD_EXCEL and _ENCRYPTED in data:
        raise DataError(f'{name}: locked with a password; save it without one, as xlsx or as CSV')
    if data[:4] == _OLD_EXCEL:
        raise DataError(f"{name}: Excel's old format (.xls); save it as xlsx or as CSV")
    start = data[:64].removeprefix(b'\xef\xbb\xbf').lstrip()
    other = next((what for magic, what in _OTHERS.items() if start.startswith(magic)), None)
    if other:
        raise DataError(f'{name}: {other}; labels are read from CSV or xlsx')
    coding = next((coding for mark, coding in _MARKS if data.startswith(mark)), None)
    if coding is None and b'\0' in data[:4096]:
        coding = _unmarked_utf16(data[:4096])
        if coding is None:
            raise DataError(f'{name}: not a text file; labels are read from CSV or xlsx')
    try:
        return data.decode(coding or 'utf-8-sig'), ''
    except UnicodeDecodeError as error:
        if coding:
            raise DataError(f'{name}: not whole {coding.upper()} text ({error})') from error
        note = (
            "no UTF-8, read in Windows' coding of Western Europe; if letters look wrong, save it "
            'as UTF-8'
        )
        try:
            return data.decode('cp1252'), note
        except UnicodeDecodeError:
            return data.decode('latin-1'), note


def _unmarked_utf16(start: bytes) -> str | None:
    """The byte order of UTF-16 without a mark: every other byte of Latin text is zero."""
    for coding, zeros in (('utf-16-le', start[1::2]), ('utf-16-be', start[0::2])):
        if zeros and zeros.count(0) > 0.7 * len(zeros) and start.count(0) <= len(zeros):
            return coding
    return None


def _delimiter(text: str) -> str:
    """What parts the columns: that by which most rows have as many cells as the header."""
    lines = io.StringIO(text, newline='')
    head = ''.join(line for _, line in zip(range(_LOOKED_AT), lines))

    def fits(delimiter):
        try:
            rows = list(csv.reader(io.StringIO(head, newline=''), delimiter=delimiter))
        except csv.Error:
            return 0, 0
        widths = [len(row) for row in rows if any(cell.strip() for cell in row)]
        if not widths or widths[0] < 2:
            return 0, 0
        return widths.count(widths[0]), widths[0]

    return max(_DELIMITERS, key=fits)


def _decimal_point(cell: str) -> str:
    return cell.replace(',', '.') if _DECIMAL_COMMA.match(cell) else cell
