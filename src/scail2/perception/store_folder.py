"""The folder a mask store is written to: what may not be written over, and where older masks go."""

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.files.documents import load_json
from scail2.files.ownership import Kind, check_folder, claimed_folder, is_document
from scail2.files.staging import Staging, exchange

TRACKS, LABELS = "tracks.json", "labels"
# What a store and the stages around it write.
_WRITTEN = (
    "driving_mask", "driving_mask.mkv", "reference_mask.png", "additional_mask_[0-9]*.png", "reference.png",
    "additional_[0-9]*.png", "contact_sheet.png", "preflight.json", TRACKS,
)  # fmt: skip
MASKS = Kind(
    "masks",
    f"{TRACKS} of scail2",
    lambda folder: is_document(folder / TRACKS, {"version", "mode", "source_hash", "binding"}),
)


@contextmanager
def claimed(directory: Path, inputs: Iterable[Path]) -> Iterator[Path]:
    """Holds ``directory`` and yields a folder to make a store in, whose files then replace those in ``directory``.

    Older masks move to `superseded/`; label maps are dropped. Nothing changes when the block ends with an error.

    Args:
        directory: a new or empty folder, or one that holds masks.
        inputs: files the masks are made from.

    Raises:
        InputError: the folder holds something else or is in use, or writing masks there would replace an input.
    """
    check_folder(directory, MASKS)
    _keep_inputs(directory, inputs)
    with claimed_folder(directory, MASKS) as folder, replacing(folder) as made:
        yield made
        shutil.rmtree(made / LABELS, ignore_errors=True)


def unfreezing(directory: Path) -> str:
    """The command that lets frozen masks be changed again."""
    return f"scail2 masks unfreeze {shlex.quote(str(directory))}"


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """Yields a folder to make a store in; at the end its files are moved to ``directory``, and older ones set aside."""
    if (directory / TRACKS).exists() and load_json(directory / TRACKS, dict[str, Any]).get("frozen"):
        raise InputError(
            f"the masks in {directory} are frozen: write to another folder, or run {unfreezing(directory)} first."
        )
    with Staging(directory / "masks") as staging:
        staging.place.mkdir()
        yield staging.place
        exchange(staging, directory, [path.name for path in _existing(directory)], TRACKS)


def _keep_inputs(directory: Path, inputs: Iterable[Path]) -> None:
    """Refuses a store in which an input would be replaced."""
    written = [path.resolve() for path in _existing(directory)]
    for path in map(Path, inputs):
        place = path.resolve()
        if any(each == place or each in place.parents for each in written) or _is_inside(directory, path):
            raise InputError(
                f"{path} would be replaced by the masks written to {directory}: choose another --output, or copy the file "
                "elsewhere first."
            )


def _is_inside(directory: Path, path: Path) -> bool:
    """Whether the masks would go into a folder that is itself an input (of frames)."""
    return path.is_dir() and os.path.realpath(path) in map(str, Path(os.path.realpath(directory), "x").parents)


def _existing(directory: Path) -> list[Path]:
    return [path for pattern in _WRITTEN for path in sorted(directory.glob(pattern))]
