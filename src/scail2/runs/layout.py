"""Which names a run consists of: nothing else in its folder is written, followed or deleted.

A run directory is given away, unpacked from archives and kept on shared disks, so whatever lies in it may have been put
there by somebody: a link that leads elsewhere, a pipe that never answers, files of the user's own.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scail2.errors import InputError
from scail2.files.ownership import LOCK
from scail2.request.animation import AnimationRequest
from scail2.request.paths import lies_inside

_RANDOM = r"(?:\.[0-9a-f]{8})?"  # runs of earlier versions named their temporaries without it
_SEGMENT = r"(?:frames\.mkv|state\.safetensors|segment\.json|metrics\.json)"
_MASK = (
    r"(?:(?:reference|reference_mask|additional_\d+|additional_mask_\d+|contact_sheet)\.png|driving_mask\.mkv"
    r"|(?:tracks|preflight)\.json)"
)
_STORE = r"(?:(?:masks|superseded/masks-\d+)(?:/superseded/\d+)?)"
_FRAMES = r"(?:driving_mask|superseded/driving_mask-\d+)"
_TEMPORARY = rf"(?:segments/\.\d+{_RANDOM}\.partial|\.(?:masks|labels|drift){_RANDOM}\.partial)"
_TOP = r"(?:(?:request|inputs|stages|plan|model|pending|budget|drift)\.json|drift\.png|journal\.jsonl|embeddings\.safetensors)"
EMBEDDINGS = "embeddings.safetensors"
# The order to render a segment again, until that is done.
PENDING = "pending.json"


@dataclass(frozen=True, slots=True)
class _Place:
    """A pattern of relative paths, and what is there."""

    pattern: re.Pattern[str]
    folder: bool = False
    temporary: bool = False
    made: bool = True  # False: read where it is, but perhaps the user's own, so never deleted

    @classmethod
    def of(cls, pattern: str, **facts: bool) -> "_Place":
        return cls(re.compile(pattern), **facts)


_PLACES = (
    _Place.of(_TOP),
    _Place.of(re.escape(LOCK)),
    _Place.of(r"segments|superseded|masks", folder=True),
    _Place.of(r"segments/\d+|superseded/\d+-\d+", folder=True),
    _Place.of(rf"(?:segments/\d+|superseded/\d+-\d+)/{_SEGMENT}"),
    _Place.of(rf"{_STORE}|(?:masks|superseded/masks-\d+)/superseded", folder=True),
    _Place.of(rf"{_STORE}/{_MASK}"),
    _Place.of(rf"{_STORE}/{_FRAMES}", folder=True),
    _Place.of(rf"{_STORE}/{_FRAMES}/\d{{6}}\.png"),
    _Place.of(rf"{_STORE}/{_FRAMES}/.*", made=False),
    # What an interrupted write leaves behind.
    _Place.of(rf"\.(?:{_TOP}){_RANDOM}\.partial|\.drift\.(?:json|png)\.part", temporary=True),
    _Place.of(rf"segments/\d+/\.{_SEGMENT}{_RANDOM}\.partial|{_STORE}/\.{_MASK}{_RANDOM}\.partial", temporary=True),
    _Place.of(_TEMPORARY, folder=True, temporary=True),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a run that bears one of the run's own names."""

    path: Path
    relative: str
    facts: os.stat_result  # of the entry itself, links not followed
    folder: bool  # what the name stands for, not what is there
    temporary: bool
    made: bool

    @property
    def is_genuine(self) -> bool:
        """Whether it is what the run would have put there: a plain file, or a folder."""
        return stat.S_ISDIR(self.facts.st_mode) if self.folder else stat.S_ISREG(self.facts.st_mode)


def entries(root: Path) -> Iterator[Entry]:
    """Everything under the run's own names, folders before their content; nothing is followed.

    Raises `OSError` for a folder that cannot be read: what cannot be seen must not count as missing.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as found:
            names = sorted(each.name for each in found)
        for name in names:
            relative = f"{folder}/{name}" if folder else name
            place = next((each for each in _PLACES if each.pattern.fullmatch(relative)), None)
            if place is None:
                continue
            path = root / relative
            facts = os.lstat(path)
            yield Entry(path, relative, facts, place.folder, place.temporary, place.made)
            # A temporary folder bears a name that only the run gives, so all of it is the run's.
            if place.folder and not place.temporary and stat.S_ISDIR(facts.st_mode):
                waiting.append(relative)


def what_lacks(path: Path) -> str:
    """Why a path is no run, and what to name instead."""
    if path.is_dir():
        return "it has no request.json; name the folder that `scail2 animate` or `scail2 replace` made"
    if not path.exists():
        return "there is nothing; name the folder that `scail2 animate` or `scail2 replace` made, such as film.run"
    run = path.with_suffix(".run")
    return f"it is a file; name the run's folder, {run if run.is_dir() else 'such as film.run'}"


def is_own(path: Path, root: Path) -> bool:
    """Whether ``path`` is one of the run's own files or folders, or lies in one that the run may delete."""
    place, inside = os.path.realpath(path), os.path.realpath(root)
    relative = os.path.relpath(place, inside)
    return any(each.pattern.fullmatch(relative) and each.made for each in _PLACES)


def check_genuine(root: Path) -> None:
    """Refuses a run in which one of its own names is a link, a pipe, a device, or a file for a folder or the reverse."""
    for each in entries(root):
        if not each.is_genuine:
            wanted = "folder" if each.folder else "plain file"
            raise InputError(
                f"{each.path} is {_word(each.facts.st_mode)}, where a run keeps a {wanted} of its own; nothing in a run is "
                "followed: remove it, or put the original back."
            )


def _word(mode: int) -> str:
    words = {
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFSOCK: "a socket",
    }
    return words.get(stat.S_IFMT(mode), "a device")


def used_bytes(root: Path, under: str = "") -> int:
    """Bytes of the run's own plain files (of those in the folder ``under``)."""
    wanted = f"{under}/" if under else ""
    return sum(
        each.facts.st_size
        for each in entries(root)
        if not each.folder and each.is_genuine and each.relative.startswith(wanted)
    )


def delete(doomed: Iterable[Entry], protected: Iterable[Path] = ()) -> int:
    """Deletes what the run itself made among ``doomed`` and returns the bytes given back.

    Links, pipes and names that are not the run's stay, as do folders that are not empty afterwards, and whatever is, or
    lies in, one of the ``protected`` paths. A file that has another name elsewhere gives nothing back.
    """
    kept = [Path(os.path.realpath(each)) for each in protected]
    freed = 0
    for each in sorted(doomed, key=lambda entry: entry.relative.count("/"), reverse=True):
        place = Path(os.path.realpath(each.path.parent)) / each.path.name
        if not (each.made and each.is_genuine) or any(one == place or one in place.parents for one in kept):
            continue
        if each.folder and each.temporary and not any(place in one.parents for one in kept):
            freed += _plain_bytes(each.path)
            shutil.rmtree(each.path)
        elif each.folder:
            if not os.listdir(each.path):
                os.rmdir(each.path)
        else:
            os.unlink(each.path)
            freed += each.facts.st_size if each.facts.st_nlink == 1 else 0
    return freed


def _plain_bytes(folder: Path) -> int:
    """Bytes that deleting a folder gives back: of its plain files without another name, nothing followed."""
    found = [os.lstat(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names]
    return sum(each.st_size for each in found if stat.S_ISREG(each.st_mode) and each.st_nlink == 1)


def keep_apart(path: Path, request: AnimationRequest) -> None:
    """Refuses a run directory around the output, or inside it: deleting or replacing one would destroy the other.

    An input may lie in there, but not under a name of the run's own, which the run replaces, moves aside and deletes.
    """
    for name, given in request.input_files:
        if is_own(given, path):
            raise InputError(
                f"The {name} {given} is one of the run directory's own files, which the run replaces; copy it elsewhere, or "
                "leave it out where the run made it."
            )
        if given.is_dir() and lies_inside(path, given):
            raise InputError(f"The run directory {path} would lie inside the {name} folder {given}; choose another.")
    for output in request.outputs:
        if lies_inside(output, path):
            raise InputError(
                f"The output {output} would lie inside the run directory {path}, which may be deleted; choose another "
                "--output or --run-dir."
            )
        if lies_inside(path, output):
            raise InputError(
                f"The run directory {path} would lie inside the output {output}; choose another --run-dir."
            )
