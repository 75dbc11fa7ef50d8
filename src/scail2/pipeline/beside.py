"""Work in a second thread beside the first: one piece at a time, waited for, and its errors raised where it was ordered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """A context in which one piece of work at a time is done beside the caller's own.

    Leaving it waits for the last piece, also when the block failed or was interrupted: what is being written is written
    whole. An error of that piece is raised then, with the block's own as its context.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: Future[T] | None = None

    def do(self, work: Callable[[], T]) -> None:
        """Begins a piece of work when the one before is done; raises what that one raised."""
        self.wait()
        self._pending = self._pool.submit(work)

    def wait(self) -> T | None:
        """The result of the piece under way, when it is done; None where there is none. Raises what it raised."""
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def check(self) -> None:
        """Raises what the piece under way has raised, if it has ended so; waits for nothing."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()
