"""Whether the output follows the driving video's motion, seen by the joints of both: the extra `people`."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scail2.drift.motion import MotionError
from scail2.masks import BINDING_SLOTS, split_mask
from scail2.perception.segmenters.people.joints import (
    SMALLEST_BODY,
    Joints,
    body_on,
    is_tall_enough,
    motion_error,
    posture_near,
)
from scail2.perception.segmenters.people.network import PoseNetwork, installed
from scail2.runs.watching import WatchedFrames
from scail2.segments import Segment, SegmentPlan

if TYPE_CHECKING:
    from scail2.perception.segmenters.people.network import Body, Posture

# One frame in so many is looked at, but at least so many a segment: four looks at every person, 40 ms in all.
_EVERY, _LEAST = 8, 5
_MISSING = "joints are found with the extra `people`: pip install 'scail2[people]', then resume the run"
_SMALL = f"no character of the driving video is {SMALLEST_BODY} pixels tall, joints of smaller ones are not looked for"
_NOBODY = "no person's joints were found on the driving video's characters"
_LOST = "no person's joints were found in the output where the driving video has them"


def looked_at(plan: SegmentPlan) -> list[int]:
    """Numbers of the frames whose joints will be compared; none without the extra."""
    return [number for segment in plan.segments for number in _samples(segment)] if installed() else []


def _samples(segment: Segment) -> list[int]:
    count = min(segment.new_frames, max(_LEAST, segment.new_frames // _EVERY))
    return sorted({int(number) for number in np.linspace(segment.first_new, segment.stop - 1, count).round()})


class MotionCheck:
    """Compares the joints of finished segments with those of the driving video.

    Args:
        driving: the driving video at the run's size.
    """

    def __init__(self, driving: WatchedFrames):
        self.driving = driving

    @cached_property
    def _network(self) -> PoseNetwork:
        return PoseNetwork()

    def measure(self, segment: Segment, output: np.ndarray, masks: np.ndarray) -> MotionError:
        """The motion error of one segment.

        Args:
            output: its new frames, uint8 (T, H, W, 3).
            masks: the driving masks of the same frames, uint8 (T, H, W, 3) in the palette.
        """
        if not installed():
            return MotionError(reason=_MISSING)
        numbers = _samples(segment)
        places = [number - segment.first_new for number in numbers]
        shown = split_mask(masks[places])
        if not any(is_tall_enough(mask) for slot in BINDING_SLOTS for mask in shown[slot]):
            return MotionError(reason=_SMALL)
        wanted: list[list[Body | None]] = []
        made: list[list[Posture | None]] = []
        for slot in BINDING_SLOTS:
            if shown[slot].any():
                theirs = [
                    body_on(self._network, self.driving.frame(number), mask)
                    for number, mask in zip(numbers, shown[slot], strict=True)
                ]
                wanted.append(theirs)
                made.append([self._same(output[place], body) for place, body in zip(places, theirs, strict=True)])
        if not any(body for each in wanted for body in each):
            return MotionError(reason=_NOBODY)
        errors = motion_error(Joints.of(made), Joints.of(wanted))
        known = [place for place in range(len(places)) if np.isfinite(errors[:, place]).any()]
        if not known:
            return MotionError(reason=_LOST)
        return MotionError(
            frames=tuple(places[each] for each in known),
            errors=tuple(round(float(np.nanmax(errors[:, each])), 4) for each in known),
        )

    def _same(self, frame: np.ndarray, body: "Body | None") -> "Posture | None":
        """The output's body where the driving video has one."""
        return None if body is None else posture_near(self._network, frame, body.square)
