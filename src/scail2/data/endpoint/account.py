"""What an endpoint was asked for so far, against what it may be asked for; and how fast."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any

from scail2.data.endpoint.failures import BudgetSpentError
from scail2.data.endpoint.settings import EndpointSettings


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


class Account:
    """Sums that several threads add to.

    Args:
        spent: what an earlier process spent, for a budget that holds over both.
    """

    def __init__(self, spent: Spent | None = None) -> None:
        self._lock = Lock()
        self._sums = Counter[str]()
        self._statuses = Counter[str]()
        if spent is not None:
            told = spent.to_json()
            self._statuses.update(told.pop("statuses"))
            self._sums.update(told)

    @property
    def spent(self) -> Spent:
        """The sums so far."""
        with self._lock:
            return Spent(**self._sums, statuses=dict(sorted(self._statuses.items())))

    def add_request(self) -> None:
        """One request goes out, retries included."""
        with self._lock:
            self._sums["requests"] += 1

    def add_status(self, status: int) -> None:
        """One was answered, with this HTTP status."""
        with self._lock:
            self._statuses[str(status)] += 1

    def add_answer(self, prompt_tokens: int, answer_tokens: int, *, cost: float, estimated: bool) -> None:
        """A completion came back, whether it can be used or not."""
        with self._lock:
            self._sums.update(answers=1, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
            self._sums["estimated_tokens"] += prompt_tokens + answer_tokens if estimated else 0
            self._sums["cost"] += cost  # type: ignore[assignment]

    def check(self, settings: EndpointSettings) -> None:
        """Raises `BudgetSpentError` when a ceiling is reached."""
        spent, budget = self.spent, settings.budget
        for what, used, ceiling in (
            ("requests", spent.requests, budget.requests),
            ("tokens", spent.tokens, budget.tokens),
            ("cost", spent.cost, budget.cost),
        ):
            if ceiling is not None and used >= ceiling:
                raise BudgetSpentError(
                    f"The budget for {settings.address} is spent: {what} {used:g} of {ceiling:g}, after {spent.answers} "
                    f"answers; raise budget.{what} to go on."
                )


class Pace:
    """Lets requests pass evenly spaced, whichever thread they come from."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Returns when the next request may go."""
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._sleep(turn - now)
