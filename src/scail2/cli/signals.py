"""A request to stop (Ctrl-C, TERM, HUP) becomes one exception, so that everything is kept and written down on the way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT  # as shells report it
_STOPPING = (signal.SIGTERM, signal.SIGHUP)


@dataclass
class Stop:
    """Which signal asked to stop; Ctrl-C until another comes."""

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for TERM, 129 for HUP."""
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[Stop]:
    """TERM and HUP raise `KeyboardInterrupt` in the block, as Ctrl-C does; one that is ignored (``nohup``) stays ignored."""
    stop, previous = Stop(), {}

    def interrupt(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        stop.number = number
        raise KeyboardInterrupt(signal.Signals(number).name)

    with suppress(ValueError):  # only the main thread may set handlers
        for number in _STOPPING:
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
