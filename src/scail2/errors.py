"""The one exception type for a user's mistake."""

import reprlib
from typing import Any


class InputError(ValueError):
    """Bad input from the user: one clear sentence saying what is wrong, where, and what to do.

    The command line prints the sentence and exits with code 2; Python callers catch it as a ``ValueError``.
    """


NO_MEMORY = "There is not enough memory for this; take a smaller size, fewer frames or a smaller model."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether main memory or a GPU's ran out; torch's own error is known by its name, so that torch need not be imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


# Whatever is counted, seeded or measured fits 64 bits; Python's own conversions fail or crawl far above.
MAX_INTEGER = 2**64


def short(value: Any) -> str:
    """A value for an error message: one line, abbreviated, and safe for integers of any length."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER:
        return "an integer of more than 64 bits"
    return _SHORT.repr(value)


class _ShortRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlist = self.maxtuple = self.maxdict = 4
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        return "an integer of more than 64 bits" if abs(x) > MAX_INTEGER else repr(x)


_SHORT = _ShortRepr()
