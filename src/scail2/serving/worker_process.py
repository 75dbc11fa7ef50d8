"""A worker: `python -m scail2.serving.worker_process` does the jobs that come on its standard input.

Lines in: ``{"order": …}``, ``{"cancel": JOB}``. Lines out: ``{"event": …}`` and ``{"outcome": …}``. When the input ends the
server is gone, and the worker stops at the next step; what it finished is in the run.
"""

import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from typing import Any

from scail2.serving.work import JobRunner, Order, Outcome, StoppedError

# The page must answer while a film is rendered.
_NICE = 5


class _Inbox:
    """What the server says, read by a thread of its own so that a cancellation arrives in the middle of a job."""

    def __init__(self, stream: Any) -> None:
        self.orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self.closed = threading.Event()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            said = json.loads(line)
            if "cancel" in said:
                self.cancelled.add(int(said["cancel"]))
            else:
                self.orders.put(Order(**said["order"]))
        self.closed.set()
        self.orders.put(None)


def main() -> None:
    """Works until the input ends."""
    os.nice(_NICE)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no message
    inbox, runner = _Inbox(sys.stdin), JobRunner()
    while (order := inbox.orders.get()) is not None:
        outcome = _do(runner, order, inbox, out)
        if inbox.closed.is_set():
            return
        _say(out, "outcome", asdict(outcome))


def _do(runner: JobRunner, order: Order, inbox: _Inbox, out: Any) -> Outcome:
    def listen(event: dict[str, Any]) -> None:
        if inbox.closed.is_set() or order.job in inbox.cancelled:
            raise StoppedError
        _say(out, "event", event)

    return runner.run(order, listen)


def _say(out: Any, kind: str, value: dict[str, Any]) -> None:
    try:
        out.write(json.dumps({kind: value}) + "\n")
    except BrokenPipeError:
        raise StoppedError from None


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
