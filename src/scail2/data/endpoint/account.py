"""What an endpoint was asked for so far, against what it may be asked for; and how fast."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from scail2.data.endpoint.failures import BudgetSpentError
from scail2.data.endpoint.settings import EndpointSettings
from scail2.files.ownership import lock_beside, locked
from scail2.files.storage import is_present, read_json, write_json

# Whoever adds to a shared file holds it for some milliseconds; a minute of waiting, every 20 ms, is enough for hundreds.
_ATTEMPTS = 3000
# Waiting requests are fewer than this: a turn that lies further ahead was taken before a clock was set back.
_LONGEST_QUEUE = 1000


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Sums over requests. `estimated_tokens` are those of answers that came without a count."""

    requests: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    estimated_tokens: int = 0
    cost: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.answer_tokens

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Book:
    """What an account holds; `next_request` is the turn of the next one, in seconds of the clock."""

    spent: Spent = field(default_factory=Spent)
    next_request: float = 0.0


class Account:
    """Sums that several threads add to; with a file several processes, which then share one budget and one pace.

    Args:
        spent: what an earlier process spent, for a budget that holds over both.
        file: JSON that is made when something is spent, and goes on with what it holds.
    """

    def __init__(self, spent: Spent | None = None, file: Path | None = None) -> None:
        self._lock = Lock()
        self._book = _Book(spent=spent or Spent())
        self._file = file

    @property
    def spent(self) -> Spent:
        """The sums so far."""
        with self._lock:
            return self._read().spent

    def admit(self, settings: EndpointSettings) -> None:
        """Counts one request that is about to go out, or raises `BudgetSpentError` when a ceiling is reached."""
        with self._alone():
            book, budget = self._read(), settings.budget
            for what, used, ceiling in (
                ("requests", book.spent.requests, budget.requests),
                ("tokens", book.spent.tokens, budget.tokens),
                ("cost", book.spent.cost, budget.cost),
            ):
                if ceiling is not None and used >= ceiling:
                    raise BudgetSpentError(
                        f"The budget for {settings.address} is spent: {what} {used:g} of {ceiling:g}, after "
                        f"{book.spent.answers} answers; raise budget.{what} to go on."
                    )
            self._write(_added(book, requests=1))

    def add_retry(self) -> None:
        """A request goes out once more."""
        self._add(requests=1)

    def add_status(self, status: int) -> None:
        """One was answered, with this HTTP status."""
        with self._alone():
            book = self._read()
            statuses = book.spent.statuses | {str(status): book.spent.statuses.get(str(status), 0) + 1}
            self._write(replace(book, spent=replace(book.spent, statuses=dict(sorted(statuses.items())))))

    def add_answer(self, prompt_tokens: int, answer_tokens: int, *, cost: float, estimated: bool) -> None:
        """A completion came back, whether it can be used or not."""
        tokens = prompt_tokens + answer_tokens
        self._add(
            answers=1,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            estimated_tokens=tokens if estimated else 0,
            cost=cost,
        )

    def turn(self, now: float, gap: float) -> float:
        """When the next request may go: at once, or ``gap`` seconds after the one before it."""
        with self._alone():
            book = self._read()
            turn = max(now, book.next_request)
            if turn > now + _LONGEST_QUEUE * gap:
                turn = now
            self._write(replace(book, next_request=turn + gap))
        return turn

    def _add(self, **amounts: float) -> None:
        with self._alone():
            self._write(_added(self._read(), **amounts))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._file is None:
                yield
            else:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with locked(self._file, lock_beside(self._file), attempts=_ATTEMPTS):
                    yield

    def _read(self) -> _Book:
        if self._file is not None and is_present(self._file):
            self._book = read_json(self._file, _Book)
        return self._book

    def _write(self, book: _Book) -> None:
        self._book = book
        if self._file is not None:
            write_json(self._file, asdict(book))


def _added(book: _Book, **amounts: float) -> _Book:
    sums = {name: getattr(book.spent, name) + amount for name, amount in amounts.items()}
    return replace(book, spent=replace(book.spent, **sums))


class Pace:
    """Lets requests pass evenly spaced, whichever thread they come from, and whichever process where the account is shared."""

    def __init__(
        self,
        per_minute: float | None,
        account: Account | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._account = account or Account()
        self._clock, self._sleep = clock, sleep

    def wait(self) -> None:
        """Returns when the next request may go."""
        if not self._gap:
            return
        now = self._clock()
        turn = self._account.turn(now, self._gap)
        if turn > now:
            self._sleep(turn - now)
