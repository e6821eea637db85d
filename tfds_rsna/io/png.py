"""What Pillow leaves open in a PNG: damage beside the pixels, 16-bit colour, a transparent grey."""

import zlib

import numpy as np
from PIL import Image

MAGIC = b'\x89PNG\r\n\x1a\n'
_CHUNKS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')  # what the pixels need
_DEEP_COLOURS = (2, 4, 6)
_GROUND = 0.2  # the least share of an image's edge that its ground has


def has_whole_chunks(data: bytes) -> bool:
    """Whether the checksums of all chunks of a PNG are right, up to its end."""
    at = len(MAGIC)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], 'big')
        checksum = int.from_bytes(data[end - 4 : end], 'big')
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != checksum:
            return False
        if data[at + 4 : at + 8] == b'IEND':
            return True
        at = end
    return False


def without_extras(data: bytes) -> bytes | None:
    """A PNG without the chunks that the pixels do not need; None for other files."""
    if not data.startswith(MAGIC):
        return None
    kept = [MAGIC]
    at = len(MAGIC)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], 'big')
        if data[at + 4 : at + 8] in _CHUNKS:
            kept.append(data[at:end])
        at = end
    bare = b''.join(kept)
    return bare if len(bare) < len(data) else None


def is_deep_colour(data: bytes) -> bool:
    """Whether a file is a PNG of 16 bits a colour, or of grey and alpha."""
    return data[:4] == MAGIC[:4] and data[24] == 16 and data[25] in _DEEP_COLOURS


def clear_ground(image: Image.Image, data: bytes) -> tuple[np.ndarray | None, list[str]]:
    """(bool [H, W], flags): where a grey PNG has the one grey that it calls transparent.

    Radiographs come with white as this grey, saturated bones and all. So it counts only where it is
    a ground, along the image's edge; else the flag says that it was passed over.
    """
    grey = image.info.get('transparency')
    is_grey = image.mode in ('1', 'L') or image.mode.startswith('I')
    if not (data.startswith(MAGIC) and is_grey and isinstance(grey, int)):
        return None, []
    bits = data[24]
    if 1 < bits < 8:  # Pillow has widened the pixels, and not this number
        grey = grey * 255 // (2**bits - 1)
    values = np.asarray(image)
    clear = values == (grey > 0 if values.dtype == bool else grey)
    if not grey or not clear.any():
        return None, []
    edge = np.concatenate([clear[0], clear[-1], clear[:, 0], clear[:, -1]])
    rest = values[~clear]
    if edge.mean() >= _GROUND and rest.size and rest.min() != rest.max():
        return clear, []
    return None, ['transparency_ignored']
