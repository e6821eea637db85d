"""Figures with their intervals as text, and intervals side by side as small drawings."""

from __future__ import annotations

import dataclasses

from boneage_jax.report.html import Html, raw, tag


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a figure of metrics.json is shown.

    Attributes:
        key: its name there.
        title: its name on the page.
        factor: what it is multiplied with.
        digits: decimal places.
        sign: whether its sign is always written.
        unit: what follows it.
    """

    key: str
    title: str
    factor: float = 1.0
    digits: int = 2
    sign: bool = False
    unit: str = ''

    def number(self, value: float) -> str:
        sign = '+' if self.sign else ''
        return f'{self.factor * value:{sign}.{self.digits}f}{self.unit}'

    def texts(self, overall: dict) -> tuple[str, str] | None:
        """('11.50', '(10.89 to 12.07)') of a group of metrics.json, None where it lacks this."""
        found = overall.get(self.key)
        if not found:
            return None
        interval = f'({self.number(found["lower"])} to {self.number(found["upper"])})'
        return self.number(found['value']), interval

    def cell(self, overall: dict):
        """The same as a table's cell, a dash where there is none."""
        texts = self.texts(overall)
        if texts is None:
            return '–'
        return [texts[0], ' ', tag('span', texts[1], class_='range')]


class Limits(Measure):
    """Both limits of agreement in one; their intervals are in metrics.json and in the plot."""

    def texts(self, overall):
        lower = overall.get('agreement_lower')
        upper = overall.get('agreement_upper')
        if not lower or not upper:
            return None
        return f'{self.number(lower["value"])} to {self.number(upper["value"])}', ''


def _percent(key, title, digits=1):
    return Measure(key, title, 100, digits, unit='%')


AGES = (
    Measure('mae', 'MAE (months)'),
    Measure('bias', 'bias (months)', sign=True),
    Limits('agreement', '95% limits of agreement', digits=1, sign=True),
    _percent('within_12_months', 'within 12 months'),
    _percent('within_24_months', 'within 24 months'),
)
_POINTS = (
    Measure('error_percent', "error (% of the hand's length)"),
    Measure('error_pixels', 'error (pixels of 2080x1600)', digits=1),
    Measure('degrees', 'turned by (degrees)', digits=1),
    _percent('beyond_5_percent', 'images beyond 5%'),
)
# By kind of run (`tasks.Task.kind`); the first is the one that is drawn.
MEASURES = {
    'age': AGES,
    'age_classes': (
        _percent('accuracy', 'accuracy'),
        _percent('balanced_accuracy', 'balanced accuracy'),
        _percent('off_by_one_accuracy', 'at most one class off'),
        Measure('macro_f1', 'macro F1', digits=3),
        Measure('mae', 'MAE (months)'),
        Measure('bias', 'bias (months)', sign=True),
    ),
    'segmentation': (
        Measure('iou', 'IoU', digits=4),
        Measure('dice', 'Dice', digits=4),
        _percent('iou_below_0.9', 'images below IoU 0.9'),
    ),
    'keypoints': _POINTS,
    'similarity': _POINTS,
}
# A table at a glance for each: the title, and the kinds in it.
TITLES = {
    'Ages': ('age',),
    'Age classes': ('age_classes',),
    'Hand masks': ('segmentation',),
    'Key points and alignment': ('keypoints', 'similarity'),
}


def card(title: str, value: str, below: str) -> Html:
    """A figure in a box of its own."""
    return tag('div', tag('span', title), tag('b', value), tag('span', below), class_='card')


def forest(rows: list[tuple], *, width: int = 190, height: int = 22) -> tuple[Html, list[Html]]:
    """Intervals as small drawings on one axis: a dot with its interval ours, a diamond the paper's.

    Args:
        rows: `(value, lower, upper, paper)`; None where there is nothing.
        width: pixels of a drawing.
        height: likewise.

    Returns:
        A scale for the table's header, and a drawing for each row.
    """
    known = [x for row in rows for x in row if x is not None]
    if not known:
        return Html(''), [Html('')] * len(rows)
    axis = _Axis.around(min(known), max(known), width, height)
    return _scale(axis), [_interval(axis, *row) for row in rows]


@dataclasses.dataclass(frozen=True)
class _Axis:
    """From values to pixels: `low` and `high` with room for `pad` on both sides."""

    low: float
    high: float
    pad: float
    width: int
    height: int

    @classmethod
    def around(cls, low, high, width, height):
        pad = 0.06 * (high - low) or 1.0
        return cls(low - pad, high + pad, pad, width, height)

    def place(self, x):
        return 4 + (self.width - 8) * (x - self.low) / (self.high - self.low)

    def drawing(self, inner, what):
        return raw(
            f'<svg width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{what}">{inner}</svg>'
        )


def _scale(axis):
    """Three values, at both ends and in the middle, each with its tick."""
    inner = ''
    for i, anchor in enumerate(('start', 'middle', 'end')):
        value = axis.low + axis.pad + (axis.high - axis.low - 2 * axis.pad) * i / 2
        x = f'{axis.place(value):.1f}'
        inner += (
            f'<text x="{x}" y="14" font-size="11" fill="#5b6873" text-anchor="{anchor}">'
            f'{value:.3g}</text><line x1="{x}" x2="{x}" y1="17" y2="22" stroke="#5b6873"/>'
        )
    return axis.drawing(inner, 'scale')


def _interval(axis, value, lower, upper, paper):
    middle = axis.height / 2
    inner = f'<line x1="0" x2="{axis.width}" y1="{middle}" y2="{middle}" stroke="#edf1f4"/>'
    if value is not None:
        inner += (
            f'<line x1="{axis.place(lower):.1f}" x2="{axis.place(upper):.1f}" y1="{middle}" '
            f'y2="{middle}" stroke="#0072b2" stroke-width="2.5"/>'
            f'<circle cx="{axis.place(value):.1f}" cy="{middle}" r="4.2" fill="#0072b2"/>'
        )
    if paper is not None:
        x = axis.place(paper)
        inner += (
            f'<path d="M{x - 5:.1f} {middle}L{x:.1f} {middle - 5}L{x + 5:.1f} {middle}'
            f'L{x:.1f} {middle + 5}Z" fill="#fff" stroke="#d55e00" stroke-width="1.6"/>'
        )
    return axis.drawing(inner, f'{value} ({lower} to {upper}), paper {paper}')
