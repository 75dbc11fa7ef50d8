"""One process per run: a lock held by the kernel, so a crash releases it."""

import fcntl
import os
import time
from contextlib import contextmanager
from pathlib import Path

from scail2.errors import InputError
from scail2.files.storage import is_present, open_plain
from scail2.runs.layout import LOCK

# `is_locked` holds the lock for an instant to look; a few attempts keep that from refusing a real owner.
_ATTEMPTS = 5


@contextmanager
def locked(folder: Path):
    """Holds the run's lock; `InputError` naming the other process when the run is in use."""
    descriptor = open_plain(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        _acquire(descriptor, folder)
        if os.fstat(descriptor).st_nlink > 1:
            raise InputError(f"{folder / LOCK} has another name elsewhere, which would be written to: delete it.")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def refuse_locked(folder: Path) -> None:
    """Raises `InputError` when some process is working on the run right now."""
    if is_locked(folder):
        descriptor = open_plain(folder / LOCK)
        holder = _holder(descriptor)
        os.close(descriptor)
        raise _in_use(folder, holder)


def _in_use(folder: Path, holder: str) -> InputError:
    return InputError(f"The run {folder} is in use by process {holder}; wait for it to end or stop it.")


def _acquire(descriptor: int, folder: Path) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if attempt == _ATTEMPTS - 1:
                raise _in_use(folder, _holder(descriptor)) from error
            time.sleep(0.02)


def is_locked(folder: Path) -> bool:
    """Whether some process is working on the run right now."""
    if not is_present(folder / LOCK):
        return False
    descriptor = open_plain(folder / LOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
