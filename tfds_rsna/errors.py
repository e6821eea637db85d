"""The base of all errors that the user can mend, and how a full disk is recognized."""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Libraries in C++ (array_record, Orbax's) pass on words without the system's number.
_FULL_IN_WORDS = ('No space left', 'RESOURCE_EXHAUSTED', 'Disk quota', 'File too large')


class UserError(ValueError):
    """Input or circumstances that the user can mend; the message says how.

    Whoever runs a command may show the message alone. Every other exception is a fault of the
    program.
    """


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, means that the disk (or the quota) is full."""
    while error is not None:
        if getattr(error, 'errno', None) in _FULL:
            return True
        if any(words in str(error) for words in _FULL_IN_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
