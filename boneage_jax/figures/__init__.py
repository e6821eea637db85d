"""The figures of the papers, drawn from what a run wrote, and sheets of images.

Every figure is its own object (no pyplot, so nothing global is left behind) and is written whole or
not at all. Girls are orange circles, boys blue triangles: apart in colour (Okabe and Ito's
colour-blind-safe palette), in brightness when printed grey, and in shape.
"""

from boneage_jax.figures.attention import attention, draw_attention
from boneage_jax.figures.boxes import anchors, parts
from boneage_jax.figures.embedding import tsne
from boneage_jax.figures.extraction import extraction
from boneage_jax.figures.hands import contact_sheet, hand, hands
from boneage_jax.figures.overlays import overlay
from boneage_jax.figures.runs import components, counts, from_run, near_edges
from boneage_jax.figures.sheet import image_sheet

__all__ = [
    'anchors',
    'attention',
    'components',
    'contact_sheet',
    'counts',
    'draw_attention',
    'extraction',
    'from_run',
    'hand',
    'hands',
    'image_sheet',
    'near_edges',
    'overlay',
    'parts',
    'tsne',
]
