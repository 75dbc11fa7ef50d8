"""What clients see of a run: read from its files only, with no path of this machine in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scail2.errors import InputError
from scail2.files.documents import DocumentError
from scail2.files.staging import atomic_file
from scail2.files.storage import hash_file, is_present, read_json
from scail2.runs import RunDirectory
from scail2.runs.budgeting import BUDGET
from scail2.runs.layout import entries
from scail2.runs.segment_record import RECORD, SegmentRecord, read_record
from scail2.serving.queue import Job, RunRow
from scail2.serving.refusals import MissingError, RefusalError
from scail2.serving.sentences import for_clients
from scail2.serving.submissions import RunPlace
from scail2.video import VideoReader, VideoWriter

FRAMES = "frames.mkv"
_WINDOW = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run of the service as it lies on the disk.

    Attributes:
        row: how it was submitted.
        place: where it lies.
        root: the service's folder, which nobody is told.
    """

    row: RunRow
    place: RunPlace
    root: Path

    def open(self) -> RunDirectory:
        """The run directory; `MissingError` before a worker has begun it."""
        if not is_present(self.place.run / "request.json"):
            raise MissingError(f"Nothing of the run {self.row.id} is there yet: it waits in the queue.")
        return RunDirectory.open(self.place.run)

    def summary(self, job: Job | None, progress: Mapping[str, Any]) -> dict[str, Any]:
        """State of job and run, for `GET /v1/runs/ID`."""
        return {
            "id": self.row.id,
            "created": _moment(self.row.created),
            "settings": dict(self.row.settings),
            "job": None if job is None else self._job(job),
            "progress": dict(progress),
            "run": self._status(),
            "plan": self.plan(),
            "budget": self.budget(),
        }

    def _job(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "action": str(job.action),
            "state": str(job.state),
            "cancelling": job.cancel and job.state == "running",
            "created": _moment(job.created),
            "started": _moment(job.started),
            "ended": _moment(job.ended),
            "attempts": job.attempts,
            "failure": None if job.failure is None else self._told(job.failure),
        }

    def _status(self) -> dict[str, Any] | None:
        try:
            told = self.open().status().to_json()
        except MissingError:
            return None
        except InputError as error:
            return {"state": "damaged", "failure": self._told(str(error))}
        if isinstance(told.get("failure"), str):
            told["failure"] = self._told(told["failure"])
        return {name: value for name, value in told.items() if name not in ("path", "output")}

    def _told(self, sentence: str) -> str:
        return for_clients(sentence, self.root, self.row.settings)

    def plan(self) -> dict[str, Any] | None:
        """What `scail2 plan --json` told; None before the plan is made."""
        path = self.place.run / "plan.json"
        try:
            return _cleaned(read_json(path, dict[str, Any], nonfinite=True), self.root)
        except (FileNotFoundError, DocumentError):
            return None

    def budget(self) -> dict[str, Any] | None:
        """What the last rendering took beside what was predicted; None before there was one."""
        try:
            return _cleaned(read_json(self.place.run / BUDGET, dict[str, Any], nonfinite=True), self.root)
        except (FileNotFoundError, DocumentError):
            return None

    # ---- what is rendered ---------------------------------------------------------------------------------------------

    def segments(self) -> list[dict[str, Any]]:
        """Finished segments in order: index, first frame, frames, seed, seconds, an id that changes with their content."""
        return [
            {
                "index": index,
                "first_frame": start,
                "frames": record.num_frames,
                "seed": record.seed,
                "seconds": record.timings.get("total"),
                "version": record.state[:16],
                "metrics": self._metrics(index),
            }
            for index, start, record in self._placed()
        ]

    def refuse_unrendered(self, index: int) -> None:
        """Raises `RefusalError` for a segment that is not there to be rendered again."""
        finished = list(self._records())
        if index not in finished:
            told = ", ".join(map(str, finished)) or "none yet"
            raise RefusalError(f"Segment {index} is not rendered; finished are {told}.")

    def _placed(self) -> list[tuple[int, int, SegmentRecord]]:
        """Finished segments of the present plan: index, first frame in the output, record."""
        planned = {each["index"]: each["start"] + each["overlap"] for each in (self.plan() or {}).get("segments", ())}
        return [(index, planned[index], record) for index, record in self._records().items() if index in planned]

    def _metrics(self, index: int) -> dict[str, Any] | None:
        try:
            return read_json(
                self.place.run / "segments" / f"{index:03d}" / "metrics.json", dict[str, Any], nonfinite=True
            )
        except (FileNotFoundError, DocumentError):
            return None

    def _records(self) -> dict[int, SegmentRecord]:
        records = {}
        folder = self.place.run / "segments"
        for path in sorted(folder.glob("[0-9]*")) if folder.is_dir() else []:
            if path.name.isdigit() and is_present(path / RECORD):
                try:
                    records[int(path.name)] = read_record(path)
                except DocumentError:
                    continue  # unfinished; the next resume says so and redoes it
        return records

    def frame(self, number: int) -> np.ndarray:
        """Frame ``number`` of the output, uint8 (H, W, 3), from the finished segments; `MissingError` where there is none yet."""
        for index, start, record in self._placed():
            if start <= number < start + record.num_frames:
                with VideoReader(self._frames(index)) as reader:
                    return reader.frames(number - start, number - start + 1)[0]
        raise MissingError(f"Frame {number} is not rendered.")

    def driving_frame(self, number: int) -> np.ndarray:
        """Frame ``number`` of the driving video at the run's size and rate, uint8 (H, W, 3)."""
        plan, request = self.plan(), self.open().request
        if plan is None:
            raise MissingError(f"The run {self.row.id} has no plan yet.")
        size = (plan["height"], plan["width"])
        with VideoReader(request.driving, fps=request.fps, size=size, fit=request.fit) as reader:
            if not number < min(len(reader), plan["frames"]):
                raise MissingError(f"There is no frame {number}: the run has {plan['frames']}.")
            return reader.frames(number, number + 1)[0]

    def project_files(self) -> list[Path]:
        """Everything that another machine needs to go on: the run's own plain files, and the film as it is to be."""
        own = [each.path for each in entries(self.place.run) if each.is_genuine and not (each.folder or each.temporary)]
        run = self.open()
        films = run.request.outputs if run.status().state == "finished" else ()
        return [*own, *(path for path in films if path.is_file())]

    def segment_film(self, index: int) -> Path:
        """A finished segment as a film that browsers play; made once for each version of it."""
        record = self._records().get(index)
        if record is None:
            raise MissingError(f"Segment {index} is not rendered.")
        film = self.place.served / f"{index:03d}-{record.state[:16]}.mp4"
        if not film.is_file():
            film.parent.mkdir(exist_ok=True)
            with VideoReader(self._frames(index)) as reader:
                rate = Fraction((self.plan() or {}).get("fps", "16"))
                with VideoWriter(film, rate, (reader.height, reader.width)) as writer:
                    for at in range(0, len(reader), _WINDOW):
                        writer.write(reader.frames(at, min(at + _WINDOW, len(reader))))
        return film

    def _frames(self, index: int) -> Path:
        return self.place.run / "segments" / f"{index:03d}" / FRAMES

    def film(self) -> Path:
        """The finished film; `MissingError` until it is written and up to date."""
        run = self.open()
        if run.status().state != "finished":
            raise MissingError(f"The film of the run {self.row.id} is not finished.")
        return run.request.output

    def manifest(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that says what the film is: its settings, hashes, model, plan, segments, and the film's own hash."""
        film = self.film()
        documents = {
            name: _cleaned(read_json(self.place.run / f"{name}.json", dict[str, Any], nonfinite=True), self.root)
            for name in ("inputs", "model", "plan", "drift")
            if is_present(self.place.run / f"{name}.json")
        }
        return {
            "run": self.row.id,
            "settings": dict(settings),
            "film": {"sha256": hash_file(film), "bytes": film.stat().st_size, "format": film.suffix},
            "segments": self.segments(),
            **documents,
        }

    def picture(self, name: str) -> Path:
        """A picture of the run: ``plan.png``, ``drift.png``."""
        path = self.place.run / name
        if not is_present(path):
            raise MissingError(f"The run {self.row.id} has no {name} yet.")
        return path


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Replaces a PNG file whole."""
    with atomic_file(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _cleaned(value: Any, root: Path) -> Any:
    """The same without seals and without paths of this machine."""
    if isinstance(value, dict):
        return {name: _cleaned(each, root) for name, each in value.items() if name != "seal"}
    if isinstance(value, list):
        return [_cleaned(each, root) for each in value]
    return for_clients(value, root) if isinstance(value, str) else value
