"""Files that a run trusts when it comes back: JSON with a seal, so that an edit or damage is noticed."""

from pathlib import Path
from typing import Any, TypeVar

from scail2.files.documents import DocumentError, decode
from scail2.files.storage import digest, read_json, write_json

T = TypeVar("T")

SEAL = "seal"


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Replaces ``path`` atomically with ``values`` and their hash."""
    write_json(path, values | {SEAL: digest(values)})


def read_sealed(path: Path, kind: type[T], *, nonfinite: bool = False) -> T:
    """What `write_sealed` wrote, as ``kind``; files of earlier versions, which have no seal, are taken as they are.

    Raises:
        DocumentError: it holds something else than was written.
        OSError: it cannot be read.
    """
    values = read_json(path, dict[str, Any], nonfinite=nonfinite)
    seal = values.pop(SEAL, None)
    if seal is not None and seal != digest(values):
        raise DocumentError(f"{path} has been changed or damaged since scail2 wrote it.")
    return decode(values, kind, path, nonfinite=nonfinite)
