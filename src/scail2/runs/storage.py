"""Files that survive a crash: written beside, synced, renamed; and content hashes of what a run depends on."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scail2.errors import InputError

_BLOCK = 1 << 20


def write_json(path: Path, value: Any) -> None:
    """Replaces ``path`` atomically: a reader, or a crash, sees the old content or the new, never a part."""
    write_bytes(path, json_bytes(value, indent=2) + b"\n")


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """JSON in UTF-8; bytes of file names that are not UTF-8 become surrogates, from which `json.loads` gets them back."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="surrogatepass")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside ``path``, syncs to disk and renames over it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """The content of a JSON file; `InputError` when it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; is {path.parent} a run directory?") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); it must hold JSON.") from error


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
    os.rename(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, or of a folder's file names and contents in name order."""
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
        return digest([[str(each.relative_to(path)), hash_file(each)] for each in files])
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


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
