"""One job, done: the same for a process of this machine and for an actor elsewhere."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scail2.errors import NO_MEMORY, InputError, is_out_of_memory
from scail2.files.disk_errors import as_system_error, sentence
from scail2.files.ownership import is_locked
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.runs.journal import RunEvent

Listener = Callable[[dict[str, Any]], None]


class StoppedError(KeyboardInterrupt):
    """Raised by the listener in the middle of a job: it was cancelled, or the server is gone.

    A kind of Ctrl-C: nobody on the way takes it for a failure of the work, and the run notes that it was interrupted.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A job as it is handed to a worker: everything in plain values.

    ``request`` is `AnimationRequest.to_json`; ``run`` the run directory; ``since`` when the job was queued (ISO 8601).
    """

    job: int
    action: str
    run: str
    request: Mapping[str, Any]
    arguments: Mapping[str, Any]
    since: str
    device: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a job ended: ``finished``, ``failed`` with a sentence, ``stopped``, or ``busy`` where another process has the run."""

    state: str
    message: str | None = None


class JobRunner:
    """Does jobs one after the other, keeping the model between those that use the same."""

    def __init__(self) -> None:
        # Only a worker needs torch: the server, which shares this module, answers without it.
        from scail2.runs.model import PipelineCache

        self._pipelines: PipelineCache = PipelineCache()

    def run(self, order: Order, listener: Listener) -> Outcome:
        """Does one job; every event of the run goes to ``listener``, which may raise `StoppedError`."""

        def told(event: RunEvent) -> None:
            listener(event.to_json())

        path = Path(order.run)
        if path.exists() and is_locked(path):
            return Outcome(state="busy")
        try:
            self._do(order, path, told)
        except StoppedError:
            return Outcome(state="stopped")
        except InputError as error:
            return Outcome(state="failed", message=str(error))
        except Exception as error:
            if is_out_of_memory(error):
                return Outcome(state="failed", message=NO_MEMORY)
            found = as_system_error(error)
            if found is None:
                raise
            return Outcome(state="failed", message=sentence(found))
        return Outcome(state="finished")

    def _do(self, order: Order, path: Path, told: Callable[[RunEvent], None]) -> None:
        request = AnimationRequest.from_json(dict(order.request))
        if order.device is not None:
            request = request.with_changes(device=order.device)
        if order.action == "rerender":
            self._rerender(RunDirectory.open(path), order, told)
        elif order.action == "plan":
            RunDirectory.create(path, request, renders=False).plan(pipe=self._pipelines, events=told)
        else:
            RunDirectory.create(path, request).execute(self._pipelines, events=told)

    def _rerender(self, run: RunDirectory, order: Order, told: Callable[[RunEvent], None]) -> None:
        """Renders a segment again once, however often worker or server are killed: what was ordered before is only finished."""
        if _was_ordered(run, order.since):
            run.resume(self._pipelines, events=told)
            return
        given = order.arguments
        run.rerender(
            int(given["segment"]),
            cascade=bool(given.get("cascade", False)),
            seed=given.get("seed"),
            pipe=self._pipelines,
            events=told,
        )


def _was_ordered(run: RunDirectory, since: str) -> bool:
    entries = itertools.dropwhile(lambda entry: str(entry.get("time", "")) < since, run.journal().entries())
    return any(entry.get("event") == "rerender_ordered" for entry in entries)
