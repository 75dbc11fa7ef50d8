"""Paths as people write them: ``~`` is their home folder."""

from pathlib import Path

from scail2.errors import InputError


def expanded(path: str | Path) -> Path:
    """The path with a leading ``~`` or ``~name`` replaced; `InputError` where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path}: '~' stands for a home folder, but none is known here; write the whole path."
        ) from error
