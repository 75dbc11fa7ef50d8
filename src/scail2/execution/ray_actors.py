"""The same work on a Ray cluster: a pool of actors that are restarted, and whose pieces are tried again."""

import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from scail2.errors import InputError
from scail2.execution.feed import DEATHS, Deaths, Feed
from scail2.execution.processes import portable
from scail2.execution.tasks import Begun, Care, Ended, Listen, Lost, Message, Settled, Tasks, Watch, claim_and_perform

LOCAL = "local"
_LOOK = 0.5


class Board:
    """An actor of its own beside the workers: keeps what they say until the command asks."""

    def __init__(self) -> None:
        self._said: list[Message] = []

    def say(self, message: Message) -> None:
        """From a worker."""
        self._said.append(message)

    def take(self) -> list[Message]:
        """For the command: what was said since."""
        said, self._said = self._said, []
        return said


class Worker:
    """An actor that makes pieces; what it is made from comes again when it is restarted."""

    def __init__(
        self, board: Any, start: Callable[[], None] | None, pickled: bytes, place: tuple[str, list[str]]
    ) -> None:
        folder, path = place  # names of files and modules mean here what they mean where the command runs
        with suppress(OSError):
            os.chdir(folder)
        sys.path += [each for each in path if each not in sys.path]
        self._board, self._start, self._pickled = board, start, pickled
        self._tasks: Tasks | None = None

    def make(self, number: int, care: Care) -> Settled | BaseException:
        """One piece; an error is handed back, since Ray would raise it as one of its own."""
        watch = Watch(number, self._say, care, f"actor {os.uname().nodename} {os.getpid()}")
        try:
            return Settled(number, claim_and_perform(self._prepared(), number, watch))
        except Exception as error:
            return portable(error)

    def _say(self, message: Message) -> None:
        """Waits until it is heard: what a process said in its last moment would be lost, and another item blamed."""
        import ray

        ray.get(self._board.say.remote(message))

    def _prepared(self) -> Tasks:
        if self._tasks is None:
            if self._start is not None:
                self._start()
            self._tasks = pickle.loads(self._pickled)
            self._tasks.prepare()
        return self._tasks


def run_in_ray(
    tasks: Tasks,
    feed: Feed,
    listen: Listen,
    *,
    address: str,
    size: int,
    start: Callable[[], None] | None,
    gpus: float,
) -> None:
    """Works a feed off with so many actors of a cluster.

    Raises:
        InputError: Ray is not installed or there is no cluster; see also `Deaths.note`; and whatever a piece raises.
    """
    ray = _connected(address, size)
    try:
        board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote()
        # Restarted without end, each piece tried anew by Ray itself until it has ended as many processes as it may.
        hired = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=DEATHS - 1)(Worker)
        given = (board, start, pickle.dumps(tasks), (os.getcwd(), sys.path))
        actors = [hired.remote(*given) for _ in range(size)]
        _Pool(ray, board, actors, feed, listen).run()
    finally:
        ray.shutdown()


def _connected(address: str, size: int) -> Any:
    if find_spec("ray") is None:
        raise InputError("Ray is not installed: install it with `pip install 'scail2[ray]'`, or leave --ray out.")
    import ray

    own = {"num_cpus": size, "include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(**own, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"There is no Ray cluster at {address} ({error}): start one, or use --ray {LOCAL}.") from error
    return ray


class _Pool:
    def __init__(self, ray: Any, board: Any, actors: list[Any], feed: Feed, listen: Listen) -> None:
        self._ray, self._board, self._feed, self._listen, self._deaths = ray, board, feed, listen, Deaths()
        self._idle = list(actors)
        self._running: dict[Any, tuple[Any, int]] = {}
        self._items: dict[int, set[str]] = {}

    def run(self) -> None:
        while not self._feed.is_over():
            while self._idle and (number := self._feed.take()) is not None:
                actor = self._idle.pop()
                self._items[number] = set()
                self._running[actor.make.remote(number, self._deaths.care(number))] = (actor, number)
            done, _ = self._ray.wait(list(self._running), timeout=_LOOK) if self._running else ([], [])
            self._hear()
            for reference in done:
                self._settle(reference, *self._running.pop(reference))
        self._hear()

    def _hear(self) -> None:
        for message in self._ray.get(self._board.take.remote()):
            if isinstance(message, Begun):
                self._items[message.number].add(message.item)
            elif isinstance(message, Ended):
                self._items[message.number].discard(message.item)
            self._listen(message)

    def _settle(self, reference: Any, actor: Any, number: int) -> None:
        self._idle.append(actor)
        try:
            end = self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            for _ in range(DEATHS):  # as often as Ray has tried
                self._deaths.note(number, self._items[number], "in Ray, often for want of memory")
            self._feed.put_back(number)
            self._listen(Lost(number))
            return
        if isinstance(end, BaseException):
            raise end
        self._feed.settle(number, end.outcome)
        self._listen(end)
