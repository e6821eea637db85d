"""HTML whose texts are escaped by construction: only what `tag` and `raw` made goes in as it is."""

import html


class Html(str):
    """Text that is HTML already."""


def raw(text):
    """`text` taken as HTML: for what this program drew itself."""
    return Html(text)


def escaped(child):
    """A child of an element: Html as it is, None as nothing, lists joined, anything else as escaped
    text.
    """
    if isinstance(child, Html):
        return child
    if child is None:
        return Html('')
    if isinstance(child, list | tuple):
        return Html(''.join(escaped(one) for one in child))
    return Html(html.escape(str(child)))


def tag(name, *children, **attributes):
    """An element; `class_='x'` gives class="x", an attribute that is None or False is left out."""
    written = ''.join(
        f' {key.rstrip("_").replace("_", "-")}'
        + ('' if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(
        f'<{name}{written}>'
        if name in ('img', 'br')
        else f'<{name}{written}>{escaped(children)}</{name}>'
    )


def table(header, rows, *, numbers=(), class_=None):
    """A table in a box of its own that scrolls sideways on a phone; `numbers`: columns that are set
    right-aligned.
    """

    def line(kind, cells):
        return tag(
            'tr',
            [
                tag(kind, cell, class_='number' if i in numbers else None)
                for i, cell in enumerate(cells)
            ],
        )

    return tag(
        'div',
        tag(
            'table',
            tag('thead', line('th', header)),
            tag('tbody', [line('td', row) for row in rows]),
            class_=class_,
        ),
        class_='scroll',
    )
