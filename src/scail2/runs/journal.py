"""What happened in a run, one JSON object a line, and the same events for a listener."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scail2.runs.storage import json_bytes

# Events of every denoising step would fill the journal without helping anyone resume.
TRANSIENT = frozenset({"step", "masks_progress", "output_progress"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvent:
    """Something that happened: a name, when (UTC), and facts that depend on the name."""

    name: str
    time: str
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """``{"event": name, "time": ISO 8601, ...facts}``."""
        return {"event": self.name, "time": self.time, **self.facts}


Listener = Callable[[RunEvent], None]


class Journal:
    """Appends events to ``journal.jsonl``, synced line by line, and passes them on to a listener.

    A line that a crash cut short is closed off before the next append and skipped when reading.
    """

    def __init__(self, path: Path, listener: Listener | None = None):
        self.path = path
        self._listener = listener

    def emit(self, event: str, /, **facts: Any) -> None:
        """Records one event durably (steps and progress are only passed on)."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = RunEvent(name=event, time=now, facts=facts)
        if event not in TRANSIENT:
            self._append(json_bytes(entry.to_json()))
        if self._listener is not None:
            self._tell(entry)

    def _tell(self, entry: RunEvent) -> None:
        try:
            self._listener(entry)
        except BrokenPipeError:
            raise  # whoever listened went away; the run says so itself
        except OSError as error:
            # Left as it is, it would be taken for a refusal of the run's own disk.
            raise RuntimeError(f"the listener to the run's events failed: {error}") from error

    def entries(self) -> list[dict[str, Any]]:
        """All whole lines so far, oldest first."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines()
        parsed = (_parse(line) for line in lines)
        return [entry for entry in parsed if entry is not None]

    def _append(self, line: bytes) -> None:
        with open(self.path, "ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
