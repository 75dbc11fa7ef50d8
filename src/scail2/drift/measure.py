"""How far a long film strays: measures per segment, one number with a limit, a report.

Every later segment of a long film is conditioned on the last frames of the one before, so small errors of colour,
sharpness and identity add up. Each segment is therefore compared with the reference picture *and* with the first
segment; `docs/long-video.md` explains every number.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scail2.drift.colour import ColourStatistics, colour_statistics
from scail2.drift.correction import CorrectionMode, correct
from scail2.drift.driving import DrivingMeasures
from scail2.drift.glance import Glance
from scail2.drift.motion import MotionError
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
_AROUND = 3  # steps before and after a join that it has to stand out of
_GOES_ON = 0.5  # of the driving video's usual difference: it moves as usual


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentDrift:
    """The measures of one segment.

    Attributes:
        seam_energy: difference across the join to the previous segment, relative to the usual difference between
            neighbouring frames on both sides; 1 is unnoticeable, None for the first segment.
        seam_jump: difference across the join relative to the largest of the three differences before and after it, and that
            relative to the driving video's own at this place, where that is above 1; None for the first segment.
        seam_colour: how far the whole picture changes colour across the join, grey levels of 255; None for the first segment.
        motion: the usual (median) difference of neighbouring frames, grey levels of 255.
        repeated_frames: numbers (within the segment) of frames that repeat the one before.
        longest_freeze: length of the longest run of repeated frames.
        stalled: the longest run of four or more of them, first and last, during which the driving video moves as usual.
        flicker: the largest change of the picture that is taken back one or two frames later, grey levels; None (and nothing
            in the three before) where a run of an earlier version was not measured for it.
        flicker_frame: where that is; counted within the segment, below 0 for the last frames before it.
        driving: statistics of the driving video's frames; driving_to_first: against those of its first segment. None where
            they are unknown.
        motion_error: joints against the driving video's; None where nobody asked.
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
    seam_jump: float | None = None
    seam_colour: float | None = None
    stalled: tuple[int, int] | None = None
    flicker: float | None = None
    flicker_frame: int = 0
    driving: SegmentStatistics | None = None
    driving_to_first: Difference | None = None
    motion_error: MotionError | None = None

    @property
    def unexplained(self) -> dict[str, float]:
        """The parts of the drift against the first segment, less what the driving video itself changes of each."""
        explained = {} if self.driving_to_first is None else self.driving_to_first.parts
        return {name: max(0.0, part - explained.get(name, 0.0)) for name, part in self.to_first.parts.items()}

    @property
    def score(self) -> float:
        """The drift, wherever it is told, judged or limited: the largest of `unexplained`."""
        return max(self.unexplained.values())

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
            "seam_jump": self.seam_jump,
            "seam_colour": self.seam_colour,
            "stalled": None if self.stalled is None else list(self.stalled),
            "flicker": self.flicker,
            "flicker_frame": self.flicker_frame,
            "driving": None if self.driving is None else self.driving.to_json(),
            "driving_to_first": None if self.driving_to_first is None else self.driving_to_first.to_json(),
            "motion_error": None if self.motion_error is None else self.motion_error.to_json(),
            "statistics": self.statistics.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SegmentDrift":
        reference, motion_error, stalled = values["to_reference"], values.get("motion_error"), values.get("stalled")
        driving, driving_to_first = values.get("driving"), values.get("driving_to_first")
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
            # Runs of earlier versions were not measured for these.
            seam_jump=values.get("seam_jump"),
            seam_colour=values.get("seam_colour"),
            stalled=None if stalled is None else (stalled[0], stalled[1]),
            flicker=values.get("flicker"),
            flicker_frame=values.get("flicker_frame", 0),
            driving=None if driving is None else SegmentStatistics.from_json(driving),
            driving_to_first=None if driving_to_first is None else Difference.from_json(driving_to_first),
            motion_error=None if motion_error is None else MotionError.from_json(motion_error),
        )


def measure_segment(
    frames: "np.ndarray | torch.Tensor",
    *,
    reference: "SegmentStatistics | np.ndarray | torch.Tensor | None",
    first_segment_stats: SegmentStatistics | None = None,
    previous_tail: "np.ndarray | torch.Tensor | None" = None,
    character_mask: np.ndarray | None = None,
    driving: DrivingMeasures | None = None,
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
        driving: what the driving video does in the frames of the tail and of the segment; None: nothing is known of it.
        index: the segment's number.
    """
    statistics = segment_statistics(frames, character_mask)
    if reference is not None and not isinstance(reference, SegmentStatistics):
        reference = segment_statistics(reference if reference.ndim == 4 else reference[None])
    before = 0 if previous_tail is None else len(previous_tail)
    glance = Glance.at(frames) if previous_tail is None else Glance.at(previous_tail, frames)
    steps, flicker = glance.steps[before:], glance.flicker()
    motion = float(np.median(steps)) if len(steps) else 0.0
    repeated = [i + 1 for i, step in enumerate(steps) if step < _SAME_LEVEL or step < _SAME_SHARE * motion]
    worst = int(flicker.argmax()) if len(flicker) else before
    return SegmentDrift(
        index=index,
        frames=len(frames),
        statistics=statistics,
        to_reference=None if reference is None else compare(statistics, reference),
        to_first=compare(statistics, first_segment_stats or statistics),
        seam_energy=_seam_energy(glance.steps, before) if before else None,
        seam_jump=_seam_jump(glance.steps, None if driving is None else driving.glance.steps, before)
        if before
        else None,
        seam_colour=float(glance.colour_steps()[before - 1]) if before else None,
        motion=motion,
        repeated_frames=tuple(repeated),
        longest_freeze=max((last - first + 1 for first, last in _runs(repeated)), default=0),
        stalled=_stalled(repeated, None if driving is None else driving.glance.steps[before:]),
        flicker=float(flicker.max(initial=0.0)),
        flicker_frame=worst - before,
        driving=None if driving is None else driving.statistics,
        driving_to_first=None if driving is None else driving.to_first,
    )


def _seam_energy(steps: np.ndarray, join: int) -> float:
    """The step before frame ``join`` in units of the median of all others, but of 0.25 grey levels at least."""
    usual = np.delete(steps, join - 1)
    return float(steps[join - 1]) / max(float(np.median(usual)) if len(usual) else 0.0, _QUIET)


def _seam_jump(steps: np.ndarray, driving: np.ndarray | None, join: int) -> float:
    """How far the step before frame ``join`` stands out of those around, beyond what the driving video's does."""
    usual = 1.0 if driving is None else max(1.0, _outstanding(driving, join - 1))
    return _outstanding(steps, join - 1) / usual


def _outstanding(steps: np.ndarray, place: int) -> float:
    around = [*steps[max(0, place - _AROUND) : place], *steps[place + 1 : place + 1 + _AROUND]]
    return float(steps[place]) / max(*around, _QUIET, _QUIET)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of numbers that follow each other, first and last."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _stalled(repeated: list[int], driving: np.ndarray | None) -> tuple[int, int] | None:
    """The longest frozen run, first and last, in which the driving video goes on; ``driving`` are its steps (T - 1,)."""
    frozen = [(first, last) for first, last in _runs(repeated) if last - first + 1 >= _FROZEN_FRAMES]
    if frozen and driving is not None:
        usual = float(np.median(driving))
        frozen = [
            (first, last)
            for first, last in frozen
            if driving[first - 1 : last].mean() > max(_GOES_ON * usual, _SAME_LEVEL)
        ]
    return max(frozen, key=lambda run: run[1] - run[0], default=None)


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
    def judged(self) -> list[SegmentDrift]:
        """The segments from the first to the first that is missing: of later ones no frame's number is known."""
        return [segment for place, segment in enumerate(self.segments) if segment.index == place]

    @property
    def worst(self) -> float | None:
        """The largest score after the first segment, of those that are judged; None before the second."""
        return max((segment.score for segment in self.judged[1:]), default=None)

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
