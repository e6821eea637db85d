"""Figures with their intervals as text, and intervals side by side as small drawings."""

import dataclasses

from boneage_jax.report.html import raw, tag


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a figure of metrics.json is shown: its `key`, `title`, factor, digits, whether its sign
    is always written.
    """

    key: str
    title: str
    factor: float = 1.0
    digits: int = 2
    sign: bool = False
    unit: str = ''

    def number(self, value):
        return f'{self.factor * value:{"+" if self.sign else ""}.{self.digits}f}{self.unit}'

    def texts(self, overall):
        """('11.50', '(10.89 to 12.07)') of a group of metrics.json, None where it lacks this
        figure.
        """
        found = overall.get(self.key)
        return found and (
            self.number(found['value']),
            f'({self.number(found["lower"])} to {self.number(found["upper"])})',
        )

    def cell(self, overall):
        """The same as a table's cell, a dash where there is none."""
        texts = self.texts(overall)
        return [texts[0], ' ', tag('span', texts[1], class_='range')] if texts else '–'


class Limits(Measure):
    """The limits of agreement, both in one; their own intervals are in metrics.json and in the
    plot.
    """

    def texts(self, overall):
        both = [overall.get(f'agreement_{end}') for end in ('lower', 'upper')]
        return (' to '.join(self.number(end['value']) for end in both), '') if all(both) else None


def _percent(key, title, digits=1):
    return Measure(key, title, 100, digits, unit='%')


AGES = (
    Measure('mae', 'MAE (months)'),
    Measure('bias', 'bias (months)', sign=True),
    Limits('agreement', '95% limits of agreement', digits=1, sign=True),
    _percent('within_12_months', 'within 12 months'),
    _percent('within_24_months', 'within 24 months'),
)
# By kind of run; the first is the one that is drawn.
MEASURES = {
    'ages': AGES,
    'classes': (
        _percent('accuracy', 'accuracy'),
        _percent('balanced_accuracy', 'balanced accuracy'),
        _percent('off_by_one_accuracy', 'at most one class off'),
        Measure('macro_f1', 'macro F1', digits=3),
        Measure('mae', 'MAE (months)'),
        Measure('bias', 'bias (months)', sign=True),
    ),
    'masks': (
        Measure('iou', 'IoU', digits=4),
        Measure('dice', 'Dice', digits=4),
        _percent('iou_below_0.9', 'images below IoU 0.9'),
    ),
    'points': (
        Measure('error_percent', "error (% of the hand's length)"),
        Measure('error_pixels', 'error (pixels of 2080x1600)', digits=1),
        Measure('degrees', 'turned by (degrees)', digits=1),
        _percent('beyond_5_percent', 'images beyond 5%'),
    ),
}
TITLES = {
    'ages': 'Ages',
    'classes': 'Age classes',
    'masks': 'Hand masks',
    'points': 'Key points and alignment',
}


def forest(rows, *, width=190, height=22):
    """(a scale for the header, a drawing for each row) of `(value, lower, upper, paper)`; None
    where there is nothing.

    All share one axis. A dot with its interval is ours, an open diamond the paper's.
    """
    known = [x for row in rows for x in row if x is not None]
    if not known:
        return '', [''] * len(rows)
    low, high = min(known), max(known)
    pad = 0.06 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def place(x):
        return 4 + (width - 8) * (x - low) / (high - low)

    def drawing(inner, what):
        return raw(
            f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{what}">{inner}</svg>'
        )

    ticks = [low + pad + (high - low - 2 * pad) * i / 2 for i in range(3)]
    anchors = ('start', 'middle', 'end')
    scale = drawing(
        ''.join(
            f'<text x="{place(x):.1f}" y="14" font-size="11" fill="#5b6873" text-anchor="{anchor}">{x:.3g}</text>'
            f'<line x1="{place(x):.1f}" x2="{place(x):.1f}" y1="17" y2="22" stroke="#5b6873"/>'
            for x, anchor in zip(ticks, anchors)
        ),
        'scale',
    )
    middle, drawn = height / 2, []
    for value, lower, upper, paper in rows:
        inner = f'<line x1="0" x2="{width}" y1="{middle}" y2="{middle}" stroke="#edf1f4"/>'
        if value is not None:
            inner += (
                f'<line x1="{place(lower):.1f}" x2="{place(upper):.1f}" y1="{middle}" y2="{middle}" stroke="#0072b2" '
                f'stroke-width="2.5"/><circle cx="{place(value):.1f}" cy="{middle}" r="4.2" fill="#0072b2"/>'
            )
        if paper is not None:
            x = place(paper)
            inner += (
                f'<path d="M{x - 5:.1f} {middle}L{x:.1f} {middle - 5}L{x + 5:.1f} {middle}L{x:.1f} {middle + 5}Z" '
                'fill="#fff" stroke="#d55e00" stroke-width="1.6"/>'
            )
        drawn.append(drawing(inner, f'{value} ({lower} to {upper}), paper {paper}'))
    return scale, drawn
