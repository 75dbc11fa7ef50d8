"""What an inspection says: one `Finding` per problem, with a code for programs and a sentence for people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from scail2.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from scail2.video.source import Note


class Severity(StrEnum):
    """How much a finding matters: errors refuse a run, warnings are shown, information is just true."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing an inspection found.

    Attributes:
        code: stable name for programs, e.g. ``"polarity"``.
        severity: see `Severity`.
        message: one sentence: what and where.
        fix: what to do about it; empty for information.
        frames: the driving frames it concerns, as [start, stop) runs.
    """

    code: str
    severity: Severity
    message: str
    fix: str = ""
    frames: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"severity": self.severity.value, "frames": [list(run) for run in self.frames]}


def error(code: str, message: str, fix: str, frames: Sequence[tuple[int, int]] = ()) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, message=message, fix=fix, frames=tuple(frames))


def warning(code: str, message: str, fix: str, frames: Sequence[tuple[int, int]] = ()) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, message=message, fix=fix, frames=tuple(frames))


def info(code: str, message: str, frames: Sequence[tuple[int, int]] = ()) -> Finding:
    return Finding(code=code, severity=Severity.INFO, message=message, frames=tuple(frames))


def of_file(name: str, notes: "Sequence[Note]") -> list[Finding]:
    """What the reader says about a file: a warning where the user can do something about it, else information."""
    found = []
    for note in notes:
        message = f"{name}: {note.message}"
        found.append(warning(note.code, message, note.fix) if note.fix else info(note.code, message))
    return found


def runs_of(flags: Sequence[bool] | np.ndarray) -> list[tuple[int, int]]:
    """Runs [start, stop) of true values."""
    runs, start = [], None
    for index, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = index
        elif not flag and start is not None:
            runs.append((start, index))
            start = None
    return runs


def told(runs: Sequence[tuple[int, int]], limit: int = 4) -> str:
    """Runs of frames for people: ``3, 10–14 and 2 more``."""
    names = [str(a) if b == a + 1 else f"{a}–{b - 1}" for a, b in runs]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def table(findings: Sequence[Finding]) -> "RenderableType":
    """For `rich.console.Console.print`: one row per finding."""
    from rich.table import Table
    from rich.text import Text

    if not findings:
        return Text("nothing to report", style="green")
    style = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
    rows = Table(show_header=True)
    for column in ("", "what", "fix"):
        rows.add_column(column, overflow="fold")
    for each in findings:
        rows.add_row(Text(each.severity.value, style=style[each.severity]), Text(each.message), Text(each.fix))
    return rows


def refuse(findings: Sequence[Finding]) -> None:
    """Raises `InputError` with the first error among `findings`, and names the others."""
    errors = [each for each in findings if each.severity is Severity.ERROR]
    if errors:
        more = f" Also: {'; '.join(each.message.rstrip('.') for each in errors[1:])}." if len(errors) > 1 else ""
        raise InputError(f"{errors[0].message.rstrip('.')}: {errors[0].fix.rstrip('.')}.{more}")
