"""From a request, a video's header and a model's facts to numbers: size, rate, frames, segments."""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from scail2.errors import InputError
from scail2.request import AnimationRequest
from scail2.runs.model import ModelFacts
from scail2.segments import SegmentPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What will be rendered: pixels, frames a second, and the segments with their length and overlap."""

    height: int
    width: int
    fps: Fraction
    segments: SegmentPlan
    segment_frames: int
    overlap: int

    @property
    def total(self) -> int:
        """Output frames, equal to the driving frames used."""
        return self.segments.total

    @property
    def seconds(self) -> float:
        """Length of the output."""
        return float(self.total / self.fps)

    def to_json(self) -> dict[str, Any]:
        """For plan.json and `scail2 plan --json`."""
        return {
            "height": self.height,
            "width": self.width,
            "fps": str(self.fps),
            "frames": self.total,
            "seconds": round(self.seconds, 3),
            "segment_frames": self.segment_frames,
            "overlap": self.overlap,
            "segments": [asdict(segment) for segment in self.segments],
        }


def plan_run(request: AnimationRequest, facts: ModelFacts, *, aspect: float, fps: Fraction, frames: int) -> RunPlan:
    """The plan of a run.

    Args:
        aspect: width / height of the driving video as shown.
        fps: its rate after resampling.
        frames: how many frames it has at that rate; ``request.frames`` cuts it.
    """
    height, width = choose_size(request, facts, aspect)
    total = min(frames, request.frames or frames)
    segment_frames = request.segment_frames or facts.segment_frames
    overlap = request.overlap or facts.overlap
    plan = SegmentPlan.of(total, segment_frame_length=segment_frames, overlap=overlap, equal=request.equal_segments)
    return RunPlan(height=height, width=width, fps=fps, segments=plan, segment_frames=segment_frames, overlap=overlap)


def choose_size(request: AnimationRequest, facts: ModelFacts, aspect: float) -> tuple[int, int]:
    """(height, width): as requested, or the model's native number of pixels in the driving video's aspect.

    A derived size is a multiple of the model's step and stays within its position range. A requested size is refused,
    naming the nearest good one, when it is not a multiple of the step.
    """
    step_h, step_w = facts.size_step
    if request.height or request.width:
        height = request.height or max(1, round(request.width / aspect / step_h)) * step_h
        width = request.width or max(1, round(request.height * aspect / step_w)) * step_w
        near = max(1, round(height / step_h)) * step_h, max(1, round(width / step_w)) * step_w
        if near != (height, width):
            raise InputError(
                f"The size {width}x{height} (width x height) does not fit the model, whose steps are {step_w} and {step_h}; "
                f"the nearest that does is {near[1]}x{near[0]}."
            )
        return height, width
    area = facts.native_size[0] * facts.native_size[1]
    ideal_h, ideal_w = math.sqrt(area / aspect), math.sqrt(area * aspect)
    shrink = min(1.0, facts.largest_size[0] / ideal_h, facts.largest_size[1] / ideal_w)
    return _fit_step(ideal_h * shrink, step_h), _fit_step(ideal_w * shrink, step_w)


def _fit_step(pixels: float, step: int) -> int:
    return max(1, round(pixels / step)) * step
