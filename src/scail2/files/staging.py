"""Temporaries: outputs are made in a marked folder beside their place and renamed when whole.

The mark is a file that its process keeps locked: a locked mark is being worked on, an unlocked one was left by a process
that died, and a folder without the mark is the user's, whatever its name. Several files that belong together replace
their predecessors by `exchange`, which `roll_back` undoes where it was interrupted.
"""

import fcntl
import filecmp
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from scail2.errors import InputError
from scail2.files.disk_errors import named
from scail2.files.documents import DocumentError, load_json

SUPERSEDED = "superseded"
_MARK, _EXCHANGE = ".scail2-staging", "exchange.json"
_VANISHED = 100
_NAME = re.compile(r"\..*\.[0-9a-f]{16}\.partial", re.DOTALL)
_MARK_BYTES = 1024


class Staging:
    """A new hidden folder beside ``target`` in which it is made; `publish` renames it into place, `close` removes the rest.

    Attributes:
        folder: the folder.
        place: where to make the target (a file or a folder), under its own name.
    """

    def __init__(self, target: Path):
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder, mark = _marked_folder(target)
        self._mark: int | None = mark
        self.place = self.folder / target.name

    def publish(self) -> None:
        """Renames what was made over the target, which must be absent, a file for a file, or an empty folder."""
        os.replace(self.place, self.target)

    def close(self) -> None:
        """Removes what was not published."""
        if self._mark is not None:
            _remove_staging(self.folder)
            os.close(self._mark)
            self._mark = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        # Before the rest is removed: whether the disk is full is looked up.
        told = None if error is None else named(error, self.target, self.folder)
        self.close()
        if told is not None:
            raise told from error


def _marked_folder(target: Path) -> tuple[Path, int]:
    """A new staging folder and the descriptor of its locked mark."""
    vanished = 0
    while True:
        folder = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.partial")
        folder.mkdir()
        mark = folder / _MARK
        try:
            descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            vanished += 1  # taken for a dead process's empty folder; or no file can be made there at all
            if vanished > _VANISHED:
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, os.fsencode(target.name))
            if still_named(descriptor, mark):
                return folder, descriptor
        except BlockingIOError:
            pass  # somebody who sweeps found it unlocked
        except BaseException:
            os.close(descriptor)
            _remove_staging(folder)
            raise
        os.close(descriptor)


@contextmanager
def dead_staging(folder: Path, name: str | None = None) -> Iterator[list[Path]]:
    """Staging folders in ``folder`` whose process died, held so that nobody else takes them; of ``name`` only, if given."""
    found, descriptors = [], []
    try:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if not _NAME.fullmatch(path.name) or path.is_symlink():
                continue
            try:
                descriptor = os.open(path / _MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                with suppress(OSError):
                    path.rmdir()  # killed before it was marked: such a folder is empty; any other is not ours
                continue
            descriptors.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # somebody works in it
            if name is None or os.pread(descriptor, _MARK_BYTES, 0) in (b"", os.fsencode(name)):
                found.append(path)
        yield found
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def sweep(folder: Path, name: str | None = None) -> None:
    """Removes what dead processes left in ``folder``: of one output's ``name``, or all (in a folder that is one's own)."""
    with dead_staging(folder, name) as found:
        for path in found:
            _remove_staging(path)


def is_staging(path: Path) -> bool:
    """Whether a path is a temporary of this program: neither the user's nor part of an output."""
    if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    # Killed before it was marked, such a folder is empty.
    return os.path.lexists(path / _MARK) or not any(path.iterdir())


def still_named(descriptor: int, path: Path) -> bool:
    """Whether the opened file is still the one under its name: the last owner removes it when it lets go."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove_staging(folder: Path) -> None:
    """Deletes the folder, its mark last: a deletion that is interrupted can be taken up again."""
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.name != _MARK:
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        (folder / _MARK).unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that appears under its name only when the block ends without an error, on disk before it is named."""
    with Staging(Path(path)) as staging:
        with staging.place.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.publish()


# ---- replacing what is there ------------------------------------------------------------------------------------------


def exchange(staging: Staging, folder: Path, older: Sequence[str], last: str) -> Path | None:
    """Moves every file of ``staging.place`` into ``folder``, and those they replace to `superseded/N` in it.

    Where old and new files are the same, byte for byte, nothing is moved.

    Args:
        older: names in ``folder`` that are replaced.
        last: the file that makes the others an output; it is moved last. Until it is there, `roll_back` undoes the rest.

    Returns:
        The folder of the replaced files; None where there are none.
    """
    new = sorted(os.listdir(staging.place), key=lambda name: (name == last, name))
    if _are_same(staging.place, new, folder, older):
        return None
    aside = _free_place(folder) if older else None
    record = {
        "made": staging.place.name,
        "last": last,
        "aside": aside.name if aside else None,
        "older": list(older),
        "new": {name: _identity(staging.place / name) for name in new},
    }
    with (staging.folder / _EXCHANGE).open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    if aside is not None:
        aside.mkdir(parents=True)
        for name in sorted(older, key=lambda name: (name == last, name)):
            os.rename(folder / name, aside / name)
    for name in new:
        os.rename(staging.place / name, folder / name)
    return aside


def roll_back(folder: Path) -> None:
    """Undoes the exchanges that dead processes left half-way in ``folder``: every replaced file is back in its place."""
    with dead_staging(folder) as found:
        for path in found:
            with suppress(
                DocumentError, OSError
            ):  # none was begun, or its record was not whole: nothing had been moved
                _undo(load_json(path / _EXCHANGE, dict[str, Any]), path, folder)


def _undo(record: dict[str, Any], staging: Path, folder: Path) -> None:
    made = staging / record["made"]
    if not os.path.lexists(made / record["last"]):
        return  # it was complete
    for name, identity in record["new"].items():
        if os.path.lexists(folder / name) and not os.path.lexists(made / name) and _identity(folder / name) == identity:
            os.rename(folder / name, made / name)
    if record["aside"] is None:
        return
    aside = folder / SUPERSEDED / record["aside"]
    for name in record["older"]:
        if os.path.lexists(aside / name) and not os.path.lexists(folder / name):
            os.rename(aside / name, folder / name)
    for emptied in (aside, aside.parent):
        with suppress(OSError):
            emptied.rmdir()


def _are_same(made: Path, new: Sequence[str], folder: Path, older: Sequence[str]) -> bool:
    if set(new) != set(older):
        return False
    pairs = [(made / name, folder / name) for name in new]
    return all(
        old.is_file() and not old.is_symlink() and filecmp.cmp(fresh, old, shallow=False) for fresh, old in pairs
    )


def _identity(path: Path) -> list[int]:
    """What a rename keeps and an edit changes."""
    facts = os.lstat(path)
    return [facts.st_ino, facts.st_size, facts.st_mtime_ns]


def _superseded(folder: Path) -> Path:
    place = folder / SUPERSEDED
    if place.is_symlink():
        raise InputError(f"{place} is a link: replace it by a folder of its own.")
    return place


def _free_place(folder: Path) -> Path:
    place, number = _superseded(folder), 1
    while os.path.lexists(place / str(number)):
        number += 1
    return place / str(number)


def set_aside(path: Path) -> Path:
    """Moves a file or folder to `superseded/NAME-N` beside it, so that nothing that may be of value is deleted."""
    folder, number = _superseded(path.parent), 1
    while os.path.lexists(target := folder / f"{path.stem}-{number}{path.suffix}"):
        number += 1
    folder.mkdir(exist_ok=True)
    os.rename(path, target)
    return target
