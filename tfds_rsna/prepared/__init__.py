"""What `prepare` writes and training reads: fixed-size uint8 images as raw arrays."""

from tfds_rsna.prepared.reader import PreparedError, PreparedRecords, open, read_metadata
from tfds_rsna.prepared.writer import MARKER, write

__all__ = ['MARKER', 'PreparedError', 'PreparedRecords', 'open', 'read_metadata', 'write']
