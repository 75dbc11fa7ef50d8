"""What the operating system refuses, in one sentence with the path.

Libraries hide such refusals in errors of their own (safetensors, torch's archives) or leave the path out (a full disk is
noticed while writing, where only a number is known): `naming` puts both right where a file is written.
"""

import errno
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file size limit is reached; raise it",
    errno.EACCES: "permission denied; choose another place or change its permissions",
    errno.EPERM: "permission denied; choose another place or change its permissions",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOENT: "there is no such file or folder",
    errno.EEXIST: "something else is in the way there; choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links go round in a circle, or a link is in the way",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.EIO: "the disk reports an input or output error",
    errno.ESTALE: "the network file system lost it; try again",
}
# What only a write can be refused for.
WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
# safetensors: "I/O error: No space left on device (os error 28)", or Rust's own form of it.
_NUMBER = re.compile(r"os error (\d+)|Os \{ code: (\d+)")
# torch's archive writer says only that it failed.
_ARCHIVE = re.compile(r"PytorchStreamWriter|inline_container|file write failed")


def reason(error: OSError) -> str:
    """Why, and what to do, without the path and without a full stop."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def sentence(error: OSError) -> str:
    """One sentence: the path (both, for a rename) where it is known, and the reason."""
    names = [os.fsdecode(each) for each in (error.filename, error.filename2) if isinstance(each, str | bytes)]
    return f"{' and '.join(names)}: {reason(error)}." if names else f"{reason(error).capitalize()}."


def as_system_error(error: BaseException, place: Path | None = None) -> OSError | None:
    """The operating system's error behind a library's own, None where there is none.

    ``place`` is where something was being written: it tells a full disk from other failures of torch's archives.
    """
    if isinstance(error, OSError):
        return error
    text = str(error)
    if found := _NUMBER.search(text):
        number = int(found[1] or found[2])
    elif isinstance(error, RuntimeError) and _ARCHIVE.search(text):
        number = errno.ENOSPC if place is not None and _is_full(place) else errno.EIO
    else:
        return None
    return OSError(number, os.strerror(number))


def _is_full(place: Path) -> bool:
    while not place.exists() and place != place.parent:
        place = place.parent
    facts = os.statvfs(place)
    return facts.f_bavail * facts.f_frsize < 1 << 20


@contextmanager
def naming(path: str | Path, only: Collection[int] | None = None) -> Iterator[None]:
    """Errors of the operating system raised in the block carry a path: ``path``, where they have none of their own.

    ``only`` these numbers; `WRITING` for a block that also reads other files.
    """
    try:
        yield
    except Exception as error:
        found = named(error, Path(path))
        if found is None or (only is not None and found.errno not in only):
            raise
        raise found from error


def named(error: BaseException, path: Path, temporary: Path | None = None) -> OSError | None:
    """The operating system's error behind ``error`` with ``path`` as its place; None where nothing is to be added.

    ``temporary`` is where the file at ``path`` is made: nobody knows that place, so ``path`` stands for it.
    """
    found = as_system_error(error, path if temporary is None else temporary)
    if found is None or found.errno is None or isinstance(found, BrokenPipeError):
        return None
    if isinstance(found.filename, str | bytes):
        place = Path(os.fsdecode(found.filename))
        if temporary is None or not place.is_relative_to(temporary):
            return None
    return OSError(found.errno, os.strerror(found.errno), os.fspath(path))
