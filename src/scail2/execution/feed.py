"""What is handed out next, and how often a piece may kill the process that makes it."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from scail2.errors import InputError
from scail2.execution.tasks import Care, Outcome

# A killed command's workers end within moments; what is held for longer is being made by somebody who lives.
PATIENCE = 3.0
_PAUSE = 0.1
# One death may come from outside, two by chance; an item at which three processes died is the reason.
DEATHS = 3


class Feed:
    """Hands out numbers; those that others hold come again when nothing else is left, for some seconds."""

    def __init__(
        self, numbers: Iterable[int], patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._waiting, self._held, self._out = deque(numbers), deque[tuple[float, int]](), set[int]()
        self._patience, self._clock, self._last = patience, clock, clock()
        self.made: list[int] = []

    def take(self) -> int | None:
        """A number to be made now; None where there is none at the moment."""
        if self._waiting:
            number = self._waiting.popleft()
        elif self._held and self._held[0][0] <= self._clock() and not self.is_over():
            number = self._held.popleft()[1]
        else:
            return None
        self._out.add(number)
        return number

    def settle(self, number: int, outcome: Outcome) -> None:
        """What became of a number that was taken."""
        self._out.discard(number)
        if outcome is Outcome.HELD:
            self._held.append((self._clock() + _PAUSE, number))
            return
        self._last = self._clock()
        if outcome is Outcome.MADE:
            self.made.append(number)

    def put_back(self, number: int) -> None:
        """Whoever made it died: it comes next."""
        self._out.discard(number)
        self._waiting.appendleft(number)
        self._last = self._clock()

    def is_over(self) -> bool:
        """Whether all are done, or others have held the rest for longer than is waited."""
        if self._out or self._waiting:
            return False
        return not self._held or self._clock() - self._last > self._patience

    def held(self) -> list[int]:
        """What somebody else is making."""
        return sorted(number for _, number in self._held)


@dataclass(slots=True)
class Deaths:
    """Processes that died at work, by what they worked on."""

    _pieces: Counter[int] = field(default_factory=Counter)
    _items: Counter[tuple[int, str]] = field(default_factory=Counter)
    _left_out: dict[int, dict[str, str]] = field(default_factory=dict)
    _idle: int = 0

    def care(self, number: int) -> Care:
        """How a piece is made after what happened."""
        return Care(self._left_out.get(number, {}), self._pieces[number] > 0)

    def note(self, number: int | None, items: Collection[str], how: str) -> None:
        """A process died while it worked on these items of a piece; None: before it had one.

        Raises:
            InputError: processes die before they do anything, or always at the same piece, whatever is left out of it.
        """
        if number is None:
            self._idle += 1
            if self._idle >= DEATHS:
                raise InputError(f"Worker processes end before they work ({how}): take fewer of them.")
            return
        self._idle = 0
        self._pieces[number] += 1
        for item in items:
            self._items[number, item] += 1
            if len(items) == 1 and self._items[number, item] >= DEATHS:
                self._left_out.setdefault(number, {})[item] = f"its process ended {DEATHS} times ({how})"
        if not items and self._pieces[number] >= DEATHS:
            raise InputError(f"Piece {number} has ended {DEATHS} worker processes ({how}): take fewer of them.")
