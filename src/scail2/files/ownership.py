"""What a command may write to: one rule and one lock for every output.

The rule: a command writes to what is new or empty, and replaces only what carries the program's own mark of the same
kind (`Kind`). Everything else is refused before any work begins, and what somebody may have changed is moved to
`superseded/` instead of being deleted.

What dead processes left behind (`scail2.files.staging`) is found and removed by the next command on the same output.
"""

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.files.disk_errors import WRITING, naming
from scail2.files.documents import load_json
from scail2.files.staging import Staging, is_staging, roll_back, still_named, sweep
from scail2.files.storage import is_present, open_plain

LOCK = ".lock"
_NAME_BYTES = 255
# Whoever looks whether a lock is held takes it for an instant; a few attempts keep that from refusing its owner.
_ATTEMPTS, _PAUSE = 5, 0.02
_VANISHED = 1000
# Those who fill a folder together look at it alone for a moment, when they come and when they go.
_SHARED_ATTEMPTS = 250


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of output and how one is recognised.

    Attributes:
        name: for messages, in the plural or as a mass: "masks", "cached samples".
        mark: file (in a folder) or part (of a file) that shows it, for messages.
        recognises: whether a path holds an output of this kind; only asked of what exists.
    """

    name: str
    mark: str
    recognises: Callable[[Path], bool]


def is_document(path: Path, keys: set[str]) -> bool:
    """Whether a file is a JSON object with (at least) these keys, and no link."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return keys <= load_json(path, dict[str, Any], nonfinite=True).keys()
    except (InputError, OSError):
        return False


class InUseError(InputError):
    """Somebody else holds the lock of an output."""


# ---- locks --------------------------------------------------------------------------------------------------------


@contextmanager
def locked(place: Path, lock: Path | None = None, *, attempts: int = _ATTEMPTS) -> Iterator[None]:
    """Holds the lock of an output, so that no second command writes to it; gone afterwards, also when the process dies.

    Args:
        place: what is written, for the refusal.
        lock: the lock's file; without it `.lock` in the folder ``place``, which is made if need be.
        attempts: how often it is tried to get it, every 20 ms.

    Raises:
        InUseError: it is held (by whichever process).
        InputError: a file that is no lock is in its place.
    """
    path = place / LOCK if lock is None else lock
    descriptor = _acquire(path, place, attempts)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


@contextmanager
def _shared(place: Path, last: Callable[[], None]) -> Iterator[None]:
    """Holds a folder's lock together with others that do the same; whoever leaves last calls ``last`` and removes the lock."""
    path = place / LOCK
    descriptor = _acquire(path, place, _SHARED_ATTEMPTS, shared=True)
    try:
        yield
    finally:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if still_named(descriptor, path):
                last()
                with suppress(OSError):
                    path.unlink()
        except BlockingIOError:
            pass  # others are still at work
        finally:
            os.close(descriptor)


def lock_beside(place: Path) -> Path:
    """The lock of an output that appears as a whole: `.NAME.lock` beside it."""
    name = f".{place.name}{LOCK}"
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(place.name)).hexdigest()}{LOCK}"
    return place.with_name(name)


def is_locked(place: Path) -> bool:
    """Whether some process holds the lock in a folder right now; `InputError` where something else has its name."""
    return _holder_of(place) is not None


def refuse_locked(place: Path) -> None:
    """Raises `InputError` when some process holds the lock in a folder right now."""
    if (holder := _holder_of(place)) is not None:
        raise _in_use(place, holder)


def _holder_of(place: Path) -> str | None:
    if not is_present(place / LOCK):
        return None
    try:
        descriptor = open_plain(place / LOCK)
    except FileNotFoundError:  # given back in between
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signature(descriptor)
    finally:
        os.close(descriptor)
    return None


def _signature(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode(errors="replace").strip()


def _in_use(place: Path, holder: str) -> InUseError:
    who = f"process {holder}" if holder.isdigit() else "another process"
    return InUseError(f"{place} is in use by {who}; wait for it to end or stop it.")


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; `InputError` in a file system such as /proc, where programs make none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise _unwritable(path) from error


def _unwritable(place: Path) -> InputError:
    return InputError(f"{place} cannot be made: {place.parent} takes no files; choose another place to write to.")


def _acquire(path: Path, place: Path, attempts: int, *, shared: bool = False) -> int:
    attempt = vanished = 0
    while True:
        make_folder(path.parent)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            # Whoever made the folder removed it in between; some file systems say so of what they do not allow.
            vanished += 1
            if vanished > _VANISHED:
                raise _unwritable(place) from None
            continue
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise InputError(f"{path} is no lock of scail2: remove it, or choose another output.") from error
            raise
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if still_named(descriptor, path):
                _check_lock(descriptor, path)
                os.ftruncate(descriptor, 0)
                if not shared:
                    _sign(descriptor)
                return descriptor
            os.close(descriptor)
        except BlockingIOError as error:
            holder = _signature(descriptor)
            os.close(descriptor)
            attempt += 1
            if attempt >= (_ATTEMPTS if shared and holder else attempts):  # only who holds it alone signs it
                raise _in_use(place, holder) from error
            time.sleep(_PAUSE)
        except BaseException:
            os.close(descriptor)
            raise


def _check_lock(descriptor: int, path: Path) -> None:
    facts = os.fstat(descriptor)
    if facts.st_nlink > 1:
        raise InputError(f"{path} has another name elsewhere, which would be written to: remove it.")
    content = os.pread(descriptor, 32, 0).strip() if stat.S_ISREG(facts.st_mode) else b"?"
    if facts.st_size > 32 or (content and not content.isdigit()):
        raise InputError(f"{path} is no lock of scail2: remove it, or choose another output.")


def _sign(descriptor: int) -> None:
    with suppress(OSError):  # the number is for messages; on a full disk the lock holds without it
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


# ---- outputs ------------------------------------------------------------------------------------------------------


@contextmanager
def claimed_folder(path: str | Path, kind: Kind) -> Iterator[Path]:
    """Holds a folder that a command fills: new, empty, or already of its kind; yields it with links resolved.

    What dead processes left in it is removed. A folder that is made here and stays empty is removed again.

    Raises:
        InputError: it holds something else, or another process works in it.
    """
    place = Path(os.path.realpath(path))
    check_folder(place, kind, path)
    made = not place.exists()
    try:
        with naming(place, WRITING), locked(place):
            roll_back(place)
            sweep(place)
            _check_content(place, kind, path)
            yield place
            sweep(place)  # what a killed command's workers held for a moment longer than the command
    finally:
        if made:
            with suppress(OSError):
                place.rmdir()


@contextmanager
def shared_folder(path: str | Path, kind: Kind, last: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """Holds a folder as `claimed_folder` does, together with any number of processes that fill it in the same way.

    Each of its files has then to be locked by whoever makes it (`lock_beside`).

    Args:
        last: called, with the folder, by whoever leaves when nobody else is in it; also after an error.
    """
    place = Path(os.path.realpath(path))
    check_folder(place, kind, path)
    made = not place.exists()

    def leave() -> None:
        sweep(place)  # what a killed command's workers held for a moment longer than the command
        last(place)

    try:
        with naming(place, WRITING), _shared(place, leave):
            roll_back(place)
            sweep(place)
            _check_content(place, kind, path)
            yield place
    finally:
        if made:
            with suppress(OSError):
                place.rmdir()


def check_folder(place: Path, kind: Kind, named: str | Path | None = None) -> None:
    """Raises `InputError` unless a folder is new, empty, or of this kind; ``named`` is what the user calls it.

    One in which a command was interrupted may lack its mark: that is for `claimed_folder` to judge, once it is undone.
    """
    if not _was_interrupted(place):
        _check_content(place, kind, named)


def _check_content(place: Path, kind: Kind, named: str | Path | None) -> None:
    named = place if named is None else named
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise InputError(f"{named} is a file: {kind.name} need a folder, choose another output.")
    if is_free(place) or kind.recognises(place):
        return
    raise InputError(
        f"{named} holds other files and no {kind.name} (no {kind.mark}): choose a new or empty folder, so that none of "
        "them is overwritten."
    )


def _was_interrupted(folder: Path) -> bool:
    """Whether a temporary of this program lies in a folder: an exchange may have been cut short, its mark not there yet."""
    return folder.is_dir() and any(is_staging(each) for each in folder.iterdir())


def is_free(folder: Path, apart_from: str = "") -> bool:
    """Whether a folder is empty, apart from this program's lock and temporaries, and a file of that name."""
    return all(
        each.name == apart_from or (each.name.startswith(".") and each.name.endswith(LOCK)) or is_staging(each)
        for each in folder.iterdir()
    )


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears at ``path`` only when the block ends without an error; nothing is ever replaced.

    Raises:
        InputError: ``path`` exists and is not an empty folder, or another process is making it.
    """
    place = Path(os.path.realpath(path))
    with naming(place, WRITING), locked(place, lock_beside(place)):
        sweep(place.parent, place.name)
        if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
            raise InputError(f"{path} exists already: choose a new folder.")
        with Staging(place) as staging:
            staging.place.mkdir()
            yield staging.place
            staging.publish()


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Where to make a file that appears at ``path`` only when the block ends without an error; nothing is ever replaced.

    Raises:
        InputError: ``path`` exists, or another process is making it.
    """
    place = _place_of_file(path)
    with naming(place, WRITING), locked(place, lock_beside(place)):
        sweep(place.parent, place.name)
        if os.path.lexists(place):
            raise InputError(f"{path} exists already: choose another name.")
        with Staging(place) as staging:
            yield staging.place
            staging.publish()


@contextmanager
def claimed_file(path: str | Path, kind: Kind) -> Iterator[Staging]:
    """Holds the place of a file that a command writes: free, or a file of its kind. Make ``place``, then `publish`.

    Raises:
        InputError: a link, a folder or another sort of file is there, or another process is writing it.
    """
    place = _place_of_file(path)
    check_file(place, kind, path)
    with naming(place, WRITING), locked(place, lock_beside(place)):
        sweep(place.parent, place.name)
        check_file(place, kind, path)
        with Staging(place) as staging:
            yield staging


def check_file(place: Path, kind: Kind, named: str | Path | None = None) -> None:
    """Raises `InputError` unless nothing is at ``place``, or a file of this kind."""
    named = place if named is None else named
    if not os.path.lexists(place):
        return
    if place.is_symlink():
        raise InputError(f"{named} is a link: name the file that is to be written.")
    if place.is_dir():
        raise InputError(f"{named} is a folder: give a file name.")
    if not (place.is_file() and kind.recognises(place)):
        raise InputError(
            f"{named} exists and holds no {kind.name} of scail2 (there is no {kind.mark}): choose another name, or move it "
            "away first."
        )


def _place_of_file(path: str | Path) -> Path:
    """Links of the folder resolved, so that two names of one file have one lock; the file itself may be no link."""
    path = Path(path)
    return Path(os.path.realpath(path.parent)) / path.name
