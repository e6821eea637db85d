"""Tables as people keep them: CSV of any spreadsheet, or xlsx -> rows of text by column."""

import csv
import io
import re
from collections.abc import Callable, Sequence

from tfds_rsna.io import zips
from tfds_rsna.problems import DataError, duplicates

_DELIMITERS = ',;\t|'
_LOOKED_AT = 50  # rows by which the delimiter is found
_DECIMAL_COMMA = re.compile(r'^\s*-?\d+,\d+\s*$')
_SEP = re.compile(r'^"?sep=(.)"?\s*$', re.IGNORECASE)  # what Excel writes for itself
Line = tuple[int, list[str]]  # its number in the file, and its cells
_UNSEEN = re.compile('[\u200b\u200c\u200d\u200e\u200f\u2060\ufeff]')
_KEPT_TEXT = re.compile(r'="([^"]*)"')
_MOST_ROWS = 1 << 20  # of an Excel sheet
_OLD_EXCEL = b'\xd0\xcf\x11\xe0'
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
            with more cells than the header, or several sheets that could each be meant.
    """
    if not data:
        raise DataError(f'{name}: zero bytes; a label table is needed')
    if data[:4] == b'PK\x03\x04':
        lines, note = _choose_sheet(_read_xlsx(data, name), name, fits)
        spare_cells = True  # notes beside a sheet's table are no mistake
    else:
        read, note = _read_csv(data, name)
        lines = _filled(read)
        spare_cells = False
    if len(lines) < 2:
        raise DataError(f'{name}: no rows below the header')
    header = _header(lines)
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
        cells += [''] * (len(header) - len(cells))
        table.append(dict(zip(header, cells)))
    return Table(table, note)


def _filled(lines: list[Line]) -> list[Line]:
    return [(number, row) for number, row in lines if any(cell.strip() for cell in row)]


def _header(lines: list[Line]) -> list[str]:
    return [cell.strip() for cell in lines[0][1]]


def _choose_sheet(
    sheets: dict[str, list[Line]], name: str, fits: Callable[[list[str]], bool] | None
) -> tuple[list[Line], str]:
    """(the lines of the sheet that is meant, which it is in words where there are several)."""
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
        return filled[chosen], ''
    return filled[chosen], f'sheet {chosen!r} of {", ".join(map(repr, filled))} is read'


def _read_csv(data: bytes, name: str) -> tuple[list[Line], str]:
    """(the lines of a CSV, what was decided about its coding)."""
    text, note = _decoded(data, name)
    text = _UNSEEN.sub('', text)
    first, _, rest = text.partition('\n')
    stated = _SEP.match(first)
    if stated:
        text = rest
    delimiter = stated[1] if stated else _delimiter(text)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=''), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f'{name}: not a readable CSV ({error})') from error
    if delimiter != ',':
        rows = [list(map(_decimal_point, row)) for row in rows]
    rows = [list(map(_bare, row)) for row in rows]
    return list(enumerate(rows, start=2 if stated else 1)), note


def _decoded(data: bytes, name: str) -> tuple[str, str]:
    """(the text of a file in one of the codings that spreadsheets write, a note where guessed)."""
    if data[:4] == _OLD_EXCEL:
        raise DataError(f"{name}: Excel's old format (.xls); save it as xlsx or as CSV")
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


def _bare(cell: str) -> str:
    """A cell without marks that nobody sees, and without what keeps Excel from a number: ="007"."""
    cell = _UNSEEN.sub('', cell)
    found = _KEPT_TEXT.fullmatch(cell.strip())
    return found[1] if found else cell


def _decimal_point(cell: str) -> str:
    return cell.replace(',', '.') if _DECIMAL_COMMA.match(cell) else cell


def _read_xlsx(data: bytes, name: str) -> dict[str, list[Line]]:
    """{sheet: its lines} of a workbook, in its order."""
    import openpyxl  # a second to import, and few tables are xlsx

    sheets = {}
    try:
        with zips.open_whole(io.BytesIO(data)) as archive:
            zips.refuse_bomb(archive.infolist())
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        for sheet in book.worksheets:
            sheets[sheet.title] = _sheet_lines(sheet)
        book.close()
        if not sheets:
            raise ValueError('no sheet of cells')
    except Exception as error:  # openpyxl, zipfile and the XML parser raise whatever they meet
        raise DataError(
            f'{name}: not a readable xlsx ({type(error).__name__}: {error}); save it again, or as '
            'CSV'
        ) from error
    return sheets


def _sheet_lines(sheet) -> list[Line]:
    # Several programs state a range smaller than the sheet, and openpyxl would believe it.
    sheet.reset_dimensions()
    lines = []
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        # Rows that the file leaves out come empty: a damaged number would make billions.
        if number > _MOST_ROWS:
            raise ValueError(f'more than {_MOST_ROWS:,} rows')
        if any(cell is not None for cell in row):
            lines.append((number, list(map(_text, row))))
    return lines


def _text(cell) -> str:
    if cell is None:
        return ''
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return _bare(str(cell))
