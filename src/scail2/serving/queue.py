"""The queue: runs and their jobs in one SQLite file, so that no crash loses a job or does one twice.

Only the server's process writes it. A job that was running when its server or worker died is queued again; what it
had finished is on disk, and doing it again skips that (`RunDirectory`).
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from scail2.serving.refusals import BusyError, MissingError, RefusalError, TooManyError

# Arguments of jobs: a run's settings before a job was to change them; what a submission said, as a digest.
BEFORE, SUBMITTED = "before", "submitted"
# Enough for a machine that is out of memory now and then; a job that ends its worker every time must not do so for ever.
MAX_ATTEMPTS = 5

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, settings TEXT NOT NULL,
    idempotency TEXT, deleted INTEGER NOT NULL DEFAULT 0, UNIQUE (owner, idempotency));
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL REFERENCES runs (id), owner TEXT NOT NULL,
    action TEXT NOT NULL, arguments TEXT NOT NULL, priority INTEGER NOT NULL, state TEXT NOT NULL,
    created REAL NOT NULL, started REAL, ended REAL, attempts INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0, failure TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS one_active ON jobs (run) WHERE state IN ('queued', 'running');
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, owner);
CREATE TABLE IF NOT EXISTS uploads (
    owner TEXT NOT NULL, sha256 TEXT NOT NULL, suffix TEXT NOT NULL, bytes INTEGER NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (owner, sha256));
"""


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Action(StrEnum):
    """What a job does with its run."""

    RENDER = "render"
    PLAN = "plan"
    RERENDER = "rerender"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of work on a run; times are seconds since 1970."""

    id: int
    run: str
    owner: str
    action: Action
    arguments: Mapping[str, Any]
    priority: int
    state: JobState
    created: float
    started: float | None
    ended: float | None
    attempts: int
    cancel: bool
    failure: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """A run as it was submitted."""

    id: str
    owner: str
    created: float
    settings: Mapping[str, Any]


class JobQueue:
    """Runs, jobs and uploads of one service.

    Order: whoever has the fewest running jobs and has waited longest is served next, and of one owner's jobs the highest
    priority, then the oldest: nobody gains by numbers or by priorities at another's cost.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        # A submitted job was promised: it must outlive a power cut, too.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Lets the file go."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # ---- runs -------------------------------------------------------------------------------------------------------

    def submit(
        self, run: RunRow, job: tuple[Action, int], *, idempotency: str | None, active_limit: int
    ) -> tuple[RunRow, bool]:
        """Notes a run and its first job (action, priority); the run, and whether it is new.

        A second submission with the same ``idempotency`` key gives the first one's run; `RefusalError` where it says
        something else, or is to do something else. Raises `TooManyError` when the owner has ``active_limit`` unfinished jobs.
        """
        said = {SUBMITTED: hashlib.sha256(json.dumps(run.settings, sort_keys=True).encode()).hexdigest()}
        with self._transaction() as db:
            if idempotency is not None:
                known = db.execute(
                    "SELECT * FROM runs WHERE owner = ? AND idempotency = ? AND NOT deleted", (run.owner, idempotency)
                ).fetchone()
                if known is not None:
                    self._refuse_other(db, known["id"], job[0], said)
                    return _run(known), False
            self._check_quota(db, run.owner, active_limit)
            db.execute(
                "INSERT INTO runs (id, owner, created, settings, idempotency) VALUES (?, ?, ?, ?, ?)",
                (run.id, run.owner, run.created, json.dumps(run.settings), idempotency),
            )
            self._insert(db, run, job[0], said, job[1])
        return run, True

    @staticmethod
    def _refuse_other(db: sqlite3.Connection, run: str, action: Action, said: Mapping[str, str]) -> None:
        first = db.execute("SELECT action, arguments FROM jobs WHERE run = ? ORDER BY id LIMIT 1", (run,)).fetchone()
        if first["action"] != action:
            raise RefusalError(
                f"This Idempotency-Key came with the action {first['action']} before, as the run {run}: give another one, or "
                f"resume that run."
            )
        if json.loads(first["arguments"]).get(SUBMITTED, said[SUBMITTED]) != said[SUBMITTED]:
            raise RefusalError(
                f"This Idempotency-Key came with other settings before, as the run {run}: give another one."
            )

    def run(self, run: str, owner: str) -> RunRow:
        """An owner's run; `MissingError` for others'."""
        with self._lock:
            row = self._db.execute(
                "SELECT * FROM runs WHERE id = ? AND owner = ? AND NOT deleted", (run, owner)
            ).fetchone()
        if row is None:
            raise MissingError(f"There is no run {run}.")
        return _run(row)

    def runs(self, owner: str, *, limit: int, before: float | None = None) -> list[RunRow]:
        """An owner's runs, newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM runs WHERE owner = ? AND NOT deleted AND created < ? ORDER BY created DESC LIMIT ?",
                (owner, before if before is not None else float("inf"), limit),
            ).fetchall()
        return [_run(row) for row in rows]

    def delete(self, run: str) -> None:
        """Forgets a run, which must have no unfinished job (`BusyError`)."""
        with self._transaction() as db:
            if self._active(db, run) is not None:
                raise BusyError(f"The run {run} is being worked on: cancel it first.")
            db.execute("UPDATE runs SET deleted = 1, idempotency = NULL WHERE id = ?", (run,))

    def deleted(self) -> list[str]:
        """Runs that are forgotten, whose folders may still be there."""
        with self._lock:
            return [row["id"] for row in self._db.execute("SELECT id FROM runs WHERE deleted")]

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def add(
        self, run: RunRow, action: Action, arguments: Mapping[str, Any], priority: int, *, active_limit: int
    ) -> Job:
        """One more job for a run as ``run`` says it is to be; `BusyError` while another is unfinished."""
        with self._transaction() as db:
            if self._active(db, run.id) is not None:
                raise BusyError(f"The run {run.id} is being worked on: wait for it, or cancel it first.")
            self._check_quota(db, run.owner, active_limit)
            db.execute("UPDATE runs SET settings = ? WHERE id = ?", (json.dumps(run.settings), run.id))
            number = self._insert(db, run, action, arguments, priority)
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (number,)).fetchone())

    def take_back(self, job: Job) -> None:
        """Gives a run the settings back that it had before a job that was to change them; a later job's are left alone."""
        with self._transaction() as db:
            self._restore(db, job)

    def last_job(self, run: str) -> Job | None:
        """A run's latest job."""
        with self._lock:
            row = self._db.execute("SELECT * FROM jobs WHERE run = ? ORDER BY id DESC LIMIT 1", (run,)).fetchone()
        return None if row is None else _job(row)

    def claim(self) -> Job | None:
        """Takes the next job, which is running from now on; None when none waits."""
        with self._transaction() as db:
            row = db.execute(
                """SELECT j.* FROM jobs j WHERE j.state = 'queued' ORDER BY
                   (SELECT COUNT(*) FROM jobs r WHERE r.owner = j.owner AND r.state = 'running'),
                   (SELECT COALESCE(MAX(s.started), 0) FROM jobs s WHERE s.owner = j.owner),
                   j.priority DESC, j.id LIMIT 1"""
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1 WHERE id = ?",
                (self._clock(), row["id"]),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def end(self, job: int, state: JobState, failure: str | None = None) -> None:
        """Notes how a job ended."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, failure = ? WHERE id = ? AND state IN ('queued', 'running')",
                (state, self._clock(), failure, job),
            )

    def put_back(self, job: int, *, accepted: bool = True, counted: bool = True) -> Job | None:
        """Queues a running job again, or ends it: cancelled if that was asked, failed after `MAX_ATTEMPTS`.

        Without ``accepted``, one that ends leaves the run the settings before it (`take_back`). ``counted`` is False where the
        job is not to blame (the server is stopping). The job as it is then; None where it did not run.
        """
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ? AND state = 'running'", (job,)).fetchone()
            if row is None:
                return None
            left = self._put_back(db, row, counted=counted)
            if left.state is not JobState.QUEUED and not accepted:
                self._restore(db, left)
            return left

    def recover(self) -> list[Job]:
        """Queues again whatever was running when the last server died, or ends it where that was asked; these jobs."""
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM jobs WHERE state = 'running'").fetchall()
            return [self._put_back(db, row, counted=False) for row in rows]

    def cancel(self, run: str) -> Job:
        """Ends a waiting job at once and asks a running one to stop; `MissingError` when there is none."""
        with self._transaction() as db:
            row = self._active(db, run)
            if row is None:
                raise MissingError(f"The run {run} has no job that waits or runs.")
            if row["state"] == JobState.QUEUED:
                db.execute(
                    "UPDATE jobs SET state = 'cancelled', ended = ?, cancel = 1 WHERE id = ?",
                    (self._clock(), row["id"]),
                )
            else:
                db.execute("UPDATE jobs SET cancel = 1 WHERE id = ?", (row["id"],))
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        with self._lock:
            rows = self._db.execute("SELECT state, COUNT(*) AS number FROM jobs GROUP BY state").fetchall()
        return {str(state): 0 for state in JobState} | {row["state"]: row["number"] for row in rows}

    # ---- uploads ----------------------------------------------------------------------------------------------------

    def add_upload(self, owner: str, sha256: str, suffix: str, size: int, facts: Mapping[str, Any]) -> None:
        """Notes that an owner has brought a file."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, ?)",
                (owner, sha256, suffix, size, json.dumps(facts)),
            )

    def upload(self, owner: str, sha256: str) -> tuple[str, dict[str, Any]] | None:
        """Suffix and facts of a file that an owner has brought."""
        with self._lock:
            row = self._db.execute("SELECT * FROM uploads WHERE owner = ? AND sha256 = ?", (owner, sha256)).fetchone()
        return None if row is None else (row["suffix"], {"bytes": row["bytes"], **json.loads(row["facts"])})

    def forget_upload(self, owner: str, sha256: str) -> bool:
        """Forgets that an owner has brought a file; whether nobody else has. `BusyError` while a run of theirs names it."""
        with self._transaction() as db:
            runs = db.execute("SELECT id, settings FROM runs WHERE owner = ? AND NOT deleted", (owner,)).fetchall()
            if needed := [row["id"] for row in runs if sha256 in row["settings"]]:
                raise BusyError(f"The run {needed[0]} needs this upload: delete the run first.")
            # What a run was made of before a change is needed until the run has taken the change.
            changing = db.execute(
                "SELECT run, arguments FROM jobs WHERE owner = ? AND state IN ('queued', 'running')", (owner,)
            ).fetchall()
            if needed := [row["run"] for row in changing if sha256 in row["arguments"]]:
                raise BusyError(
                    f"The run {needed[0]} needs this upload while it is being changed: wait for that to end."
                )
            db.execute("DELETE FROM uploads WHERE owner = ? AND sha256 = ?", (owner, sha256))
            return db.execute("SELECT 1 FROM uploads WHERE sha256 = ?", (sha256,)).fetchone() is None

    def stored_bytes(self, owner: str) -> int:
        """Bytes of everything an owner has brought."""
        with self._lock:
            row = self._db.execute("SELECT SUM(bytes) AS total FROM uploads WHERE owner = ?", (owner,)).fetchone()
        return int(row["total"] or 0)

    # ---- inside -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _restore(db: sqlite3.Connection, job: Job) -> None:
        if BEFORE in job.arguments:
            db.execute(
                "UPDATE runs SET settings = ? WHERE id = ? AND NOT EXISTS (SELECT 1 FROM jobs WHERE run = ? AND id > ?)",
                (json.dumps(job.arguments[BEFORE]), job.run, job.run, job.id),
            )

    def _put_back(self, db: sqlite3.Connection, row: sqlite3.Row, *, counted: bool) -> Job:
        attempts = row["attempts"] - (0 if counted else 1)
        state, failure = JobState.QUEUED, None
        if row["cancel"]:
            state = JobState.CANCELLED
        elif attempts >= MAX_ATTEMPTS:
            state = JobState.FAILED
            failure = (
                f"The worker ended {attempts} times in the middle of this job, most often for want of memory: take a "
                "smaller size or model."
            )
        ended = None if state is JobState.QUEUED else self._clock()
        db.execute(
            "UPDATE jobs SET state = ?, ended = ?, failure = ?, attempts = ? WHERE id = ?",
            (state, ended, failure, attempts, row["id"]),
        )
        return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def _insert(
        self, db: sqlite3.Connection, run: RunRow, action: Action, arguments: Mapping[str, Any], priority: int
    ) -> int:
        made = db.execute(
            "INSERT INTO jobs (run, owner, action, arguments, priority, state, created) VALUES (?, ?, ?, ?, ?, 'queued', ?)",
            (run.id, run.owner, action, json.dumps(arguments), priority, self._clock()),
        )
        return int(made.lastrowid or 0)

    @staticmethod
    def _active(db: sqlite3.Connection, run: str) -> sqlite3.Row | None:
        found: sqlite3.Row | None = db.execute(
            "SELECT * FROM jobs WHERE run = ? AND state IN ('queued', 'running')", (run,)
        ).fetchone()
        return found

    @staticmethod
    def _check_quota(db: sqlite3.Connection, owner: str, limit: int) -> None:
        row = db.execute(
            "SELECT COUNT(*) AS number FROM jobs WHERE owner = ? AND state IN ('queued', 'running')", (owner,)
        ).fetchone()
        if row["number"] >= limit:
            raise TooManyError(
                f"You have {row['number']} runs waiting or running, as many as one may: wait for one to end."
            )


def _run(row: sqlite3.Row) -> RunRow:
    return RunRow(id=row["id"], owner=row["owner"], created=row["created"], settings=json.loads(row["settings"]))


def _job(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a Row iterates over values
    values |= {"action": Action(row["action"]), "state": JobState(row["state"]), "cancel": bool(row["cancel"])}
    return Job(**values | {"arguments": json.loads(row["arguments"])})
