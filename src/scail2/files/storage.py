"""Files that survive a crash: written beside, synced, renamed; and content hashes of what a run depends on."""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from scail2.errors import InputError
from scail2.files.documents import DocumentError, parse_json
from scail2.files.limits import DOCUMENT_BYTES

T = TypeVar("T")


def existing(folder: str | os.PathLike) -> Path:
    """The folder, or the nearest one above it that is there."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return place


def free_bytes(folder: str | os.PathLike) -> int:
    """Free on the disk a folder is on, or will be on."""
    return shutil.disk_usage(existing(folder)).free


def write_json(path: Path, value: Any) -> None:
    """Replaces ``path`` atomically: a reader, or a crash, sees the old content or the new, never a part."""
    write_bytes(path, json_bytes(value, indent=2) + b"\n")


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """JSON in UTF-8; bytes of file names that are not UTF-8 become surrogates, from which `json.loads` gets them back."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="surrogatepass")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside ``path``, under a name nobody can know in advance, syncs to disk and renames over it."""
    partial = temporary_name(path)
    try:
        with open(_open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a plain file: never follows a link, waits for a pipe or reads from a device.

    Raises:
        InputError: something else is there.
        OSError: it cannot be opened, which says nothing about its content.
    """
    try:
        descriptor = _open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) and not _is_plain(os.lstat(path)):
            raise _not_plain(path) from error
        raise
    if not _is_plain(os.fstat(descriptor)):
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _is_plain(facts: os.stat_result) -> bool:
    return stat.S_ISREG(facts.st_mode)


def _not_plain(path: Path) -> InputError:
    return InputError(f"{path} is a link or no plain file; nothing in a run is followed: remove it.")


def read_bytes(path: Path) -> bytes:
    """The content of a plain file; see `open_plain`."""
    with open(open_plain(path), "rb") as file:
        return file.read()


def is_present(path: Path) -> bool:
    """Whether something is at ``path``, links not followed; a folder that cannot be searched is an `OSError`, not a no."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, in name order; nothing if there is no such folder. Raises `OSError` when it cannot be read."""
    return sorted(os.listdir(folder)) if is_present(folder) else []


def stands(path: Path) -> bool:
    """Whether a file or folder is at ``path``, links followed; what cannot be looked at is an `OSError`, not a no."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_json(path: Path, kind: type[T], *, nonfinite: bool = False) -> T:
    """The content of a JSON file as ``kind`` (see `scail2.files.documents.decode`).

    Raises:
        DocumentError: it holds something else.
        OSError: it cannot be read.
    """
    with open(open_plain(path), "rb") as file:
        content = file.read(DOCUMENT_BYTES.value + 1)
    if len(content) > DOCUMENT_BYTES.value:
        raise DocumentError(f"{path} cannot be used: it is larger than a run's files are.")
    return parse_json(content, kind, path, nonfinite=nonfinite)


def sync_folder(folder: Path) -> None:
    """Makes renames and new names inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Makes every file of a folder, and the folder, durable."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def move_folder(source: Path, target: Path) -> None:
    """Renames a whole folder into place, durably; the target must not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _carry_over(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def _carry_over(source: Path, target: Path) -> None:
    """Moves a folder to another file system (a mounted `superseded/`), where it appears whole or not at all."""
    partial = temporary_name(target)
    try:
        shutil.copytree(source, partial, symlinks=True)
        sync_tree(partial)
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(source)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, or of a folder's file names and contents in name order."""
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
        return digest([[str(each.relative_to(path)), hash_file(each)] for each in files])
    # Given files may be links, but a pipe would be waited for without end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not _is_plain(os.fstat(descriptor)):
            raise InputError(f"{path} is no plain file (a pipe, a socket or a device); put a file or folder there.")
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_special(path: Path) -> None:
    """Raises `InputError` for a pipe, socket or device, links followed: opening one may wait, reading one never ends.

    What is absent is left to whoever opens it.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        kind = os.stat(path).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise InputError(f"{path} is no plain file (a pipe, a socket or a device); put a file or folder there.")


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def remove(path: Path) -> None:
    """Deletes a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_SENTENCES = {
    errno.ENOSPC: "the disk is full; free some space and resume, what was rendered is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and resume, what was rendered is kept",
    errno.EFBIG: "the file size limit is reached; raise it and resume, what was rendered is kept",
    errno.EACCES: "permission denied; choose another folder or change its permissions",
    errno.EPERM: "permission denied; choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "Input/output error; nothing was set aside because of it, try again when the disk is well",
    errno.ESTALE: "the network file system has lost it for now; nothing was set aside because of it, try again",
    errno.ENOENT: "it is not there (any more)",
}


@contextmanager
def plain_errors(action: str, path: Path) -> Iterator[None]:
    """Turns an operating system's refusal (full disk, permissions) into one `InputError` sentence."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever listened to the events went away; no file is concerned
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        reason = _SENTENCES.get(error.errno or 0, error.strerror or str(error))
        raise InputError(f"Cannot {action} {named}: {reason}.") from error


def nameless_file(folder: Path) -> BinaryIO:
    """An empty file to read and write on the disk of ``folder``, for this process alone: it is gone when it is closed, also
    by a kill, and no folder lists it. Raises `OSError` where nothing can be written."""
    return tempfile.TemporaryFile(dir=folder, buffering=0)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` for what is not finished yet: nobody can have put something there in advance."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
