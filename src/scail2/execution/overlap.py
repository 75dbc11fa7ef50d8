"""Several items at once in threads, handed on in their order; those that cannot be made are named, not tried for ever."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from scail2.errors import InputError, is_out_of_memory
from scail2.execution.stages import StageBoard, stage_of
from scail2.execution.tasks import Watch

T = TypeVar("T")
# An error may be an accident; at the second the item is discarded.
ATTEMPTS = 2
# What fails time after time is not the items' fault.
IN_A_ROW = 10


@dataclass(frozen=True, slots=True)
class Made(Generic[T]):
    """An item, and what was made of it; `reason`, a sentence, where nothing could be."""

    key: str
    result: T | None
    reason: str | None = None


def overlapped(
    keys: Sequence[str],
    make: Callable[[int, str], T],
    watch: Watch,
    board: StageBoard,
    *,
    in_flight: int = 1,
) -> Iterator[Made[T]]:
    """Makes items at the stages of a board and hands them on in their order.

    No more than `in_flight` are begun and not yet taken, so that neither queues nor memory grow when a stage is slow. Errors
    that are none of the user's are tried once more; then the item is discarded, with the stage and the error in its reason.

    Args:
        make: called with an item's place and key, in a thread of its own where `in_flight` is more than 1.
        watch: told of each item; those that it says to leave out are not made.

    Raises:
        InputError, OSError: whatever `make` raises of these kinds: it is about all items; or ten in a row could not be made.
    """
    run = _Run(make, watch, board)
    if in_flight <= 1 or watch.one_at_a_time or len(keys) <= 1:
        for place, key in enumerate(keys):
            yield run.checked(run.item(place, key))
        return
    waiting: deque[Future[Made[T]]] = deque()
    with ThreadPoolExecutor(in_flight, thread_name_prefix="item") as threads:
        try:
            for place, key in enumerate(keys):
                if len(waiting) == in_flight:
                    yield run.checked(waiting.popleft().result())
                waiting.append(threads.submit(run.item, place, key))
            while waiting:
                yield run.checked(waiting.popleft().result())
        finally:
            for each in waiting:
                each.cancel()


class _Run(Generic[T]):
    def __init__(self, make: Callable[[int, str], T], watch: Watch, board: StageBoard) -> None:
        self._make, self._watch, self._board = make, watch, board
        self._in_a_row = 0

    def item(self, place: int, key: str) -> Made[T]:
        reason = self._watch.begin(key)
        try:
            return Made(key, None, reason) if reason is not None else self._tried(place, key)
        finally:
            self._watch.end(key)

    def _tried(self, place: int, key: str) -> Made[T]:
        for attempt in range(ATTEMPTS):
            try:
                return Made(key, self._make(place, key))
            except (InputError, OSError):
                raise  # what is wrong with settings, endpoint or disk is wrong for all items
            except Exception as error:
                if attempt + 1 == ATTEMPTS:
                    return Made(key, None, _sentence(error))
        raise AssertionError("unreachable")

    def checked(self, made: Made[T]) -> Made[T]:
        """What is handed on, counted where it was discarded by an error.

        Raises:
            InputError: too many in a row.
        """
        self._in_a_row = 0 if made.reason is None else self._in_a_row + 1
        if self._in_a_row >= IN_A_ROW:
            raise InputError(f"{IN_A_ROW} items in a row could not be made, the last of them {made.key}: {made.reason}")
        return made


def _sentence(error: Exception) -> str:
    said = (
        "there is not enough memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}".split("\n")[0]
    )
    stage = stage_of(error)
    return f"{stage}: {said}" if stage else said
