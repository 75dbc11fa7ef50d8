"""What a run's measures come to: what is plainly wrong, in which segment and frame. `docs/long-video.md` explains the limits."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from itertools import accumulate, chain
from statistics import median
from typing import Any

from scail2.drift.measure import DriftReport, SegmentDrift
from scail2.drift.motion import MotionError


class Measure(StrEnum):
    """What is judged."""

    DRIFT = "drift"
    SEAM = "seam"
    SEAM_COLOUR = "seam_colour"
    FLICKER = "flicker"
    FREEZE = "freeze"
    MOTION_ERROR = "motion_error"


# Above these something is plainly seen. How they were found, and how often they are wrong, is in docs/long-video.md.
LIMITS = {
    Measure.DRIFT: 1.0,
    Measure.SEAM: 2.0,
    Measure.SEAM_COLOUR: 2.5,
    Measure.FLICKER: 1.0,
    Measure.FREEZE: 3.0,
    Measure.MOTION_ERROR: 0.3,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Worst:
    """The worst of one measure.

    Attributes:
        value, limit: above the limit it is plainly seen.
        segment: where it is.
        frame: where it is (or begins), counted in the film from 0.
        message: what is seen there, for people; empty where nothing is above the limit.
        also: other segments above the limit.
        cause: of a drift, what has changed most: ``colour``, ``contrast``, ``sharpness`` or ``identity``.
        help: the command that would help, where something is wrong.
    """

    measure: Measure
    value: float
    limit: float
    segment: int
    frame: int
    message: str = ""
    also: tuple[int, ...] = ()
    cause: str = ""
    help: str = ""

    @property
    def is_bad(self) -> bool:
        return self.value > self.limit

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"measure": str(self.measure), "also": list(self.also), "is_bad": self.is_bad}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The worst of every measure, and what could not be measured with the reason."""

    measured: tuple[Worst, ...]
    unmeasured: dict[Measure, str] = field(default_factory=dict)

    def value(self, measure: Measure) -> float | None:
        """The worst of one measure; None where it was not measured (yet)."""
        return next((each.value for each in self.measured if each.measure is measure), None)

    @property
    def troubles(self) -> tuple[Worst, ...]:
        """What is wrong."""
        return tuple(each for each in self.measured if each.is_bad)

    def to_json(self) -> dict[str, Any]:
        return {
            "good": not self.troubles,
            "measured": [each.to_json() for each in self.measured],
            "unmeasured": {str(name): reason for name, reason in self.unmeasured.items()},
        }

    def lines(self) -> list[str]:
        """For people: what was found, one line for each thing that is wrong, then all numbers."""
        count = len(self.troubles)
        told = "nothing stands out" if not count else f"{count} thing{'s' if count > 1 else ''} to look at"
        lines = [told]
        for each in self.troubles:
            more = f" (also segment {', '.join(map(str, each.also))})" if each.also else ""
            lines.append(f"{each.message}{more}: {each.help}" if each.help else f"{each.message}{more}")
        for each in self.measured:
            where = f", in segment {each.segment} at frame {each.frame}" if each.value else ""
            lines.append(f"{_NAMES[each.measure]}: {each.value:.2f} at worst (limit {each.limit:g}){where}")
        lines += [f"{_NAMES[name]}: could not be measured ({reason})" for name, reason in self.unmeasured.items()]
        return lines


_NAMES = {
    Measure.DRIFT: "drift",
    Measure.SEAM: "seam",
    Measure.SEAM_COLOUR: "colour step at a seam",
    Measure.FLICKER: "flicker",
    Measure.FREEZE: "frozen frames",
    Measure.MOTION_ERROR: "motion error",
}
# A segment of fewer frames is judged for its motion with its neighbours, and never by fewer frames than these.
_LONG_ENOUGH, _FRAMES_COMPARED = 24, 5


def judge(report: DriftReport) -> Verdict:
    """The verdict on a run's measures, from the first segment to the first that has none."""
    segments = report.judged
    starts = [0, *accumulate(each.frames for each in segments)]
    measured = []
    for find in (_drift, _seam, _seam_colour, _flicker, _freeze):
        found = [worst for each, start in zip(segments, starts, strict=False) if (worst := find(each, start))]
        measured += [_worst_of(found)] if found else []
    motion = list(_motion_error(segments, starts))
    measured += [_worst_of(motion)] if motion else []
    return Verdict(measured=tuple(measured), unmeasured=dict(_unmeasured(segments)))


def _worst_of(found: list[Worst]) -> Worst:
    worst = max(found, key=lambda each: each.value)
    if not worst.is_bad:
        return replace(worst, message="")  # it tells of a fault, and there is none
    also = sorted({each.segment for each in found if each.is_bad} - {worst.segment})
    return replace(worst, also=tuple(also))


def _unmeasured(segments: list[SegmentDrift]) -> Iterator[tuple[Measure, str]]:
    errors = [each.motion_error for each in segments if each.motion_error is not None]
    compared = sum(len(each.errors) for each in errors)
    if errors and compared < _FRAMES_COMPARED:
        reasons = [each.reason for each in errors if each.reason]
        told = "1 frame" if compared == 1 else f"{compared} frames"
        yield Measure.MOTION_ERROR, reasons[0] if reasons else f"only {told} could be compared"


def _drift(segment: SegmentDrift, start: int) -> Worst | None:
    if segment.index == 0:
        return None
    cause = max(segment.unexplained, key=segment.unexplained.__getitem__)
    return Worst(
        measure=Measure.DRIFT,
        value=segment.score,
        limit=LIMITS[Measure.DRIFT],
        segment=segment.index,
        frame=start,
        cause=cause.split(" ")[0],
        message=f"segment {segment.index} (from frame {start}) has drifted from the first: its {cause} has changed by "
        f"{segment.score:.1f} times what is plainly visible",
    )


def _seam(segment: SegmentDrift, start: int) -> Worst | None:
    jump = segment.seam_jump
    if jump is None:
        return None
    return Worst(
        measure=Measure.SEAM,
        value=jump,
        limit=LIMITS[Measure.SEAM],
        segment=segment.index,
        frame=start,
        message=f"the picture jumps where segment {segment.index} begins (frame {start}), by {jump:.1f} times the "
        "largest change around",
    )


def _seam_colour(segment: SegmentDrift, start: int) -> Worst | None:
    if segment.seam_colour is None:
        return None
    return Worst(
        measure=Measure.SEAM_COLOUR,
        value=segment.seam_colour,
        limit=LIMITS[Measure.SEAM_COLOUR],
        segment=segment.index,
        frame=start,
        message=f"the colours of the whole picture change at once where segment {segment.index} begins (frame {start}), by "
        f"{segment.seam_colour:.1f} grey levels",
    )


def _flicker(segment: SegmentDrift, start: int) -> Worst | None:
    if segment.flicker is None:
        return None
    frame = start + segment.flicker_frame
    # The last frames before a segment are judged with it, since what follows them has to be known.
    index = segment.index if segment.flicker_frame >= 0 else segment.index - 1
    return Worst(
        measure=Measure.FLICKER,
        value=segment.flicker,
        limit=LIMITS[Measure.FLICKER],
        segment=index,
        frame=frame,
        message=f"the picture flickers in segment {index}, most at frame {frame} ({segment.flicker:.1f} grey levels)",
    )


def _freeze(segment: SegmentDrift, start: int) -> Worst | None:
    if segment.flicker is None:
        return None  # measured by an earlier version, which did not look at the driving video
    first, last = segment.stalled or (0, -1)
    # The first repeated frame repeats the one before it.
    return Worst(
        measure=Measure.FREEZE,
        value=float(last - first + 1),
        limit=LIMITS[Measure.FREEZE],
        segment=segment.index,
        frame=start + first,
        message=f"segment {segment.index} stands still from frame {start + first} to {start + last} while the driving video "
        "moves on",
    )


def _motion_error(segments: list[SegmentDrift], starts: list[int]) -> Iterator[Worst]:
    """Of every segment; short ones are judged together with their neighbours, a few frames say too little."""
    known = [each.motion_error or MotionError() for each in segments]
    for place, (segment, error) in enumerate(zip(segments, known, strict=True)):
        if not error.errors:
            continue
        around = 0 if segment.frames >= _LONG_ENOUGH else 1
        errors = list(chain.from_iterable(each.errors for each in known[max(0, place - around) : place + around + 1]))
        value, worst = median(errors), max(error.errors)
        frame = starts[place] + error.frames[error.errors.index(worst)]
        if len(errors) >= _FRAMES_COMPARED:
            yield Worst(
                measure=Measure.MOTION_ERROR,
                value=value,
                limit=LIMITS[Measure.MOTION_ERROR],
                segment=segment.index,
                frame=frame,
                message=f"segment {segment.index} does not follow the driving video's motion: joints are {value:.2f} torso "
                f"lengths off, {worst:.2f} at frame {frame}",
            )
