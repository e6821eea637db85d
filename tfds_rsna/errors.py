"""The base of all errors that the person at the keyboard can mend."""


class UserError(ValueError):
    """Input or circumstances that the user can mend; the message says how.

    Whoever runs a command may show the message alone. Every other exception is a fault of the
    program.
    """
