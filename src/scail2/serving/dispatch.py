"""Takes jobs from the queue and has them done: one thread for each worker."""

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from scail2.errors import InputError
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.serving.queue import BEFORE, Action, Job, JobQueue, JobState
from scail2.serving.settings import ServiceSettings
from scail2.serving.submissions import RunPlace, to_request
from scail2.serving.uploads import Uploads
from scail2.serving.work import Order, Outcome
from scail2.serving.workers import Worker, WorkerDiedError, device_of_order

logger = logging.getLogger(__name__)

# Without a word from the queue, look again after this many seconds.
_LOOK = 1.0


class Dispatcher:
    """The workers of one service, and what they are doing.

    Args:
        workers: one for each of ``settings.devices``.
    """

    def __init__(self, settings: ServiceSettings, queue: JobQueue, uploads: Uploads, workers: Sequence[Worker]) -> None:
        self._settings, self._queue, self._uploads = settings, queue, uploads
        self._workers = list(workers)
        self._at_work: dict[int, Worker] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._something = threading.Condition()
        self._stopping = False
        self.rendered_segments = 0
        self.deaths = 0
        self._threads = [
            threading.Thread(target=self._serve, args=(worker, device), name=f"worker-{number}", daemon=True)
            for number, (worker, device) in enumerate(zip(self._workers, settings.devices, strict=True))
        ]

    def start(self) -> None:
        """Queues again what the last server left running, and begins."""
        recovered = self._queue.recover()
        if recovered:
            logger.info("%d jobs of the last server go on", sum(job.state is JobState.QUEUED for job in recovered))
        for job in recovered:
            if job.state is JobState.CANCELLED:
                self._withdraw(job)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the workers at their next step; what they were doing waits in the queue for the next start."""
        with self._something:
            self._stopping = True
            self._something.notify_all()
        closing = [threading.Thread(target=worker.close) for worker in self._workers]
        for each in closing:
            each.start()
        for each in (*closing, *self._threads):
            each.join(15)

    def notify(self) -> None:
        """Says that a job was queued."""
        with self._something:
            self._something.notify()

    def cancel(self, run: str) -> Job:
        """Cancels a run's job: a waiting one at once, a running one at its next step."""
        job = self._queue.cancel(run)
        with self._lock:
            worker = self._at_work.get(job.id)
        if worker is not None:
            worker.cancel(job.id)
        else:
            self._withdraw(job)
        return job

    def progress(self, run: str) -> dict[str, Any]:
        """The latest passing events of a run that is being worked on: step, mask frames, frames written."""
        with self._lock:
            return dict(self._progress.get(run, {}))

    @property
    def busy(self) -> int:
        """Workers that are at work."""
        with self._lock:
            return len(self._at_work)

    def _serve(self, worker: Worker, device: str | None) -> None:
        while not self._stopping:
            job = self._queue.claim()
            if job is None:
                with self._something:
                    if not self._stopping:
                        self._something.wait(_LOOK)
                continue
            try:
                self._do(worker, device, job)
            except Exception:
                # A fault of the program in one job must not silence the worker for all the others.
                logger.exception("job %d of run %s", job.id, job.run)
                self._queue.end(job.id, JobState.FAILED, "The service made a mistake; its log says which.")

    def _do(self, worker: Worker, device: str | None, job: Job) -> None:
        with self._lock:
            self._at_work[job.id] = worker
        try:
            outcome = worker.do(self._order(job, device), lambda event: self._note(job.run, event))
        except InputError as error:
            outcome = Outcome(state="failed", message=str(error))
        except WorkerDiedError as error:
            self.deaths += not self._stopping
            logger.warning("job %d of run %s: %s", job.id, job.run, error)
            self._put_back(job, counted=not self._stopping)
            return
        finally:
            with self._lock:
                del self._at_work[job.id]
                self._progress.pop(job.run, None)
        self._end(job, outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        if outcome.state == "busy":
            # An orphan of the last server is still at its last step.
            with self._something:
                self._something.wait(_LOOK)
            self._put_back(job, counted=False)
        elif outcome.state == "stopped":
            if self._stopping:
                self._put_back(job, counted=False)
            else:
                self._withdraw(job)
                self._queue.end(job.id, JobState.CANCELLED)
        else:
            if outcome.state == JobState.FAILED and not self.is_accepted(job):
                self._queue.take_back(job)
            self._queue.end(job.id, JobState(outcome.state), outcome.message)

    def _put_back(self, job: Job, *, counted: bool) -> None:
        """Queues a job again; one that ends instead, because that was asked, is withdrawn."""
        left = self._queue.put_back(job.id, accepted=self.is_accepted(job), counted=counted)
        if left is not None and left.state is JobState.CANCELLED:
            self._withdraw(left)

    def _withdraw(self, job: Job) -> None:
        """What was to be and is not is not made up for: no later job renders a segment again, or changes settings, unasked."""
        if job.action is Action.RERENDER:
            with suppress(InputError):
                RunDirectory.open(RunPlace(folder=self._settings.runs / job.run).run).withdraw_rerender()
        if not self.is_accepted(job):
            self._queue.take_back(job)

    def is_accepted(self, job: Job) -> bool:
        """Whether the run has the settings that a job brings (True where it brings none); one that waits, or was refused, has
        left them as they were."""
        if BEFORE not in job.arguments:
            return True
        try:
            place, wanted = self._asked(job)
            return RunDirectory.open(place.run).request.with_changes(device=None) == wanted.with_changes(device=None)
        except InputError:
            return False

    def _order(self, job: Job, device: str | None) -> Order:
        """The job in plain values. Where it was cancelled between the queue and here, the worker is told."""
        place, request = self._asked(job)
        place.folder.mkdir(parents=True, exist_ok=True)
        latest = self._queue.last_job(job.run)
        if latest is not None and latest.cancel:
            self._at_work[job.id].cancel(job.id)
        return Order(
            job=job.id,
            action=job.action,
            run=str(place.run),
            request=request.to_json(),
            arguments=dict(job.arguments),
            since=datetime.fromtimestamp(job.created, UTC).isoformat(timespec="milliseconds"),
            device=device_of_order(device),
        )

    def _asked(self, job: Job) -> tuple[RunPlace, AnimationRequest]:
        """Where a job's run lies, and what it is to be as its settings are now."""
        place = RunPlace(folder=self._settings.runs / job.run)
        settings = self._queue.run(job.run, job.owner).settings
        return place, to_request(settings, place, self._settings, partial(self._uploads.find, job.owner))

    def _note(self, run: str, event: dict[str, Any]) -> None:
        name = event.get("event")
        if name == "segment_finished":
            self.rendered_segments += 1
        if name in PASSING:
            with self._lock:
                self._progress[run] = event


# Events that the journal does not keep (`scail2.runs.journal.TRANSIENT`).
PASSING = frozenset({"step", "masks_progress", "output_progress"})
