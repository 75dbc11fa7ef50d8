"""How far a long film strays: measures per segment, one number with a limit, a report.

Every later segment of a long film is conditioned on the last frames of the one before, so small errors of colour,
sharpness and identity add up. Each segment is therefore compared with the reference picture *and* with the first
segment; `docs/long-video.md` explains every number.
"""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scail2.drift.colour import ColourStatistics, as_float_frames, colour_statistics, luma
from scail2.drift.correction import CorrectionMode, correct
from scail2.drift.statistics import Difference, SegmentStatistics, compare, segment_statistics
from scail2.errors import InputError
from scail2.files.storage import json_bytes, write_bytes

if TYPE_CHECKING:
    import torch

__all__ = [
    "ColourStatistics",
    "CorrectionMode",
    "Difference",
    "DriftLimitExceeded",
    "DriftReport",
    "SegmentDrift",
    "SegmentStatistics",
    "check_limit",
    "colour_statistics",
    "compare",
    "correct",
    "measure_segment",
    "segment_statistics",
]

# A frame counts as repeated when it differs from the one before by less than this many grey levels of 255 (mean), or by
# less than this share of the segment's usual difference; so many repeats in a row make a frozen stretch.
_SAME_LEVEL, _SAME_SHARE, _FROZEN_FRAMES = 0.1, 0.05, 4
_QUIET = 0.25  # grey levels: the least "usual difference" that a seam is compared with


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentDrift:
    """The measures of one segment.

    Attributes:
        seam_energy: difference across the join to the previous segment, relative to the usual difference between
            neighbouring frames on both sides; 1 is unnoticeable, None for the first segment.
        motion: the usual (median) difference of neighbouring frames, grey levels of 255.
        repeated_frames: numbers (within the segment) of frames that repeat the one before.
        longest_freeze: length of the longest run of repeated frames.
    """

    index: int
    frames: int
    statistics: SegmentStatistics
    to_reference: Difference | None
    to_first: Difference
    seam_energy: float | None
    motion: float
    repeated_frames: tuple[int, ...]
    longest_freeze: int

    @property
    def score(self) -> float:
        """The drift that `--drift-limit` is about: :attr:`Difference.score` against the first segment."""
        return self.to_first.score

    @property
    def is_frozen(self) -> bool:
        """Four or more repeated frames in a row."""
        return self.longest_freeze >= _FROZEN_FRAMES

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "frames": self.frames,
            "score": self.score,
            "to_first": self.to_first.to_json(),
            "to_reference": None if self.to_reference is None else self.to_reference.to_json(),
            "seam_energy": self.seam_energy,
            "motion": self.motion,
            "repeated_frames": list(self.repeated_frames),
            "longest_freeze": self.longest_freeze,
            "statistics": self.statistics.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SegmentDrift":
        reference = values["to_reference"]
        return cls(
            index=values["index"],
            frames=values["frames"],
            statistics=SegmentStatistics.from_json(values["statistics"]),
            to_reference=None if reference is None else Difference.from_json(reference),
            to_first=Difference.from_json(values["to_first"]),
            seam_energy=values["seam_energy"],
            motion=values["motion"],
            repeated_frames=tuple(values["repeated_frames"]),
            longest_freeze=values["longest_freeze"],
        )


def measure_segment(
    frames: "np.ndarray | torch.Tensor",
    *,
    reference: "SegmentStatistics | np.ndarray | torch.Tensor | None",
    first_segment_stats: SegmentStatistics | None = None,
    previous_tail: "np.ndarray | torch.Tensor | None" = None,
    character_mask: np.ndarray | None = None,
    index: int = 0,
) -> SegmentDrift:
    """Measures one segment's new frames.

    Args:
        frames: float ``(T, 3, H, W)`` in [-1, 1] or uint8 ``(T, H, W, 3)``.
        reference: the reference picture's :func:`segment_statistics` (with its own mask), or the picture as one frame
            (shapes as ``frames`` with T = 1, or without the first dimension), or None.
        first_segment_stats: ``statistics`` of segment 0; None for segment 0 itself.
        previous_tail: the last frames before this segment (one is enough, two or more steady the usual difference).
        character_mask: bool ``(T, H, W)``, union of all characters.
        index: the segment's number.
    """
    statistics = segment_statistics(frames, character_mask)
    if reference is not None and not isinstance(reference, SegmentStatistics):
        reference = segment_statistics(reference if reference.ndim == 4 else reference[None])
    steps = _differences(frames)
    motion = float(np.median(steps)) if len(steps) else 0.0
    repeated = [i + 1 for i, step in enumerate(steps) if step < _SAME_LEVEL or step < _SAME_SHARE * motion]
    return SegmentDrift(
        index=index,
        frames=len(frames),
        statistics=statistics,
        to_reference=None if reference is None else compare(statistics, reference),
        to_first=compare(statistics, first_segment_stats or statistics),
        seam_energy=None if previous_tail is None else _seam_energy(frames, previous_tail, steps),
        motion=motion,
        repeated_frames=tuple(repeated),
        longest_freeze=_longest_run(repeated),
    )


def _differences(frames) -> list[float]:
    """Mean absolute luma difference of neighbouring frames, grey levels of 255."""
    steps, before = [], None
    for frame in as_float_frames(frames):
        grey = luma(frame)
        if before is not None:
            steps.append(float(np.abs(grey - before).mean(dtype=np.float64)))
        before = grey
    return steps


def _seam_energy(frames, previous_tail, steps: list[float]) -> float:
    join = [luma(next(as_float_frames(part))) for part in (previous_tail[-1:], frames[:1])]
    usual = [*steps, *_differences(previous_tail)]
    across = float(np.abs(join[1] - join[0]).mean(dtype=np.float64))
    return across / max(float(np.median(usual)) if usual else 0.0, _QUIET)


def _longest_run(numbers: list[int]) -> int:
    longest = run = 0
    for position, number in enumerate(numbers):
        run = run + 1 if position and number == numbers[position - 1] + 1 else 1
        longest = max(longest, run)
    return longest


# Deciding


class DriftLimitExceeded(InputError):  # noqa: N818 - an outcome of a run, not a fault
    """A segment strayed further from the first one than the limit allows; everything rendered is kept."""

    def __init__(self, drift: SegmentDrift, limit: float):
        self.drift, self.limit = drift, limit
        super().__init__(
            f"segment {drift.index} has drifted by {drift.score:.2f}, the limit is {limit:g}; everything rendered is kept: "
            "look at the drift plot, then resume with a higher --drift-limit or start again with --drift-correction"
        )


def check_limit(drift: SegmentDrift, limit: float | None) -> None:
    """Raises :class:`DriftLimitExceeded` if there is a limit and the segment's score is above it."""
    if limit is not None and drift.score > limit:
        raise DriftLimitExceeded(drift, limit)


@dataclass(slots=True)
class DriftReport:
    """The measures of a run's segments, in order; grows by one with each segment."""

    segments: list[SegmentDrift] = field(default_factory=list)

    def add(self, drift: SegmentDrift) -> None:
        """Adds a segment, or replaces the one of the same number (a re-rendered one)."""
        self.segments = sorted([s for s in self.segments if s.index != drift.index] + [drift], key=lambda s: s.index)

    @property
    def first(self) -> SegmentStatistics | None:
        """What the other segments are compared with."""
        return self.segments[0].statistics if self.segments and self.segments[0].index == 0 else None

    @property
    def worst(self) -> float | None:
        """The largest score after the first segment; None before the second."""
        return max((s.score for s in self.segments if s.index > 0), default=None)

    def rebase(self) -> "DriftReport":
        """The same with every segment compared with the present first one (after that was rendered again)."""
        if self.first is None:
            return self
        return DriftReport([replace(s, to_first=compare(s.statistics, self.first)) for s in self.segments])

    def to_json(self) -> dict[str, Any]:
        return {"worst": self.worst, "segments": [segment.to_json() for segment in self.segments]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DriftReport":
        return cls([SegmentDrift.from_json(segment) for segment in values["segments"]])

    def save(self, path: str | os.PathLike) -> None:
        """Writes the report as JSON, beside and then renamed."""
        path = Path(path)
        write_bytes(path, json_bytes(self.to_json(), indent=1) + b"\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "DriftReport":
        return cls.from_json(json.loads(Path(path).read_text()))
