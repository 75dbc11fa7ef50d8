"""Who is where: label maps of a clip's characters, and the tracks measured on them.

A label map is ``uint8 (T, H, W)``: 0 where no character is visible, k where track k (counted from 1) is. One pixel belongs
to at most one character, the one in front. Long clips stay on disk; only a window of frames is ever held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.request.masks import MAX_CHARACTERS

_CHUNK = 32


class LabelSource(Protocol):
    """Label maps readable window by window."""

    height: int
    width: int

    def __len__(self) -> int: ...

    def labels(self, start: int, stop: int) -> np.ndarray:
        """Label maps of frames [start, stop): uint8 (stop - start, H, W)."""
        ...


class ArrayLabels:
    """Label maps held in memory: pictures and short clips."""

    def __init__(self, labels: np.ndarray):
        if labels.ndim != 3 or labels.dtype != np.uint8:
            raise ValueError(f"labels must be uint8 (T, H, W), got {labels.dtype} {labels.shape}")
        self._labels = labels
        self.height, self.width = labels.shape[1:]

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self, start: int, stop: int) -> np.ndarray:
        return self._labels[start:stop]


class StoredLabels:
    """Label maps on disk, in compressed chunks of 32 frames written by `TrackRecorder`."""

    def __init__(self, directory: Path, total: int, height: int, width: int):
        self.directory, self.height, self.width = directory, height, width
        self._total = total
        self._cached: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._total

    def _chunk(self, index: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != index:
            with np.load(self.directory / f"labels_{index:05d}.npz") as stored:
                self._cached = (index, stored["labels"])
        return self._cached[1]

    def labels(self, start: int, stop: int) -> np.ndarray:
        stop = min(stop, self._total)
        parts = []
        for index in range(start // _CHUNK, -(-stop // _CHUNK)):
            first = index * _CHUNK
            parts.append(self._chunk(index)[max(start - first, 0) : stop - first])
        return np.concatenate(parts) if parts else np.zeros((0, self.height, self.width), np.uint8)


@dataclass(frozen=True, kw_only=True)
class CharacterTrack:
    """One character through a clip.

    Attributes:
        number: the name it goes by in bindings and contact sheets, counted from 1.
        boxes: float32 (T, 4), x0 y0 x1 y1 in pixels (x1, y1 exclusive), NaN in frames without the character.
        areas: int64 (T,), visible pixels.
        confidence: float32 (T,) in [0, 1]; NaN where absent.
        slot: the palette colour a given file painted it in, else None.
        name: a label for people, e.g. the file or the text prompt it came from.
    """

    number: int
    boxes: np.ndarray
    areas: np.ndarray
    confidence: np.ndarray
    slot: BindingSlot | None = None
    name: str = ""

    @property
    def present(self) -> np.ndarray:
        """bool (T,): the frames in which it is visible."""
        return self.areas > 0

    @property
    def first_frame(self) -> int:
        """First visible frame; -1 for a track that is never visible."""
        return int(np.argmax(self.present)) if self.present.any() else -1

    @property
    def last_frame(self) -> int:
        """Last visible frame; -1 for a track that is never visible."""
        return int(len(self.areas) - 1 - np.argmax(self.present[::-1])) if self.present.any() else -1

    @property
    def mean_confidence(self) -> float:
        """Mean over the visible frames; 0 for a track that is never visible."""
        return float(np.nanmean(self.confidence[self.present])) if self.present.any() else 0.0

    def centre_x(self, frame: int) -> float:
        """Horizontal box centre in pixels at `frame`, NaN when absent."""
        return float((self.boxes[frame, 0] + self.boxes[frame, 2]) / 2)

    def spans(self) -> list[tuple[int, int]]:
        """Runs of frames [start, stop) in which it is visible: more than one means that it left and came back."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.present.astype(np.int8), [0]])))
        return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@dataclass(frozen=True, kw_only=True)
class TrackedMasks:
    """The characters of a clip: label maps and one track for each.

    Attributes:
        labels: where the label maps are read from.
        tracks: tracks in label order: label k is ``tracks[k - 1]``.
        origin: what made them ("given palette", "given matte", "alpha", "embedded", "sam3", …).
        background: "white" or "black" where a given palette file says so, else None.
        warnings: sentences for the user.
    """

    labels: LabelSource
    tracks: tuple[CharacterTrack, ...]
    origin: str
    background: str | None = None
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def height(self) -> int:
        return self.labels.height

    @property
    def width(self) -> int:
        return self.labels.width

    def masks(self, start: int, stop: int) -> np.ndarray:
        """Visible pixels of every character in frames [start, stop): bool (S, T, H, W)."""
        labels = self.labels.labels(start, stop)
        return (
            np.stack([labels == number for number in range(1, len(self.tracks) + 1)])
            if self.tracks
            else (np.zeros((0, *labels.shape), bool))
        )

    def windows(self, length: int = _CHUNK) -> Iterator[tuple[int, np.ndarray]]:
        """Label maps from the first frame to the last, `length` frames at a time, as (start, labels)."""
        for start in range(0, len(self), length):
            yield start, self.labels.labels(start, min(start + length, len(self)))


def boxes_of(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 (T, count, 4) (NaN where absent) and areas int64 (T, count) of label maps uint8 (T, H, W)."""
    frames = len(labels)
    boxes = np.full((frames, count, 4), np.nan, np.float32)
    areas = np.zeros((frames, count), np.int64)
    for number in range(1, count + 1):
        mask = labels == number
        areas[:, number - 1] = mask.sum(axis=(1, 2))
        rows, columns = mask.any(axis=2), mask.any(axis=1)
        for frame in np.flatnonzero(areas[:, number - 1]):
            ys, xs = np.flatnonzero(rows[frame]), np.flatnonzero(columns[frame])
            boxes[frame, number - 1] = (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)
    return boxes, areas


class TrackRecorder:
    """Collects label maps window by window and measures the tracks on the way.

    Args:
        directory: where the label maps go; None keeps them in memory (pictures, short clips).
        height, width: size of every label map, in pixels.
    """

    def __init__(self, directory: Path | None, *, height: int, width: int):
        self.directory, self.height, self.width = directory, height, width
        self._pending: list[np.ndarray] = []
        self._kept: list[np.ndarray] = []
        self._chunks = 0
        self._total = 0
        self._boxes: list[np.ndarray] = []
        self._areas: list[np.ndarray] = []
        self._confidence: list[np.ndarray] = []
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def add(self, labels: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Appends frames: labels uint8 (T, H, W); confidence float (T, number of labels known so far) or None for 1."""
        if labels.shape[1:] != (self.height, self.width):
            raise ValueError(f"label maps of {labels.shape[1:]} do not fit {(self.height, self.width)}")
        count = int(labels.max(initial=0)) if confidence is None else confidence.shape[1]
        boxes, areas = boxes_of(labels, count)
        self._boxes.append(boxes)
        self._areas.append(areas)
        self._confidence.append(np.ones(areas.shape, np.float32) if confidence is None else confidence)
        self._total += len(labels)
        if self.directory is None:
            self._kept.append(labels)
            return
        self._pending.append(labels)
        self._flush(self.directory, final=False)

    def _flush(self, directory: Path, *, final: bool) -> None:
        waiting = sum(len(part) for part in self._pending)
        if waiting < _CHUNK and not (final and waiting):
            return
        joined = np.concatenate(self._pending)
        while len(joined) >= _CHUNK or (final and len(joined)):
            np.savez_compressed(directory / f"labels_{self._chunks:05d}.npz", labels=joined[:_CHUNK])
            self._chunks += 1
            joined = joined[_CHUNK:]
        self._pending = [joined] if len(joined) else []

    def _joined(self, parts: list[np.ndarray], count: int, fill: float) -> np.ndarray:
        padded = [
            np.concatenate(
                [part, np.full((len(part), count - part.shape[1], *part.shape[2:]), fill, part.dtype)], axis=1
            )
            for part in parts
        ]
        return np.concatenate(padded)

    def finish(
        self,
        origin: str,
        *,
        slots: Sequence[BindingSlot | None] = (),
        names: Sequence[str] = (),
        background: str | None = None,
        warnings: Sequence[str] = (),
    ) -> TrackedMasks:
        """Closes the record. `slots` and `names` go to the tracks in label order; raises when nothing was added."""
        if not self._total:
            raise InputError("the clip has no frames to segment.")
        count = max(max(part.shape[1] for part in self._areas), len(slots), len(names))
        boxes = self._joined(self._boxes, count, np.nan)
        areas = self._joined(self._areas, count, 0)
        confidence = self._joined(self._confidence, count, np.nan)
        confidence = np.where(areas > 0, confidence, np.nan).astype(np.float32)
        tracks = tuple(
            CharacterTrack(
                number=index + 1,
                boxes=boxes[:, index],
                areas=areas[:, index],
                confidence=confidence[:, index],
                slot=slots[index] if index < len(slots) else None,
                name=names[index] if index < len(names) else "",
            )
            for index in range(count)
        )
        if self.directory is None:
            source: LabelSource = ArrayLabels(np.concatenate(self._kept))
        else:
            self._flush(self.directory, final=True)
            source = StoredLabels(self.directory, self._total, self.height, self.width)
        return TrackedMasks(
            labels=source, tracks=tracks, origin=origin, background=background, warnings=tuple(warnings)
        )


def relabel(masks: TrackedMasks, order: Sequence[int], directory: Path | None = None) -> TrackedMasks:
    """The same clip with only the tracks numbered in `order`, renumbered 1, 2, … in that order."""
    table = np.zeros(MAX_CHARACTERS + 1, np.uint8)
    for new, old in enumerate(order, start=1):
        if not 1 <= old <= len(masks.tracks):
            raise InputError(f"there is no character {old}: the masks have characters 1 to {len(masks.tracks)}.")
        table[old] = new
    recorder = TrackRecorder(directory, height=masks.height, width=masks.width)
    kept = [masks.tracks[old - 1] for old in order]
    for start, labels in masks.windows():
        stop = start + len(labels)
        confidence = np.stack([track.confidence[start:stop] for track in kept], axis=1) if kept else None
        recorder.add(table[labels], confidence)
    renewed = recorder.finish(
        masks.origin,
        slots=[track.slot for track in kept],
        names=[track.name for track in kept],
        background=masks.background,
        warnings=masks.warnings,
    )
    return replace(renewed, tracks=renewed.tracks[: len(kept)])
