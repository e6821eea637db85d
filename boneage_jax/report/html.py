"""HTML whose texts are escaped by construction: only what `tag` and `raw` made goes in as it is."""

import html


class Html(str):
    """Text that is HTML already."""


def raw(text: str) -> Html:
    """`text` taken as HTML: for what this program drew itself."""
    return Html(text)


def escaped(child) -> Html:
    """A child of an element as HTML.

    Html stays as it is, None is nothing, lists are joined, anything else becomes escaped text.
    """
    if isinstance(child, Html):
        return child
    if child is None:
        return Html('')
    if isinstance(child, list | tuple):
        return Html(''.join(map(escaped, child)))
    return Html(html.escape(str(child)))


def tag(name: str, *children, **attributes) -> Html:
    """An element; `class_='x'` gives class="x", an attribute that is None or False is left out."""
    opening = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        opening += f' {key.rstrip("_").replace("_", "-")}'
        if value is not True:
            opening += f'="{html.escape(str(value))}"'
    if name in ('img', 'br'):
        return Html(f'<{opening}>')
    return Html(f'<{opening}>{escaped(children)}</{name}>')


def table(header: list, rows: list, *, label: str, numbers=(), class_: str | None = None) -> Html:
    """A table in a box of its own that scrolls sideways on a phone, by the keyboard too.

    The first cell of a row is its heading.

    Args:
        header: the cells of the first line.
        rows: the cells of the others.
        label: what a screen reader calls it.
        numbers: the columns that are set right-aligned.
        class_: of the table.
    """
    body = [_line(row, numbers, is_header=False) for row in rows]
    head = tag('thead', _line(header, numbers, is_header=True))
    inner = tag('table', head, tag('tbody', body), class_=class_, aria_label=label)
    return tag('div', inner, class_='scroll', role='region', tabindex='0', aria_label=label)


def _line(cells, numbers, is_header):
    line = []
    for i, cell in enumerate(cells):
        class_ = 'number' if i in numbers else None
        if is_header:
            line.append(tag('th', cell, scope='col', class_=class_))
        elif i == 0:
            line.append(tag('th', cell, scope='row', class_=class_))
        else:
            line.append(tag('td', cell, class_=class_))
    return tag('tr', line)
