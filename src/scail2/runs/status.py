"""A run at a glance, read from its files only: quick, and possible while another process works on it."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scail2.files.documents import DocumentError, decode
from scail2.files.ownership import is_locked
from scail2.files.storage import is_present, names_in
from scail2.request.animation import AnimationRequest
from scail2.runs.journal import Journal
from scail2.runs.layout import used_bytes
from scail2.runs.ledger import STAGES, StageLedger
from scail2.runs.sealed import read_sealed
from scail2.runs.segment_record import RECORD, SegmentRecord, read_record
from scail2.runs.verdict import DRIFT, stored_verdict

if TYPE_CHECKING:
    from scail2.drift.verdict import Verdict

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """What is there and what is missing.

    Attributes:
        state: ``new`` (no plan yet), ``planned``, ``partial`` (some segments), ``rendered`` (all segments, and no output,
            or one that was written before its sound, codec or transparency were changed), ``overwritten`` (what stands
            at the output's path is not the film this run wrote there), ``finished``.
        running: whether a process works on it right now.
        segments: how many are planned; None without a plan.
        finished: indices of finished segments that are what the request, as it is now, asks for.
        seconds_per_segment: mean over the finished ones.
        worst_drift: the verdict's drift; None before the second segment.
        verdict: what the measures of all finished segments came to when the run last ended or stopped; None before that.
        bytes, superseded_bytes: disk use, and how much of it `clean` gives back.
        failure: why the last attempt ended, if it did not end well.
        damaged: files of the run that do not hold what was written, so that the rest of this may be too little.
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
    verdict: "Verdict | None"
    bytes: int
    superseded_bytes: int
    failure: str | None
    damaged: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For `scail2 status --json`."""
        return (
            asdict(replace(self, verdict=None))
            | {"verdict": None if self.verdict is None else self.verdict.to_json()}
            | {"path": str(self.path), "output": str(self.output), "finished": list(self.finished)}
            | {"damaged": list(self.damaged)}
        )

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
        if self.verdict is not None:
            rows += [("" if number else "verdict", line) for number, line in enumerate(self.verdict.lines())]
        rows.append(("disk", f"{self.bytes / 1e6:.1f} MB, {self.superseded_bytes / 1e6:.1f} MB of it superseded"))
        if self.state == "overwritten":
            rows.append(
                ("film", f"{self.output} is not the one this run wrote: another run or program has replaced it")
            )
        if self.damaged:
            rows.append(("damaged", ", ".join(self.damaged) + " (`scail2 resume` redoes it or says what to do)"))
        if self.failure:
            rows.append(("last attempt", self.failure))
        return rows


def status_of(path: Path, request: AnimationRequest) -> RunStatus:
    """The status of a run directory. Raises `OSError` for files that cannot be read."""
    damaged: list[str] = []
    plan = _derived(path, "plan.json", _Plan, damaged)
    planned = len(plan.segments) if plan else None
    ledger = _ledger(path, damaged)
    records = _records(path, damaged)
    if ledger is not None:
        records = {index: record for index, record in records.items() if not ledger.is_stale(record)}
    done = [index for index in records if planned is None or index < planned]
    seconds = [records[index].timings["total"] for index in done if "total" in records[index].timings]
    verdict = _verdict(path, request, records, damaged)
    return RunStatus(
        path=path,
        state=_state(ledger, request, planned, len(done)),
        running=is_locked(path),
        mode=str(request.mode),
        output=request.output,
        segments=planned,
        finished=tuple(done),
        seconds_per_segment=sum(seconds) / len(seconds) if seconds else None,
        worst_drift=_drift(verdict),
        verdict=verdict,
        bytes=used_bytes(path),
        superseded_bytes=used_bytes(path, "superseded"),
        failure=_failure(path),
        damaged=tuple(damaged),
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    segments: list[dict[str, Any]]


def _verdict(
    path: Path, request: AnimationRequest, records: dict[int, SegmentRecord], damaged: list[str]
) -> "Verdict | None":
    try:
        return stored_verdict(path, request, records)
    except DocumentError:
        damaged.append(DRIFT)
        return None


def _drift(verdict: "Verdict | None") -> float | None:
    if verdict is None:
        return None
    from scail2.drift.verdict import Measure

    return verdict.value(Measure.DRIFT)


def _derived(path: Path, name: str, kind: type[T], damaged: list[str]) -> T | None:
    """What is told by a file that can be made again; None when it is missing or damaged."""
    if not is_present(path / name):
        return None
    try:
        return decode(read_sealed(path / name, dict[str, Any], nonfinite=True), kind, path / name, unknown=True)
    except DocumentError:
        damaged.append(name)
        return None


def _records(path: Path, damaged: list[str]) -> dict[int, SegmentRecord]:
    found = {}
    for name in names_in(path / "segments"):
        if not re.fullmatch(r"\d{3,9}", name) or not is_present(path / "segments" / name / RECORD):
            continue
        try:
            found[int(name)] = read_record(path / "segments" / name)
        except DocumentError:
            # Its segment is unfinished; the next resume says so and redoes it.
            damaged.append(f"segments/{name}/{RECORD}")
    return found


def _ledger(path: Path, damaged: list[str]) -> StageLedger | None:
    try:
        return StageLedger(path)
    except DocumentError:
        damaged.append(STAGES)
        return None


def _state(ledger: StageLedger | None, request: AnimationRequest, planned: int | None, done: int) -> str:
    if planned is None:
        return "new"
    if done < planned:
        return "partial" if done else "planned"
    if ledger is None:
        return "rendered"
    stages = {"output": request.output} | ({"compare": request.compare_output} if request.compare else {})
    written = [ledger.wrote(stage, output) for stage, output in stages.items()]
    if False in written:
        return "overwritten"
    return "finished" if all(written) and not any(map(ledger.is_stale_film, stages)) else "rendered"


def _failure(path: Path) -> str | None:
    """How the last attempt ended, from the journal's end; None while it goes well."""
    entries = Journal(path / "journal.jsonl").entries()
    last = entries[-1] if entries else {}
    if last.get("event") == "failed":
        return str(last.get("message", "failed"))
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
