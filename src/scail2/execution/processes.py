"""Worker processes on this machine: one that dies is replaced, and its piece is made again."""

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from scail2.execution.feed import Deaths, Feed
from scail2.execution.tasks import (
    Begun,
    Ended,
    Listen,
    Lost,
    Message,
    Settled,
    Tasks,
    Watch,
    claim_and_perform,
)

_LOOK = 0.1  # seconds between looks for pieces that others hold


# ---- in the worker --------------------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """A killed command has no chance to end its workers: they would fill the folder beside its successor, or wait for ever."""
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)


def work(connection: Connection, start: Callable[[], None] | None, pickled: bytes) -> None:
    """A worker's life: pieces come by number over the connection, what becomes of them goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its workers
    Thread(target=end_with_parent, daemon=True).start()
    if start is not None:
        start()
    try:
        tasks: Tasks = pickle.loads(pickled)  # not sooner: it imports what the work is made of
        tasks.prepare()
        while (order := connection.recv()) is not None:
            number, care = order
            watch = Watch(number, connection.send, care, f"process {os.getpid()}")
            connection.send(Settled(number, claim_and_perform(tasks, number, watch)))
    except (EOFError, BrokenPipeError):  # the command is gone
        return
    except BaseException as error:
        connection.send(portable(error))


def portable(error: BaseException) -> BaseException:
    """An error as it can be sent to another process, with the trace of where it was raised."""
    with suppress(Exception):
        error.add_note(f"In a worker: {traceback.format_exc()}")
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return RuntimeError("".join(traceback.format_exception(error)))


# ---- in the command -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    number: int | None = None
    items: set[str] = field(default_factory=set)


class Workers:
    """Processes that work a feed off (context manager); leaving it ends them."""

    def __init__(self, tasks: Tasks, feed: Feed, listen: Listen, start: Callable[[], None] | None) -> None:
        self._pickled, self._start = pickle.dumps(tasks), start
        self._feed, self._listen, self._deaths = feed, listen, Deaths()
        self._workers: list[_Worker] = []
        self._context = get_context("spawn")  # forking a process that has used torch's threads can hang

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self._workers:
            if kind is None:
                with suppress(OSError):
                    worker.connection.send(None)
            else:
                worker.process.kill()  # what it was making is swept with the folder
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def run(self, size: int) -> None:
        """Works the feed off with so many processes.

        Raises:
            InputError: see `Deaths.note`; and whatever a piece raises.
        """
        for _ in range(size):
            self._hire()
        while not self._feed.is_over():
            for worker in self._workers:
                self._employ(worker)
            self._look()

    def _hire(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=work, args=(there, self._start, self._pickled))
        process.start()
        there.close()
        self._workers.append(_Worker(process, here))

    def _employ(self, worker: _Worker) -> None:
        if worker.number is not None or (number := self._feed.take()) is None:
            return
        worker.number = number
        with suppress(OSError):  # dead: the next look finds it
            worker.connection.send((number, self._deaths.care(number)))

    def _look(self) -> None:
        ready = wait([each for worker in self._workers for each in (worker.connection, worker.process.sentinel)], _LOOK)
        for worker in list(self._workers):
            if worker.connection in ready:
                self._hear(worker)
            if worker.process.sentinel in ready:
                self._bury(worker)

    def _hear(self, worker: _Worker) -> None:
        with suppress(EOFError, OSError):
            while worker.connection.poll():
                self._take_in(worker, worker.connection.recv())

    def _take_in(self, worker: _Worker, message: Message | BaseException) -> None:
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, Begun):
            worker.items.add(message.item)
        elif isinstance(message, Ended):
            worker.items.discard(message.item)
        elif isinstance(message, Settled):
            worker.number = None
            worker.items.clear()
            self._feed.settle(message.number, message.outcome)
        self._listen(message)

    def _bury(self, worker: _Worker) -> None:
        self._hear(worker)  # what it said last
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        self._deaths.note(worker.number, worker.items, _how(worker.process.exitcode))
        if worker.number is not None:
            self._feed.put_back(worker.number)
            self._listen(Lost(worker.number))
        self._hire()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        name: Any = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name}, often for want of memory" if code == -signal.SIGKILL else str(name)
    return f"exit code {code}"
