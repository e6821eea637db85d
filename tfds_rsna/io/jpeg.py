"""What the markers of a JPEG tell before anything is unpacked: its kind, its bits, its end."""

_SCAN = b'\xff\xda'
_END = b'\xff\xd9'
_ZEROS = 64  # bytes at the end of a file: more is room that was never filled
_JPEG_LS = 0xF7
_LOSSLESS = 0xC3
_ARITHMETIC = (0xC9, 0xCA, 0xCB)


def frame_at(data: bytes) -> int:
    """Where the frame's header begins in a JPEG or JPEG-LS stream; 0 for others."""
    if data[:2] != b'\xff\xd8':
        return 0
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), _JPEG_LS):
            return at
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return 0


def kind(data: bytes) -> str:
    """What a file that begins as a JPEG is: one of the ordinary kind, or of another."""
    at = frame_at(data)
    marker = data[at + 1] if at else 0
    if marker == _JPEG_LS:
        return 'a JPEG-LS'
    if marker == _LOSSLESS:
        return 'a lossless JPEG'
    if marker in _ARITHMETIC:
        return 'a JPEG of arithmetic coding'
    bits = data[at + 4] if at else 8
    return 'a JPEG' if bits == 8 else f'a JPEG of {bits} bits'


def has_end(data: bytes) -> bool:
    """Whether a JPEG file's end follows its last scan."""
    return data.rfind(_END) > data.rfind(_SCAN)


def ends_in_zeros(data: bytes) -> bool:
    """Whether a file ends in zeros that a copy of it, broken off, has not overwritten."""
    return len(data) - len(data.rstrip(b'\0')) > _ZEROS
