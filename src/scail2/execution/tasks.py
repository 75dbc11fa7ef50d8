"""What is worked on: numbered pieces, each of which leaves one file, made by whoever holds the file's lock."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from scail2.files.ownership import InUseError, lock_beside, locked


class Tasks(Protocol):
    """Numbered pieces of work; picklable, each a pure function of its number, so that it does not matter who does it."""

    def prepare(self) -> None:
        """Called once in every process that works, before its first piece."""

    def place(self, number: int) -> Path:
        """The file that a piece leaves; it appears whole or not at all."""

    def is_done(self, number: int) -> bool:
        """Whether that file is there and complete."""

    def perform(self, number: int, watch: "Watch") -> None:
        """Makes the file; tells `watch` of its items."""


class Outcome(StrEnum):
    """What became of a piece that was handed out."""

    MADE = "made"
    THERE = "there"  # somebody else had made it meanwhile
    HELD = "held"  # somebody else is making it


@dataclass(frozen=True, slots=True)
class Begun:
    """An item of a piece is begun: should the process die, this is what it died of."""

    number: int
    item: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An item is done or left out: so many steps of progress."""

    number: int
    item: str
    count: int


@dataclass(frozen=True, slots=True)
class Reported:
    """What a process has to say about itself since it began (figures of its stages), replacing what it said before."""

    worker: str
    content: Any


@dataclass(frozen=True, slots=True)
class Settled:
    """A piece came to its end."""

    number: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lost:
    """The process that worked on a piece died; what it had done of it does not count."""

    number: int


Message = Begun | Ended | Reported | Settled | Lost
Listen = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class Care:
    """What was learnt from the deaths at a piece: items to leave out, by reason; whether to make its items one at a time."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    one_at_a_time: bool = False


class Watch:
    """Given to a piece while it is made: takes progress, and says which items killed the processes that tried them.

    Items may be begun and ended by several threads.
    """

    def __init__(self, number: int, send: Listen, care: Care | None = None, worker: str = "here") -> None:
        self._number, self._send, self._care, self._worker = number, send, care or Care(), worker
        self._lock = Lock()

    @property
    def one_at_a_time(self) -> bool:
        """Whether a process died at this piece before: begin no item before the last has ended, so that it can be found."""
        return self._care.one_at_a_time

    def begin(self, item: str) -> str | None:
        """Called before an item; the reason why it is to be left out, None where it is to be made."""
        reason = self._care.left_out.get(item)
        if reason is None:
            self._tell(Begun(self._number, item))
        return reason

    def end(self, item: str, count: int = 1) -> None:
        """Called after an item, whatever became of it; `count` for the progress."""
        self._tell(Ended(self._number, item, count))

    def report(self, content: Any) -> None:
        """Replaces what this process said about itself; picklable."""
        self._tell(Reported(self._worker, content))

    def _tell(self, message: Message) -> None:
        with self._lock:
            self._send(message)


def claim_and_perform(tasks: Tasks, number: int, watch: Watch) -> Outcome:
    """Makes a piece unless it is there or somebody else is making it; the lock of its file ends with the process."""
    place = tasks.place(number)
    with ExitStack() as held:
        try:
            held.enter_context(locked(place, lock_beside(place)))
        except InUseError:
            return Outcome.HELD
        if tasks.is_done(number):
            return Outcome.THERE
        tasks.perform(number, watch)
        return Outcome.MADE
