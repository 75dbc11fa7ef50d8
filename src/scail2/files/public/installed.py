"""The folder that public files are kept in, and what of it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from scail2.errors import InputError
from scail2.files.documents import load_json
from scail2.files.public import catalogue
from scail2.files.public.catalogue import DEFAULT_MODEL, ModelSet, PublicFile
from scail2.files.staging import atomic_file
from scail2.files.user_paths import expanded

VARIABLE = "SCAIL2_HOME"
RECEIPTS = ".scail2-files.json"
PARTIAL = ".scail2-partial"
_POINTER = "folder.json"
# Sizes on the Hub's pages have three digits.
_ROUNDING = 0.006


class FileState(StrEnum):
    """What is known about a file of the table on this disk."""

    INSTALLED = "installed"
    FOUND = "found"
    DAMAGED = "damaged"
    PARTIAL = "partly downloaded"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished download was: written after its bytes were compared with the hash that the Hub states."""

    repository: str
    path: str
    revision: str
    size: int
    digest: str


def data_folder() -> Path:
    """``$XDG_DATA_HOME/scail2``, by default ``~/.local/share/scail2``."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else expanded("~/.local/share")) / "scail2"


def model_folder() -> Path:
    """``$SCAIL2_HOME``, else the folder that `remember` noted, else `data_folder`.

    Raises InputError where the note cannot be understood.
    """
    if named := os.environ.get(VARIABLE):
        return expanded(named).absolute()
    pointer = data_folder() / _POINTER
    if not pointer.is_file():
        return data_folder()
    return expanded(load_json(pointer, _Pointer).folder).absolute()


@dataclass(frozen=True, slots=True)
class _Pointer:
    folder: str


def remember(folder: Path) -> None:
    """Makes ``folder`` the model folder of later commands (where `VARIABLE` does not say otherwise)."""
    if folder.absolute() == model_folder():
        return
    with atomic_file(data_folder() / _POINTER) as file:
        file.write(json.dumps({"folder": str(folder.absolute())}, indent=2).encode() + b"\n")


def receipts(folder: Path) -> Mapping[str, Receipt]:
    """Finished downloads by place."""
    path = folder / RECEIPTS
    return load_json(path, dict[str, Receipt]) if path.is_file() else {}


def keep_receipt(folder: Path, place: str, receipt: Receipt) -> None:
    """Adds one, or replaces the one of that place."""
    every = {name: asdict(each) for name, each in receipts(folder).items()} | {place: asdict(receipt)}
    with atomic_file(folder / RECEIPTS) as file:
        file.write(json.dumps(every, indent=2, sort_keys=True).encode() + b"\n")


def state_of(file: PublicFile, folder: Path, known: Mapping[str, Receipt] | None = None) -> FileState:
    """Whether a file is there, by its size: INSTALLED as it was downloaded and compared, FOUND if it was put there.

    DAMAGED is a file of another size than it was downloaded with, or than the table states.
    """
    receipt = (receipts(folder) if known is None else known).get(file.place)
    path = folder / file.place
    if not path.is_file():
        return FileState.PARTIAL if partial_files(file, folder) else FileState.MISSING
    size = path.stat().st_size
    if receipt is not None:
        return FileState.INSTALLED if size == receipt.size else FileState.DAMAGED
    if file.size is not None:
        return FileState.FOUND if size == file.size else FileState.DAMAGED
    rounded = file.gigabytes * 1e9
    fits = not file.verified or abs(size - rounded) <= _ROUNDING * rounded
    return FileState.FOUND if fits else FileState.DAMAGED


def partial_files(file: PublicFile, folder: Path) -> list[Path]:
    """What was downloaded of a file so far; the part after the last point but one is the hash it will have."""
    return sorted((folder / PARTIAL).glob(f"{file.place.replace('/', '+')}.*.part"))


def is_complete(files: ModelSet, folder: Path) -> bool:
    """Whether every file of a set is there."""
    known = receipts(folder)
    return all(state_of(each, folder, known) in (FileState.INSTALLED, FileState.FOUND) for each in files.files)


def converted_folder(files: ModelSet, folder: Path) -> Path:
    """Where the diffusers folder made of a set is kept: it loads faster, and needs the set's files no more."""
    return folder / "converted" / files.name


def is_converted(files: ModelSet, folder: Path) -> bool:
    """Whether there is such a folder."""
    return (converted_folder(files, folder) / "model_index.json").is_file()


def installed_model(name: str) -> Path | None:
    """The file or folder to load for a short name: `DEFAULT_MODEL`, or the name of one set. None for any other name.

    Raises InputError where the name is known but nothing complete is installed for it.
    """
    wanted = [each for each in catalogue.MODEL_SETS if name in (each.name, DEFAULT_MODEL)]
    if not wanted:
        return None
    folder = model_folder()
    for each in wanted:
        if is_converted(each, folder):
            return converted_folder(each, folder)
        if is_complete(each, folder):
            return folder / each.main
    raise InputError(
        f"The model {name} is not installed in {folder}: `scail2 setup` says which files it needs, "
        "`scail2 setup --download` fetches them, `scail2 models` lists what is there."
    )
