"""What is good enough to train on, and the names of the reasons why something is not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from scail2.errors import InputError

Array = np.ndarray


class Reason(StrEnum):
    """Why a stretch of a source is not in the shards."""

    UNREADABLE = "unreadable"
    TOO_SHORT = "too short"
    NO_OVERLAP = "no overlap"
    MISALIGNED = "misaligned"
    COUNT = "wrong count of people"
    MASK_GAPS = "mask gaps"
    NO_REFERENCE = "nobody to refer to"
    LITTLE_MOTION = "too little motion"


class Refused(InputError):  # noqa: N818 - as InputError, a state of what was given
    """A source of which nothing can be made, and why."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Discard:
    """A stretch of a source that was thrown away: why, in which words, and from when to when in the target, in seconds."""

    reason: Reason
    detail: str
    start: float = 0.0
    stop: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "reason": self.reason.value}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From when on a clip is good enough.

    Attributes:
        shortest: frames.
        least_motion: mean share of the characters' outline that changes from frame to frame.
        mask_gaps: largest share of frames in which a character has no mask.
        least_agreement: correlation of the two motions; not asked of an offset that was given.
    """

    shortest: int = 17
    least_motion: float = 0.01
    mask_gaps: float = 0.1
    least_agreement: float = 0.6


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What was measured of a clip: see `Limits`; agreement is None for a single video."""

    motion: float
    gaps: float
    agreement: float | None = None

    def to_json(self) -> dict[str, float]:
        """Rounded plain values."""
        return {name: round(value, 4) for name, value in asdict(self).items() if value is not None}


def outline_change(tracks: Array) -> float:
    """Mean share of the characters' outline, bool (S, T, H, W), that is another in the next frame; 0 for one frame."""
    if tracks.shape[1] < 2:
        return 0.0
    before, after = tracks[:, :-1], tracks[:, 1:]
    changed = (before ^ after).sum(axis=(2, 3)).astype(float)
    shown = (before | after).sum(axis=(2, 3))
    return float((changed / np.maximum(shown, 1))[shown > 0].mean()) if shown.any() else 0.0


def share_of_gaps(tracks: Array) -> float:
    """Largest share, over the characters, of frames without a mask, or with a tenth of the usual one."""
    areas = tracks.sum(axis=(2, 3)).astype(float)
    usual = np.median(areas, axis=1, keepdims=True)
    return float((areas <= 0.1 * usual).mean(axis=1).max(initial=0.0))


def refusal(measures: Sequence[Measures], limits: Limits, *, given_offset: bool) -> tuple[Reason, str] | None:
    """Why a clip is not taken, and the figure that says so; ``measures`` of each of its sides, the agreement in the first."""
    gaps = max(each.gaps for each in measures)
    if gaps > limits.mask_gaps:
        return Reason.MASK_GAPS, f"a character has no mask in {gaps:.0%} of the frames (allowed {limits.mask_gaps:.0%})"
    motion = min(each.motion for each in measures)
    if motion < limits.least_motion:
        return (
            Reason.LITTLE_MOTION,
            f"{motion:.3f} of the outline changes from frame to frame (needed {limits.least_motion:g})",
        )
    agreed = measures[0].agreement
    if agreed is not None and agreed < limits.least_agreement and not given_offset:
        return Reason.MISALIGNED, f"the motions agree by {agreed:.2f} (needed {limits.least_agreement:g})"
    return None
