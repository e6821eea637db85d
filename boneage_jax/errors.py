"""The errors that a person at the keyboard can mend, by what went wrong."""

from tfds_rsna.errors import UserError

__all__ = [
    'CheckpointError',
    'ConfigError',
    'DivergedError',
    'LeakageError',
    'SplitError',
    'UnreadableError',
    'UserError',
]


class ConfigError(UserError):
    """A configuration that cannot be run; the message says which key, what was found and what to
    do.
    """


class CheckpointError(UserError):
    """A checkpoint that could not be written or does not fit; the message says what to do."""


class DivergedError(UserError):
    """The loss is not finite any more; the message names the step, its images and the last good
    checkpoint.
    """


class LeakageError(UserError):
    """Images of one split are in another one; the message names them."""


class SplitError(UserError):
    """The source has too few images for the splits that the config asks for."""


class UnreadableError(UserError):
    """Some images could not be read; the others were predicted and written."""
