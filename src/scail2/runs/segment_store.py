"""Finished segments on disk: `segments/NNN/` appears whole or not at all.

A folder holds ``frames.mkv`` (FFV1, lossless), ``state.safetensors`` (the last output frames as float32, the noise
generator's state before and after), ``segment.json`` (`SegmentRecord`) and ``metrics.json``. It is written under
another name, synced, and renamed, so the folder's name itself is the mark of completeness.
"""

import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scail2.errors import InputError
from scail2.runs.segment_record import RECORD, SegmentRecord, read_record
from scail2.runs.storage import move_folder, read_json, remove, sync_tree, write_json
from scail2.video import VideoReader, VideoWriter

FRAMES, STATE, METRICS = "frames.mkv", "state.safetensors", "metrics.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentState:
    """What the next segment needs: float history (overlap, 3, H, W) in [-1, 1] and generator states (uint8)."""

    history: torch.Tensor
    generator_state: torch.Tensor
    next_generator_state: torch.Tensor

    def identity(self) -> str:
        """Hash of what decides the next segment: the float history and the generator state it starts with."""
        sha = hashlib.sha256()
        for tensor in (self.history, self.next_generator_state):
            array = np.ascontiguousarray(tensor.detach().cpu().numpy())
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(array.tobytes())
        return sha.hexdigest()


class SegmentStore:
    """The finished segments of a run, and the replaced ones under `superseded/`."""

    def __init__(self, folder: Path):
        self.folder = folder / "segments"
        self.superseded = folder / "superseded"

    def path(self, index: int) -> Path:
        """The folder of a finished segment."""
        return self.folder / f"{index:03d}"

    def record(self, index: int) -> SegmentRecord | None:
        """The record of a finished segment, None when it is not finished (or its files are gone); damage sets it aside."""
        folder = self.path(index)
        if not all((folder / name).exists() for name in (RECORD, STATE, FRAMES)):
            return None
        try:
            return read_record(folder)
        except InputError as error:
            raise self.set_aside(index, RECORD) from error

    def last_record(self, index: int) -> SegmentRecord | None:
        """The record of a segment's latest version, also when that is damaged or was set aside; None if there is none."""
        older = self.superseded.glob(f"{index:03d}-*")
        folders = [*sorted(older, key=lambda path: int(path.name.rsplit("-", 1)[1])), self.path(index)]
        known = [each for each in folders if (each / RECORD).exists()]
        with suppress(InputError):
            return read_record(known[-1]) if known else None
        return None

    def finished(self) -> list[int]:
        """Indices of all finished segments."""
        folders = self.folder.iterdir() if self.folder.exists() else ()
        return sorted(int(each.name) for each in folders if each.name.isdigit() and self.record(int(each.name)))

    def state(self, index: int) -> SegmentState:
        """Float history and generator states of a finished segment; damage sets the segment aside."""
        try:
            state = SegmentState(**load_file(self.path(index) / STATE))
        except (SafetensorError, TypeError) as error:
            raise self.set_aside(index, STATE) from error
        if state.identity() != self.record(index).state:
            raise self.set_aside(index, STATE)
        return state

    def frames(self, index: int) -> VideoReader:
        """A finished segment's new frames, a `FrameSource` of uint8 (T, H, W, 3)."""
        return VideoReader(self.path(index) / FRAMES)

    def metrics(self, index: int) -> dict[str, Any] | None:
        """The drift measurements of a finished segment, if they were made."""
        path = self.path(index) / METRICS
        return read_json(path) if path.exists() else None

    def write_metrics(self, index: int, metrics: dict[str, Any]) -> None:
        """Stores (or replaces) the drift measurements of a finished segment."""
        write_json(self.path(index) / METRICS, metrics)

    def save(self, record: SegmentRecord, frames: np.ndarray, state: SegmentState, fps: Fraction) -> None:
        """Writes a segment: uint8 frames (T, H, W, 3), state and record, all or nothing.

        A version already there moves to `superseded/`. Raises `OSError` when the disk refuses, leaving nothing behind.
        """
        partial = self.folder / f".{record.index:03d}.partial"
        remove(partial)
        partial.mkdir(parents=True)
        try:
            self._write(partial, record, frames, state, fps)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.supersede(record.index)
        move_folder(partial, self.path(record.index))

    def _write(
        self, partial: Path, record: SegmentRecord, frames: np.ndarray, state: SegmentState, fps: Fraction
    ) -> None:
        with VideoWriter(partial / FRAMES, fps, frames.shape[1:3], codec="ffv1") as writer:
            writer.write(frames)
        with _system_errors(partial / STATE):
            save_file({name: value.contiguous() for name, value in asdict(state).items()}, partial / STATE)
        write_json(partial / RECORD, asdict(record))
        written = VideoReader(partial / FRAMES)
        if len(written) != len(frames) or hash_frames(written.frames(0, len(frames))) != record.frames_sha256:
            raise InputError(
                f"The frames of segment {record.index} cannot be read back from {partial / FRAMES} as they were "
                "written; check the disk's health and free space, then resume."
            )
        sync_tree(partial)

    def supersede(self, index: int) -> Path | None:
        """Moves a finished segment out of the way, to `superseded/NNN-VERSION`, and returns its new place."""
        if not self.path(index).exists():
            return None
        for version in itertools.count(1):
            target = self.superseded / f"{index:03d}-{version}"
            if not target.exists():
                move_folder(self.path(index), target)
                return target
        raise AssertionError("unreachable")

    def set_aside(self, index: int, what: str) -> InputError:
        """Supersedes a damaged segment; the error to raise."""
        place = self.supersede(index)
        return InputError(f"Segment {index} has a damaged {what} and was set aside ({place}); resume to redo it.")

    def discard_partial(self) -> list[Path]:
        """Deletes what an interrupted write left behind and returns what it deleted."""
        leftovers = sorted(self.folder.glob(".*.partial")) if self.folder.exists() else []
        for path in leftovers:
            remove(path)
        return leftovers


class JoinedFrames:
    """Finished segments one after the other as one `FrameSource` (uint8, (T, H, W, 3)), opened one at a time."""

    def __init__(self, store: SegmentStore, indices: Sequence[int]):
        self._store = store
        self._indices = list(indices)
        lengths = [store.record(index).num_frames for index in self._indices]
        self._starts = [0, *itertools.accumulate(lengths)]

    def __len__(self) -> int:
        return self._starts[-1]

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) as uint8 (stop - start, H, W, 3)."""
        parts = []
        for index, first, last in zip(self._indices, self._starts, self._starts[1:], strict=False):
            low, high = max(start, first), min(stop, last)
            if low < high:
                parts.append(self._store.frames(index).frames(low - first, high - first))
        return np.concatenate(parts)

    def chunks(self, size: int = 16) -> Iterator[np.ndarray]:
        """All frames in order, at most ``size`` at a time."""
        for index in self._indices:
            yield from self._checked(index, size)

    def _checked(self, index: int, size: int) -> Iterator[np.ndarray]:
        """One segment's frames; damage on the disk since they were written sets the segment aside."""
        record = self._store.record(index)
        try:
            source = self._store.frames(index)
            sha = _frames_hash((len(source), source.height, source.width, 3))
            for start in range(0, len(source), size):
                chunk = source.frames(start, min(start + size, len(source)))
                sha.update(np.ascontiguousarray(chunk))
                yield chunk
            damaged = sha.hexdigest() != record.frames_sha256
        except InputError:
            damaged = True
        if damaged:
            raise self._store.set_aside(index, FRAMES)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """The operating system's refusals (a full disk) as `OSError`: safetensors only quotes them in its own error."""
    try:
        yield
    except SafetensorError as error:
        quoted = re.search(r"os error (\d+)", str(error))
        if quoted is None:
            raise InputError(f"{path} cannot be written: {error}.") from error
        number = int(quoted[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def hash_frames(frames: np.ndarray) -> str:
    """SHA-256 of uint8 frames (T, H, W, 3), shape included."""
    sha = _frames_hash(frames.shape)
    sha.update(np.ascontiguousarray(frames))
    return sha.hexdigest()


def _frames_hash(shape: tuple[int, ...]) -> "hashlib._Hash":
    """A hash that frames of this shape are to be added to, chunk by chunk."""
    return hashlib.sha256(str(tuple(shape)).encode())
