"""A run at a glance, read from its files only: quick, and possible while another process works on it."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.request import AnimationRequest
from scail2.runs.journal import Journal
from scail2.runs.lock import is_locked
from scail2.runs.segment_record import SegmentRecord, read_record
from scail2.runs.storage import folder_bytes, read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """What is there and what is missing.

    Attributes:
        state: ``new`` (no plan yet), ``planned``, ``partial`` (some segments), ``rendered`` (all segments, no output),
            ``finished``.
        running: whether a process works on it right now.
        segments: how many are planned; None without a plan.
        finished: indices of finished segments.
        seconds_per_segment: mean over the finished ones.
        worst_drift: the largest drift score measured, None before the second segment.
        bytes, superseded_bytes: disk use, and how much of it `clean` gives back.
        failure: why the last attempt ended, if it did not end well.
    """

    path: Path
    state: str
    running: bool
    mode: str
    output: Path
    segments: int | None
    finished: tuple[int, ...]
    seconds_per_segment: float | None
    worst_drift: float | None
    bytes: int
    superseded_bytes: int
    failure: str | None

    def to_json(self) -> dict[str, Any]:
        """For `scail2 status --json`."""
        return asdict(self) | {"path": str(self.path), "output": str(self.output), "finished": list(self.finished)}

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for a table."""
        rows = [("run", str(self.path)), ("state", self.state + (" (running)" if self.running else ""))]
        rows += [("mode", self.mode), ("output", str(self.output))]
        if self.segments is not None:
            missing = sorted(set(range(self.segments)) - set(self.finished))
            told = f", missing {_ranges(missing)}" if missing else ""
            rows.append(("segments", f"{self.segments - len(missing)} of {self.segments} finished{told}"))
        if self.seconds_per_segment is not None:
            rows.append(("seconds a segment", f"{self.seconds_per_segment:.1f}"))
        if self.worst_drift is not None:
            rows.append(("worst drift", f"{self.worst_drift:.2f}"))
        rows.append(("disk", f"{self.bytes / 1e6:.1f} MB, {self.superseded_bytes / 1e6:.1f} MB of it superseded"))
        if self.failure:
            rows.append(("last attempt", self.failure))
        return rows


def status_of(path: Path, request: AnimationRequest) -> RunStatus:
    """The status of a run directory."""
    plan = read_json(path / "plan.json") if (path / "plan.json").exists() else None
    records = _records(path)
    planned = len(plan["segments"]) if plan else None
    done = [index for index in records if planned is None or index < planned]
    seconds = [records[index].timings["total"] for index in done]
    return RunStatus(
        path=path,
        state=_state(path, request, planned, len(done)),
        running=is_locked(path),
        mode=str(request.mode),
        output=request.output,
        segments=planned,
        finished=tuple(done),
        seconds_per_segment=sum(seconds) / len(seconds) if seconds else None,
        worst_drift=_worst_drift(path),
        bytes=folder_bytes(path),
        superseded_bytes=folder_bytes(path / "superseded"),
        failure=_failure(path),
    )


def _records(path: Path) -> dict[int, SegmentRecord]:
    found = {}
    for folder in sorted((path / "segments").glob("[0-9]*")):
        # A damaged record makes its segment unfinished; the next resume says so and redoes it.
        with suppress(InputError):
            found[int(folder.name)] = read_record(folder)
    return found


def _state(path: Path, request: AnimationRequest, planned: int | None, done: int) -> str:
    if planned is None:
        return "new"
    if done < planned:
        return "partial" if done else "planned"
    stages = read_json(path / "stages.json") if (path / "stages.json").exists() else {}
    return "finished" if "output" in stages and request.output.exists() else "rendered"


def _worst_drift(path: Path) -> float | None:
    report = path / "drift.json"
    return read_json(report).get("worst") if report.exists() else None


def _failure(path: Path) -> str | None:
    """How the last attempt ended, from the journal's end; None while it goes well."""
    entries = Journal(path / "journal.jsonl").entries()
    last = entries[-1] if entries else {}
    if last.get("event") == "failed":
        return last["message"]
    return "interrupted" if last.get("event") == "interrupted" else None


def _ranges(numbers: list[int]) -> str:
    """``0, 2-4``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
