"""What happened in a run, one JSON object a line, and the same events for a listener."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any, Self

from scail2.errors import InputError
from scail2.files.documents import parse_json
from scail2.files.storage import is_present, json_bytes, open_plain, read_bytes, write_bytes

# Events of every denoising step would fill the journal without helping anyone resume.
TRANSIENT = frozenset({"step", "masks_progress", "output_progress"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvent:
    """Something that happened: a name, when (UTC), and facts that depend on the name."""

    name: str
    time: str
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def now(cls, name: str, facts: dict[str, Any]) -> Self:
        """One that happens at this moment."""
        return cls(name=name, time=datetime.now(UTC).isoformat(timespec="milliseconds"), facts=facts)

    def to_json(self) -> dict[str, Any]:
        """``{"event": name, "time": ISO 8601, ...facts}``."""
        return {"event": self.name, "time": self.time, **self.facts}


Listener = Callable[[RunEvent], None]


class Journal:
    """Appends events to ``journal.jsonl``, synced line by line, and passes them on to a listener.

    A line that a crash cut short is closed off before the next append and skipped when reading. Events come from the thread
    that renders and from the one that saves; one at a time is written down and passed on.
    """

    def __init__(self, path: Path, listener: Listener | None = None):
        self.path = path
        self._listener = listener
        self._one_at_a_time = RLock()

    def emit(self, event: str, /, **facts: Any) -> None:
        """Records one event durably (steps and progress are only passed on)."""
        with self._one_at_a_time:
            entry = RunEvent.now(event, facts)
            if event not in TRANSIENT:
                self._append(json_bytes(entry.to_json()))
            if self._listener is not None:
                self._tell(self._listener, entry)

    def _tell(self, listener: Listener, entry: RunEvent) -> None:
        try:
            listener(entry)
        except BrokenPipeError:
            raise  # whoever listened went away; the run says so itself
        except OSError as error:
            # Left as it is, it would be taken for a refusal of the run's own disk.
            raise RuntimeError(f"the listener to the run's events failed: {error}") from error

    def entries(self) -> list[dict[str, Any]]:
        """All whole lines so far, oldest first."""
        if not is_present(self.path):
            return []
        parsed = (_parse(line, self.path) for line in read_bytes(self.path).splitlines())
        return [entry for entry in parsed if entry is not None]

    def _append(self, line: bytes) -> None:
        descriptor = open_plain(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        with open(descriptor, "rb+") as file:
            if os.fstat(descriptor).st_nlink > 1:
                # Another name of this file is a copy, or somebody else's: it must not grow.
                return write_bytes(self.path, _closed_off(file.read()) + line + b"\n")
            end = file.seek(0, os.SEEK_END)
            if end > 0:
                file.seek(-1, os.SEEK_END)
                line = (b"" if file.read(1) == b"\n" else b"\n") + line
            file.write(line + b"\n")
            file.flush()
            os.fsync(descriptor)


def _closed_off(content: bytes) -> bytes:
    return content if not content or content.endswith(b"\n") else content + b"\n"


def _parse(line: bytes, path: Path) -> dict[str, Any] | None:
    try:
        return parse_json(line, dict[str, Any], path, nonfinite=True)
    except InputError:
        return None
