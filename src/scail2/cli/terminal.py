"""The one way to the terminal: whatever names, files or models put into a message is shown, never obeyed.

Control characters (escape sequences, carriage returns, marks that turn the direction of text) appear as ``\\x1b`` and the
like. Rich's markup is off: a file named ``[bold]`` is called so. Streams that cannot be written to are told apart from
disks that are full.
"""

import json
import logging
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Beside all of the categories Cc, Cs, Zl and Zp: marks that reorder what is read, and characters that are not seen.
_RANGES = (0x200B, 0x200C), (0x200E, 0x2010), (0x202A, 0x202F), (0x2060, 0x2070), (0xFFF9, 0xFFFC), (0xE0000, 0xE0080)
_INVISIBLE = frozenset([0x00AD, 0x061C, 0xFEFF, *(code for first, stop in _RANGES for code in range(first, stop))])


class StreamError(Exception):
    """Standard output or error cannot be written to; `cause` is the operating system's error."""

    def __init__(self, name: str, cause: OSError) -> None:
        super().__init__(f"the {name} cannot be written to")
        self.name, self.cause = name, cause


def visible(text: str, *, lines: bool = False) -> str:
    """The text with control characters written out; line ends stay where ``lines`` is true."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character, lines) for character in text)


def _shown(character: str, lines: bool) -> str:
    code = ord(character)
    if lines and character == "\n":
        return character
    if unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and code not in _INVISIBLE:
        return character
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    return known or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


class Terminal(Console):
    """Rich's console with markup, emoji codes and highlighting off, and control characters of the content shown."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's own; the segments' text, not their control codes, is made visible."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=visible(segment.text, lines=True))

    def say(self, text: str) -> None:
        """One line, whatever is in it."""
        self.print(visible(text), soft_wrap=True)


def say(text: str, *, stderr: bool = False) -> None:
    """One line on standard output or error."""
    Terminal(stderr=stderr).say(text)


def write_json(value: Any) -> None:
    """A value as indented JSON on standard output; JSON writes control characters out by itself."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


class VisibleFormatter(logging.Formatter):
    """Log messages with control characters shown; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), lines=record.exc_info is not None)


def show_log(level: int, pattern: str = "%(message)s") -> None:
    """Log messages from ``level`` on go to standard error, with control characters shown."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter(pattern, datefmt="%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler])


class GuardedStream:
    """A standard stream whose failures are `StreamError`, so that nobody takes them for those of a disk."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's own."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise StreamError(self._name, error) from error

    def flush(self) -> None:
        """As the stream's own."""
        try:
            self._stream.flush()
        except OSError as error:
            raise StreamError(self._name, error) from error
