"""Which stage of a run was last made from what, and what came of it: ``stages.json``."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from scail2.files.documents import DocumentError, decode
from scail2.files.storage import hash_file, is_present, stands
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.segment_record import SegmentRecord

STAGES = "stages.json"
# What stood at the output's path when the run was asked to write there.
_ASKED = "asked"
# Segments, and films, that are on disk but not what the request asks for, as far as the last look at them.
_STALE = "stale"
_STALE_FILMS = "stale films"


def _take(index: int) -> str:
    return f"segment {index}"


def _version(record: SegmentRecord) -> str:
    return f"{record.key} {record.state}"


def _is_at(entry: Mapping[str, Any], place: Mapping[str, str]) -> bool:
    """Whether the entry is of a film at that place, by either of the place's names (earlier versions noted the path only)."""
    return any(entry.get(name) == value for name, value in place.items())


class StageLedger:
    """Notes of the stages; each change is on disk when the call returns.

    Raises `DocumentError` when the file is damaged: without it a run does not know what it made.
    """

    def __init__(self, folder: Path):
        self._path = folder / STAGES
        self._stages: dict[str, dict[str, Any]] = {}
        if is_present(self._path):
            try:
                self._stages = read_sealed(self._path, dict[str, dict[str, Any]])
            except DocumentError as error:
                raise DocumentError(
                    f"{error} Give the run's own command again with --run-dir {folder}: it is begun anew from what is there."
                ) from error

    @classmethod
    def empty(cls, folder: Path) -> Self:
        """Notes of nothing, whatever is in the folder."""
        ledger = cls.__new__(cls)
        ledger._path, ledger._stages = folder / STAGES, {}
        return ledger

    def facts(self, stage: str, key: str) -> dict[str, Any] | None:
        """What was noted when the stage was made from these inputs; None when it was made from others or never."""
        entry = self._stages.get(stage)
        return entry if entry is not None and entry.get("key") == key else None

    def record(self, stage: str, key: str, **facts: Any) -> None:
        """Notes that the stage is done for these inputs."""
        self._stages[stage] = {"key": key, **facts}
        write_sealed(self._path, self._stages)

    def note_take(self, record: SegmentRecord) -> None:
        """Notes a segment that is about to be put in place: which versions are this run's, and how the latest was made."""
        stage = _take(record.index)
        states = dict.fromkeys([*self._states(record.index), record.state])
        self.record(stage, record.key, record=asdict(record), states=list(states))

    def take(self, index: int) -> SegmentRecord | None:
        """The record of a segment's latest version as it was when that was made; None for runs of earlier versions."""
        noted = self._stages.get(_take(index))
        return decode(noted.get("record"), SegmentRecord, self._path) if noted is not None else None

    def made(self, record: SegmentRecord) -> bool:
        """Whether this run made that version of a segment, as far as it knows."""
        states = self._states(record.index)
        return not states or record.state in states

    def _states(self, index: int) -> list[str]:
        noted = self._stages.get(_take(index))
        return decode(noted.get("states"), list[str], self._path) if noted is not None else []

    def ask(self, outputs: Sequence[Path]) -> None:
        """Notes what stands where the run is asked to write: that much may be replaced."""
        found = {str(path): hash_file(path) for path in outputs if stands(path)}
        self.record(_ASKED, "", found=found)

    def announce(self, path: Path, sha256: str) -> None:
        """Notes what is about to stand at ``path``: from then on it is this run's, wherever its films go later."""
        stage = f"film {path}"
        before = self._stages.get(stage, {}).get("sha256")  # stands there until the new one has its name
        self.record(stage, "", **self._place(path), sha256=sha256, before=before)

    def record_film(self, stage: str, key: str, path: Path) -> None:
        """Notes that the stage wrote the film that stands at ``path``."""
        self.record(stage, key, **self._place(path), sha256=hash_file(path))

    def _place(self, path: Path) -> dict[str, str]:
        """Where a film is, by itself and as seen from the run, which tells it after both were moved or through a link."""
        film = os.path.join(os.path.realpath(path.parent), path.name)
        return {"path": str(path), "beside": os.path.relpath(film, os.path.realpath(self._path.parent))}

    def note_stale(self, segments: Mapping[int, SegmentRecord]) -> None:
        """Notes which segments the request, as it is now, would have rendered again."""
        versions = {str(index): _version(record) for index, record in segments.items()}
        if versions != self._stages.get(_STALE, {}).get("segments", {}):
            self.record(_STALE, "", segments=versions)

    def is_stale(self, record: SegmentRecord) -> bool:
        """Whether this version of a segment was noted as one that does not answer the request."""
        noted = decode(self._stages.get(_STALE, {}).get("segments", {}), dict[str, str], self._path)
        return noted.get(str(record.index)) == _version(record)

    def note_stale_films(self, stages: Iterable[str]) -> None:
        """Notes which films the request, as it is now, would have written again."""
        keys = {stage: self._stages[stage]["key"] for stage in stages if stage in self._stages}
        if keys != self._stages.get(_STALE_FILMS, {}).get("films", {}):
            self.record(_STALE_FILMS, "", films=keys)

    def is_stale_film(self, stage: str) -> bool:
        """Whether the film that the stage last wrote was noted as one that does not answer the request."""
        noted = decode(self._stages.get(_STALE_FILMS, {}).get("films", {}), dict[str, str], self._path)
        return stage in noted and noted[stage] == self._stages.get(stage, {}).get("key")

    def may_replace(self, path: Path) -> bool:
        """Whether what stands at ``path`` is what this run wrote there, or what it was asked to write over."""
        if not stands(path):
            return True
        place = self._place(path)
        noted = [entry for entry in self._stages.values() if _is_at(entry, place)]
        known = [entry.get(name) for entry in noted for name in ("sha256", "before")]
        found = self._stages.get(_ASKED, {}).get("found")
        known += [found.get(str(path))] if isinstance(found, dict) else []
        return hash_file(path) in known

    def wrote(self, stage: str, path: Path) -> bool | None:
        """Whether the file at ``path`` is the one that the stage wrote; None when there is none, or it was not made."""
        entry = self._stages.get(stage)
        if entry is None or not _is_at(entry, self._place(path)) or not stands(path):
            return None
        return entry.get("sha256") == hash_file(path)
