"""What all figures share: colours, type sizes, and how one is written."""

import io
import re

import matplotlib

SEXES = {'girls': {'color': '#E69F00', 'marker': 'o'}, 'boys': {'color': '#0072B2', 'marker': '^'}}
RANKS = ('#F0E442', '#56B4E9', '#D55E00')  # boxes, best first
SERIES = (
    '#0072B2',
    '#D55E00',
    '#009E73',
    '#CC79A7',
    '#56B4E9',
    '#E69F00',
    '#000000',
    '#A6761D',
)  # runs in one chart
GREY, INK, ACCENT = '#BBBBBB', '#222222', '#D55E00'
STYLE = {
    'figure.constrained_layout.use': True,
    'figure.dpi': 200,
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.labelsize': 9,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': INK,
    'axes.labelcolor': INK,
    'text.color': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.axisbelow': True,
}


def save(draw, path, *arguments):
    """Draws in this style and writes through a temporary name: `path` is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp')
    with matplotlib.rc_context(STYLE):
        try:
            draw(*arguments).savefig(temporary, format=path.suffix[1:] or 'png')
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def svg(draw, *arguments):
    """The figure as the text of an SVG, the same for the same data: for a page that holds its
    pictures itself.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE | {'svg.hashsalt': 'boneage_jax'}):
        draw(*arguments).savefig(
            file, format='svg', dpi=130, metadata={'Date': None, 'Creator': None}
        )
    return re.sub(r'^.*?(?=<svg)', '', file.getvalue(), flags=re.DOTALL)
