"""The one exception type for a user's mistake."""


class InputError(ValueError):
    """Bad input from the user: one clear sentence saying what is wrong, where, and what to do.

    The command line prints the sentence and exits with code 2; Python callers catch it as a ``ValueError``.
    """
