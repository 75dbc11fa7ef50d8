"""Workers as Ray actors, one GPU each, on any machine of a cluster that sees the runs' folder under the same path."""

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scail2.errors import InputError
from scail2.serving.work import JobRunner, Order, Outcome, StoppedError
from scail2.serving.workers import WorkerDiedError

# How often an actor is asked for its events, in seconds.
_LOOK = 0.3


class JobActor:
    """What runs inside the actor: a job in one thread, questions about it in others."""

    def __init__(self) -> None:
        self._runner = JobRunner()
        self._events: list[dict[str, Any]] = []
        self._cancelled: set[int] = set()
        self._lock = threading.Lock()

    def do(self, order: dict[str, Any]) -> dict[str, Any]:
        """Does an order; its outcome."""
        given = Order(**order)

        def listen(event: dict[str, Any]) -> None:
            if given.job in self._cancelled:
                raise StoppedError
            with self._lock:
                self._events.append(event)

        return asdict(self._runner.run(given, listen))

    def drain(self) -> list[dict[str, Any]]:
        """Events since the last question."""
        with self._lock:
            taken, self._events = self._events, []
        return taken

    def cancel(self, job: int) -> None:
        """Stops a job at its next step."""
        self._cancelled.add(job)


class RayWorker:
    """One actor of `JobActor`; Ray places it, and starts it anew when it died.

    It has a GPU, unless its device is ``cpu``, or none is named and the cluster has no GPU.
    """

    def __init__(self, device: str | None) -> None:
        self._ray = connect()
        none = device == "cpu" or (device is None and not self._ray.cluster_resources().get("GPU"))
        options = {"num_gpus": 0 if none else 1, "num_cpus": 1, "max_restarts": -1, "max_concurrency": 3}
        self._actor = self._ray.remote(JobActor).options(**options).remote()

    def do(self, order: Order, listener: Callable[[dict[str, Any]], None]) -> Outcome:
        ray = self._ray
        try:
            waiting = self._actor.do.remote(asdict(order))
            done: list[Any] = []
            while not done:
                done, _ = ray.wait([waiting], timeout=_LOOK)
                for event in ray.get(self._actor.drain.remote()):
                    listener(event)
            return Outcome(**ray.get(waiting))
        except ray.exceptions.RayError as error:
            raise WorkerDiedError(f"the Ray actor ended: {type(error).__name__}") from error

    def cancel(self, job: int) -> None:
        self._actor.cancel.remote(job)

    def close(self) -> None:
        self._ray.kill(self._actor)


def connect() -> Any:
    """Ray, connected to the cluster of ``RAY_ADDRESS`` or to one of this machine.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs the package ray: install it with `pip install 'scail2[ray]'`.") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray
