"""What all figures share: colours, type sizes, and how one is written."""

import io
import re

import matplotlib
import numpy as np

from boneage_jax.runtime import files

SEXES = {'girls': {'color': '#E69F00', 'marker': 'o'}, 'boys': {'color': '#0072B2', 'marker': '^'}}
RANKS = ('#F0E442', '#56B4E9', '#D55E00')  # boxes, best first
SERIES = (  # runs in one chart
    '#0072B2',
    '#D55E00',
    '#009E73',
    '#CC79A7',
    '#56B4E9',
    '#E69F00',
    '#000000',
    '#A6761D',
)
BLUE = SEXES['boys']['color']  # of what has no sex, too
GREY = '#BBBBBB'
INK = '#222222'
ACCENT = '#D55E00'
GRID = '#E5E5E5'
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
    """Writes the figure that `draw(*arguments)` returns, whole or not at all; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE), files.replacing(path) as temporary:
        draw(*arguments).savefig(temporary, format=path.suffix[1:] or 'png')
    return path


def svg(draw, *arguments) -> str:
    """The figure as the text of an SVG, the same for the same data, to be held by a page."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE | {'svg.hashsalt': 'boneage_jax'}):
        figure = draw(*arguments)
        figure.savefig(file, format='svg', dpi=130, metadata={'Date': None, 'Creator': None})
    return re.sub(r'^.*?(?=<svg)', '', file.getvalue(), flags=re.DOTALL)


def by_sex(male: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name, [N] bool) for each sex that has images: 'girls', then 'boys'."""
    sexes = (('girls', ~male), ('boys', male))
    return [(name, chosen) for name, chosen in sexes if chosen.any()]


def white(pixels: np.ndarray) -> int:
    """The value of white in an image: 255 of uint8, 1 of floats."""
    return 255 if pixels.dtype == np.uint8 else 1


def tight(figure):
    """Leaves hardly any room between the axes of a sheet of images."""
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)


def bare(axes):
    """Takes ticks and frame off axes that show an image."""
    axes.set(xticks=[], yticks=[])
    axes.set_frame_on(False)
