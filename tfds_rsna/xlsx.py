"""The sheets of an xlsx as lines of text: merged cells filled, formulas without a value shown."""

import io
import re

from tfds_rsna.io import zips
from tfds_rsna.problems import DataError

Line = tuple[int, list[str]]  # its number in the file, and its cells
_MOST_ROWS = 1 << 20  # of an Excel sheet
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="\$?([A-Z]+)\$?(\d+):\$?([A-Z]+)\$?(\d+)"')
_HIDDEN = re.compile(rb'<(?:\w+:)?row\s[^>]*?\bhidden="(?:1|true)"')
_FORMULA = re.compile(rb'<(?:\w+:)?f[\s>/]')
_DOCUMENT = b'opendocument'
UNSEEN = re.compile('[\u200b\u200c\u200d\u200e\u200f\u2060\ufeff]')
_KEPT_TEXT = re.compile(r'="([^"]*)"')


def read(data: bytes, name: str) -> tuple[dict[str, list[Line]], dict[str, str]]:
    """({sheet: its lines}, {sheet: what to say of it}) of a workbook, in its order.

    Cells that are merged down a column all have its text, and so have the columns under a merged
    name. A formula whose value the file lacks
    comes as the formula.

    Raises:
        DataError: not a whole xlsx; it says what the file is instead, where that is known.
    """
    import openpyxl  # a second to import, and few tables are xlsx

    sheets = {}
    notes = {}
    try:
        with zips.open_whole(io.BytesIO(data)) as archive:
            zips.refuse_bomb(archive.infolist())
            _refuse_others(archive, name)
            sources = {path: archive.read(path) for path in archive.namelist() if _is_sheet(path)}
        has_formulas = any(map(_FORMULA.search, sources.values()))
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        formulas = None
        if has_formulas:
            formulas = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
        for sheet in book.worksheets:
            lines = _lines(sheet)
            if formulas:
                _show_formulas(lines, formulas[sheet.title])
            source = sources.get(sheet._worksheet_path.lstrip('/'), b'')
            _fill_merged(lines, source)
            sheets[sheet.title] = lines
            hidden = len(_HIDDEN.findall(source))
            notes[sheet.title] = f'{hidden} hidden rows are read too' if hidden else ''
        book.close()
        if formulas:
            formulas.close()
        if not sheets:
            raise ValueError('no sheet of cells')
    except DataError:
        raise
    except Exception as error:  # openpyxl, zipfile and the XML parser raise whatever they meet
        raise DataError(
            f'{name}: not a readable xlsx ({type(error).__name__}: {error}); save it again, or as '
            'CSV'
        ) from error
    return sheets, notes


def bare(cell: str) -> str:
    """A cell without marks that nobody sees, and without what keeps Excel from a number: ="007"."""
    cell = UNSEEN.sub('', cell)
    found = _KEPT_TEXT.fullmatch(cell.strip())
    return found[1] if found else cell


def _is_sheet(path: str) -> bool:
    return re.fullmatch(r'.*worksheets/[^/]+\.xml', path) is not None


def _refuse_others(archive, name: str) -> None:
    """DataError for the zips that are no xlsx."""
    members = archive.namelist()
    if 'xl/workbook.bin' in members:
        raise DataError(f"{name}: Excel's binary format (.xlsb); save it as xlsx or as CSV")
    if '[Content_Types].xml' in members:
        return
    if 'mimetype' in members and _DOCUMENT in archive.read('mimetype'):
        raise DataError(f'{name}: an OpenDocument file (.ods); save it as xlsx or as CSV')
    shown = ', '.join(members[:3]) or 'nothing'
    raise DataError(f'{name}: a zip and no xlsx (it holds {shown}); unpack it and give the table')


def _lines(sheet) -> list[Line]:
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


def _show_formulas(lines: list[Line], sheet) -> None:
    """Puts the formula into each cell whose value the file lacks: nobody has computed it."""
    sheet.reset_dimensions()
    known = dict(lines)
    for number, row in enumerate(sheet.iter_rows(), start=1):
        if number > _MOST_ROWS:
            raise ValueError(f'more than {_MOST_ROWS:,} rows')
        for column, cell in enumerate(row):
            if cell.value is None or getattr(cell, 'data_type', '') != 'f':
                continue
            if number not in known:
                known[number] = []
                lines.append((number, known[number]))
            cells = known[number]
            cells += [''] * (column + 1 - len(cells))
            cells[column] = cells[column] or _formula(cell.value)
    lines.sort()


def _formula(value) -> str:
    text = str(getattr(value, 'text', value) or '')
    return text if text.startswith('=') else f'={text}'


def _fill_merged(lines: list[Line], source: bytes) -> None:
    """Gives the text of cells that are merged down one column to all of them."""
    from openpyxl.utils import column_index_from_string

    rows = dict(lines)
    for left, top, right, bottom in _MERGED.findall(source):
        column = column_index_from_string(left.decode()) - 1
        first = rows.get(int(top), [])
        text = first[column] if column < len(first) else ''
        if not text:
            continue
        if first is lines[0][1]:
            _repeat_name(lines, column, column_index_from_string(right.decode()))
        for number in range(int(top) + 1, min(int(bottom), lines[-1][0]) + 1):
            cells = rows.get(number)
            if cells is None:
                continue
            cells += [''] * (column + 1 - len(cells))
            cells[column] = text


def _repeat_name(lines: list[Line], start: int, end: int) -> None:
    """Gives a name that is merged over columns to all of them that hold anything."""
    header = lines[0][1]
    for column in range(start + 1, min(end, max(len(cells) for _, cells in lines))):
        header += [''] * (column + 1 - len(header))
        if any(cells[column : column + 1] not in ([], ['']) for _, cells in lines[1:]):
            header[column] = header[start]


def _text(cell) -> str:
    if cell is None:
        return ''
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return bare(str(cell))
