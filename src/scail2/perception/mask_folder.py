"""The folder a mask store is written to: what may not be written over, and where older masks go."""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scail2.errors import InputError

TRACKS, LABELS, SUPERSEDED = "tracks.json", "labels", "superseded"
# Becomes tracks.json when everything is written: until then it says whose half-written files these are.
_UNFINISHED = f"{TRACKS}.part"
# What a store and the stages around it write; tracks.json last, so that an interrupted move leaves a store behind.
_WRITTEN = (
    "driving_mask", "driving_mask.mkv", "reference_mask.png", "additional_mask_[0-9]*.png", "reference.png",
    "additional_[0-9]*.png", "contact_sheet.png", "preflight.json", TRACKS,
)  # fmt: skip


@contextmanager
def claimed(directory: Path, inputs: Iterable[Path]) -> Iterator[None]:
    """Makes ``directory`` for a store to be written into it, and afterwards deletes the label maps in it.

    Args:
        directory: a new or empty folder, or one that holds masks (also half-written ones).
        inputs: files the masks are made from.

    Raises:
        InputError: the folder holds something else, or writing masks there would replace an input.
    """
    _check(directory, inputs)
    directory.mkdir(parents=True, exist_ok=True)
    mark = directory / _UNFINISHED
    mark.touch()
    try:
        yield
    finally:
        shutil.rmtree(directory / LABELS, ignore_errors=True)
        if (directory / TRACKS).exists() or list(directory.iterdir()) == [mark]:
            mark.unlink(missing_ok=True)


def _check(directory: Path, inputs: Iterable[Path]) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file: masks need a folder, choose another --output.")
    ours = (directory / _UNFINISHED).exists()
    if directory.exists() and any(directory.iterdir()) and not ours and not (directory / TRACKS).exists():
        raise InputError(
            f"{directory} holds other files and no masks (no {TRACKS}): choose a new or empty folder as --output, so that "
            "none of them is overwritten."
        )
    if (directory / LABELS).exists() and not ours:
        raise InputError(
            f"{directory / LABELS} is in the way: label maps are kept there for a while; move it or choose another --output."
        )
    written = [path.resolve() for path in _existing(directory)]
    for path in map(Path, inputs):
        place = path.resolve()
        if any(each == place or each in place.parents for each in written):
            raise InputError(
                f"{path} would be replaced by the masks written to {directory}: choose another --output, or copy the file "
                "elsewhere first."
            )


def set_aside(directory: Path) -> Path | None:
    """Moves the masks in a folder to its `superseded/VERSION`, a store of its own: somebody may have painted on them."""
    older = _existing(directory)
    if not older:
        return None
    versions = (directory / SUPERSEDED / str(number) for number in itertools.count(1))
    place = next(version for version in versions if not version.exists())
    place.mkdir(parents=True)
    for path in older:
        os.rename(path, place / path.name)
    return place


def _existing(directory: Path) -> list[Path]:
    return [path for pattern in _WRITTEN for path in sorted(directory.glob(pattern))]
