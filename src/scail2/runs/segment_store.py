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
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from scail2.errors import InputError
from scail2.files.documents import DocumentError
from scail2.files.storage import hash_file, is_present, move_folder, names_in, read_bytes, sync_tree, temporary_name
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.segment_record import RECORD, SegmentRecord, read_record
from scail2.video import VideoReader, VideoWriter

if TYPE_CHECKING:
    import torch

FRAMES, STATE, METRICS = "frames.mkv", "state.safetensors", "metrics.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentState:
    """What the next segment needs: float history (overlap, 3, H, W) in [-1, 1] and generator states (uint8)."""

    history: "torch.Tensor"
    generator_state: "torch.Tensor"
    next_generator_state: "torch.Tensor"

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
        if not all(is_present(folder / name) for name in (RECORD, STATE, FRAMES)):
            return None
        try:
            record = read_record(folder)
        except DocumentError as error:
            raise self.set_aside(index, RECORD) from error
        if record.index != index:
            raise self.set_aside(index, RECORD)
        return record

    def whole_record(self, index: int) -> SegmentRecord | None:
        """The record of a finished segment; None when there is none or it is damaged, which is left for others to find."""
        with suppress(DocumentError):
            record = read_record(self.path(index)) if is_present(self.path(index) / RECORD) else None
            return record if record is not None and record.index == index else None
        return None

    def last_record(self, index: int) -> SegmentRecord | None:
        """The record of a segment's latest version, also when that is damaged or was set aside; None if there is none.

        None, too, where the latest folder holds another segment: somebody exchanged them.
        """
        known = [each for each in self._versions(index) if is_present(each / RECORD)]
        with suppress(DocumentError):
            record = read_record(known[-1]) if known else None
            return record if record is not None and record.index == index else None
        return None

    def known_states(self, index: int) -> set[str]:
        """States of all versions of a segment, also replaced ones."""
        states = set()
        for folder in self._versions(index):
            with suppress(DocumentError):
                record = read_record(folder) if is_present(folder / RECORD) else None
                states |= {record.state} if record is not None and record.index == index else set()
        return states

    def _versions(self, index: int) -> list[Path]:
        """Folders of a segment's versions, oldest first, the present one last (there or not)."""
        names = [name for name in names_in(self.superseded) if re.fullmatch(rf"{index:03d}-\d+", name)]
        older = [self.superseded / name for name in sorted(names, key=lambda name: int(name.partition("-")[2]))]
        return [*older, self.path(index)]

    def finished(self) -> list[int]:
        """Indices of all finished segments."""
        numbers = sorted(int(name) for name in names_in(self.folder) if re.fullmatch(r"\d{3,9}", name))
        return [index for index in numbers if self.path(index).name in names_in(self.folder) and self.record(index)]

    def known(self, index: int) -> SegmentRecord:
        """The record of a segment that is finished. Raises `InputError` when it has gone since."""
        record = self.record(index)
        if record is None:
            raise InputError(
                f"Segment {index} in {self.folder} has gone while the run was worked on; resume to redo it."
            )
        return record

    def state(self, index: int) -> SegmentState:
        """Float history and generator states of a finished segment; damage sets the segment aside."""
        from safetensors.torch import load

        # Read first: a disk that does not answer is an `OSError`, and only what was read can be damaged.
        content = read_bytes(self.path(index) / STATE)
        record = self.known(index)
        try:
            state = SegmentState(**load(content))
            damaged = state.identity() != record.state
        except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
            raise self.set_aside(index, STATE) from error
        if damaged:
            raise self.set_aside(index, STATE)
        return state

    def frames(self, index: int) -> VideoReader:
        """A finished segment's new frames, a `FrameSource` of uint8 (T, H, W, 3)."""
        return VideoReader(self.path(index) / FRAMES)

    def unreadable(self, index: int, error: InputError) -> InputError:
        """What to raise when a segment's frames do not decode: damage, seen in the file's bytes, sets it aside.

        Raises `OSError` when the bytes cannot be read: decoders say no more than that they failed.
        """
        if hash_file(self.path(index) / FRAMES) == self.known(index).file_sha256:
            return error
        return self.set_aside(index, FRAMES)

    def metrics(self, index: int) -> dict[str, Any] | None:
        """The drift measurements of a finished segment, if they were made (and are whole: they can be made again)."""
        path = self.path(index) / METRICS
        with suppress(DocumentError):
            return read_sealed(path, dict[str, Any], nonfinite=True) if is_present(path) else None
        return None

    def write_metrics(self, index: int, metrics: dict[str, Any]) -> None:
        """Stores (or replaces) the drift measurements of a finished segment."""
        write_sealed(self.path(index) / METRICS, metrics)

    def save(self, record: SegmentRecord, frames: np.ndarray, state: SegmentState, fps: Fraction) -> None:
        """Writes a segment: uint8 frames (T, H, W, 3), state and record, all or nothing.

        A version already there moves to `superseded/`. Raises `OSError` when the disk refuses, leaving nothing behind.
        """
        partial = temporary_name(self.path(record.index))
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
        from safetensors.torch import save_file

        with VideoWriter(partial / FRAMES, fps, frames.shape[1:3], codec="ffv1") as writer:
            writer.write(frames)
        with _system_errors(partial / STATE):
            save_file({name: value.contiguous() for name, value in asdict(state).items()}, partial / STATE)
        file_sha256 = hash_file(partial / FRAMES)
        write_sealed(partial / RECORD, asdict(replace(record, file_sha256=file_sha256)))
        written = VideoReader(partial / FRAMES)
        if len(written) != len(frames) or hash_frames(written.frames(0, len(frames))) != record.frames_sha256:
            raise InputError(
                f"The frames of segment {record.index} cannot be read back from {partial / FRAMES} as they were "
                "written; check the disk's health and free space, then resume."
            )
        sync_tree(partial)

    def supersede(self, index: int) -> Path | None:
        """Moves a finished segment out of the way, to `superseded/NNN-VERSION`, and returns its new place."""
        if not is_present(self.path(index)):
            return None
        for version in itertools.count(1):
            target = self.superseded / f"{index:03d}-{version}"
            if not is_present(target):
                move_folder(self.path(index), target)
                return target
        raise AssertionError("unreachable")

    def set_aside(self, index: int, what: str) -> InputError:
        """Supersedes a damaged segment; the error to raise."""
        place = self.supersede(index)
        return InputError(f"Segment {index} has a damaged {what} and was set aside ({place}); resume to redo it.")


class JoinedFrames:
    """Finished segments one after the other as one `FrameSource` (uint8, (T, H, W, 3)), opened one at a time."""

    def __init__(self, store: SegmentStore, indices: Sequence[int]):
        self._store = store
        self._indices = list(indices)
        lengths = [store.known(index).num_frames for index in self._indices]
        self._starts = [0, *itertools.accumulate(lengths)]
        self._opened: tuple[int, VideoReader] | None = None

    @property
    def height(self) -> int:
        """Pixels."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self._size[1]

    @cached_property
    def _size(self) -> tuple[int, int]:
        first = self._source(self._indices[0])
        return first.height, first.width

    def __len__(self) -> int:
        return self._starts[-1]

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) as uint8 (stop - start, H, W, 3)."""
        parts = []
        for index, first, last in zip(self._indices, self._starts, self._starts[1:], strict=False):
            low, high = max(start, first), min(stop, last)
            if low < high:
                parts.append(self._source(index).frames(low - first, high - first))
        return np.concatenate(parts)

    def _source(self, index: int) -> VideoReader:
        """A segment's frames; its file stays open until another's are read."""
        if self._opened is None or self._opened[0] != index:
            if self._opened is not None:
                self._opened[1].close()
            self._opened = (index, self._store.frames(index))
        return self._opened[1]

    def chunks(self, size: int = 16) -> Iterator[np.ndarray]:
        """All frames in order, at most ``size`` at a time."""
        for index in self._indices:
            yield from self._checked(index, size)

    def _checked(self, index: int, size: int) -> Iterator[np.ndarray]:
        """One segment's frames; damage on the disk since they were written sets the segment aside."""
        record = self._store.known(index)
        try:
            source = self._store.frames(index)
            sha = _frames_hash((len(source), source.height, source.width, 3))
            for start in range(0, len(source), size):
                chunk = source.frames(start, min(start + size, len(source)))
                sha.update(np.ascontiguousarray(chunk).data)
                yield chunk
            damaged = sha.hexdigest() != record.frames_sha256
        except InputError as error:
            raise self._store.unreadable(index, error) from error
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
    sha.update(np.ascontiguousarray(frames).data)
    return sha.hexdigest()


def _frames_hash(shape: tuple[int, ...]) -> "hashlib._Hash":
    """A hash that frames of this shape are to be added to, chunk by chunk."""
    return hashlib.sha256(str(tuple(shape)).encode())
