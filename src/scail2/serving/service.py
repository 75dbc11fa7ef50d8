"""What one service is made of, and what it does with runs; the routes only translate."""

import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from scail2.files.ownership import lock_beside, locked
from scail2.files.staging import sweep
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.serving.dispatch import Dispatcher
from scail2.serving.queue import BEFORE, Action, Job, JobQueue, RunRow
from scail2.serving.settings import ServiceSettings
from scail2.serving.submissions import RunPlace, to_request
from scail2.serving.tokens import Doorkeeper
from scail2.serving.uploads import Uploads
from scail2.serving.views import RunView
from scail2.serving.workers import ProcessWorker, Worker


class Service:
    """Queue, uploads, workers. Use as a context manager: it holds the folder, so that two services never share one."""

    def __init__(self, settings: ServiceSettings, make_worker: Callable[[str | None], Worker] | None = None) -> None:
        self.settings = settings
        self.doorkeeper = Doorkeeper(settings)
        settings.hidden.mkdir(parents=True, exist_ok=True)
        self.queue = JobQueue(settings.hidden / "queue.sqlite")
        self.uploads = Uploads(settings.hidden / "uploads", self.queue, settings.limits)
        make = make_worker or (_ray_worker if settings.ray else ProcessWorker)
        self.dispatcher = Dispatcher(settings, self.queue, self.uploads, [make(device) for device in settings.devices])
        self._held: Any = None

    def __enter__(self) -> "Service":
        self._held = locked(self.settings.hidden, lock_beside(self.settings.hidden))
        self._held.__enter__()
        self._sweep()
        self.dispatcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.dispatcher.stop()
        self.queue.close()
        self._held.__exit__(None, None, None)

    # ---- runs -----------------------------------------------------------------------------------------------------------

    def submit(
        self, owner: str, settings: Mapping[str, Any], action: Action, priority: int, idempotency: str | None
    ) -> tuple[RunRow, bool]:
        """A new run, checked and queued; whether it is new (False: the same submission came before)."""
        row = RunRow(id=secrets.token_hex(8), owner=owner, created=time.time(), settings=dict(settings))
        RunDirectory.check(self._place(row.id).run, self._request(row))
        limit = self.settings.limits.active_runs
        row, new = self.queue.submit(row, (action, priority), idempotency=idempotency, active_limit=limit)
        self.dispatcher.notify()
        return row, new

    def add(self, owner: str, run: str, action: Action, arguments: Mapping[str, Any], priority: int) -> Job:
        """One more job for a run."""
        row = self.queue.run(run, owner)
        job = self.queue.add(row, action, arguments, priority, active_limit=self.settings.limits.active_runs)
        self.dispatcher.notify()
        return job

    def change(self, owner: str, run: str, changes: Mapping[str, Any], action: Action, priority: int) -> Job:
        """Other settings for a run, planned or rendered anew where they matter; ``None`` takes a setting back."""
        row = self.queue.run(run, owner)
        merged = {name: value for name, value in {**row.settings, **changes}.items() if value is not None}
        changed = replace(row, settings=merged)
        request = self._request(changed)
        if not self.is_active(run):  # else the queue says so
            RunDirectory.check(self._place(run).run, request)
        before = {BEFORE: dict(row.settings)}
        job = self.queue.add(changed, action, before, priority, active_limit=self.settings.limits.active_runs)
        self.dispatcher.notify()
        return job

    def delete(self, owner: str, run: str) -> None:
        """Forgets a run and removes its folder; its uploads stay, for other runs."""
        row = self.queue.run(run, owner)
        self.queue.delete(row.id)
        self._remove(row.id)

    def view(self, owner: str, run: str) -> RunView:
        """A run as it lies on the disk."""
        row = self.queue.run(run, owner)
        return RunView(row=row, place=self._place(row.id), root=self.settings.runs)

    def summary(self, owner: str, run: str) -> dict[str, Any]:
        """State of a run for clients."""
        view = self.view(owner, run)
        return view.summary(self.queue.last_job(run), self.dispatcher.progress(run))

    def manifest(self, owner: str, run: str) -> dict[str, Any]:
        """What a run's film is; its settings are those it was made with, while others wait to be taken."""
        view, job = self.view(owner, run), self.queue.last_job(run)
        if job is not None and self.is_active(run) and not self.dispatcher.is_accepted(job):
            return view.manifest(job.arguments[BEFORE])
        return view.manifest(view.row.settings)

    def is_active(self, run: str) -> bool:
        """Whether a run's job waits or runs."""
        job = self.queue.last_job(run)
        return job is not None and job.state in ("queued", "running")

    def _place(self, run: str) -> RunPlace:
        return RunPlace(folder=self.settings.runs / run)

    def _request(self, row: RunRow) -> AnimationRequest:
        find = partial(self.uploads.find, row.owner)
        return to_request(row.settings, self._place(row.id), self.settings, find)

    def _remove(self, run: str) -> None:
        shutil.rmtree(self._place(run).folder, ignore_errors=True)

    def _sweep(self) -> None:
        """What a crash left of deleted runs, uploads, masks and archives goes."""
        for folder in (self.settings.hidden, self.settings.hidden / "uploads"):
            sweep(folder)
        for run in self.queue.deleted():
            self._remove(run)


def _ray_worker(device: str | None) -> Worker:
    from scail2.serving.ray_workers import RayWorker

    return RayWorker(device)
