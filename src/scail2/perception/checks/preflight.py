"""Preflight: everything that can be known to go wrong before any denoising, as a table, as JSON and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scail2.errors import InputError
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.checks import findings, framing, validate
from scail2.perception.checks.cuts import scene_cuts
from scail2.perception.checks.extents import pair_extents
from scail2.perception.checks.findings import Finding, Severity
from scail2.perception.checks.framing import NOT_CROPPED, CroppedSides, FramingReport
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.tracks import TrackedMasks
from scail2.segments import SegmentPlan
from scail2.video import SizedFrames

if TYPE_CHECKING:
    from rich.console import RenderableType

# Below this mean confidence a segmenter's track is pointed out even though it was not refused.
LOW_CONFIDENCE = 0.75
# Frames of a tail segment from which it is long enough to hold an identity.
_SHORT_TAIL = 21
_MODEL_FPS = 16


@dataclass(frozen=True, kw_only=True)
class PreflightReport:
    """The outcome: facts, framing of every pair, scene cuts, and findings with the most serious first."""

    facts: dict[str, Any]
    framing: FramingReport
    cuts: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing refuses the run."""
        return not any(each.severity is Severity.ERROR for each in self.findings)

    def refuse_errors(self) -> None:
        """Raises `InputError` with the first error and its fix, when there is one."""
        findings.refuse(self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values: ok, facts, framing, cuts, findings."""
        return {
            "ok": self.ok,
            "facts": self.facts,
            "framing": self.framing.to_json(),
            "scene_cuts": list(self.cuts),
            "findings": [each.to_json() for each in self.findings],
        }

    def table(self) -> "RenderableType":
        """For `rich.console.Console.print`: the facts, then the findings."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in self.facts.items():
            facts.add_row(Text(name.replace("_", " "), style="dim"), Text(_fact(value)))
        return Group(facts, findings.table(self.findings))


def _fact(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def inspect(
    masks: BoundMasks,
    reference: np.ndarray,
    driving: DrivingVideo,
    notes: Sequence[Finding] = (),
    cropped: CroppedSides = NOT_CROPPED,
) -> PreflightReport:
    """Inspects a run before any denoising.

    Reads the driving video and the label maps once, window by window. Nothing is changed: `report.refuse_errors()` is for
    callers who go on.

    Args:
        reference: the reference picture as the model will get it, uint8 (H, W, 3).
        notes: findings that were made earlier (e.g. that the reference was reframed).
        cropped: where fitting picture and video to the run's size cut something off.
    """
    extents = pair_extents(masks, reference, driving.frames)
    framed = framing.check(masks.reference, masks.driving, masks.binding, extents, cropped)
    cuts = scene_cuts(driving.frames)
    film = getattr(driving.frames, "source_info", None)
    found = [
        *notes,
        *(findings.of_file(film.path.name, film.notes) if film is not None else []),
        *_sizes(masks, reference, driving),
        *validate.check_masks(masks),
        *_confidence(masks.driving, "driving"),
        *_confidence(masks.reference, "reference"),
        *framed.findings,
        *_cut_findings(cuts, driving.segments),
        *_rates(driving),
        *_segments(driving.segments),
    ]
    return PreflightReport(
        facts=_facts(masks, driving, cuts),
        framing=framed,
        cuts=tuple(cuts),
        findings=tuple(validate.sort_findings(found)),
    )


def _facts(masks: BoundMasks, driving: DrivingVideo, cuts: Sequence[int]) -> dict[str, Any]:
    plan = driving.segments
    return {
        "mode": masks.mode.value,
        "size": f"{driving.frames.width}x{driving.frames.height}",
        "frames": plan.total,
        "frame_rate": round(float(driving.fps), 3),
        "seconds": round(plan.total / float(driving.fps), 3),
        "reference_characters": sum(track.first_frame >= 0 for track in masks.reference.tracks),
        "driving_characters": sum(track.first_frame >= 0 for track in masks.driving.tracks),
        "segments": len(plan.segments),
        "segment_frames": [segment.padded_frames for segment in plan.segments],
        "padded_frames": sum(segment.padded_frames - (segment.stop - segment.start) for segment in plan.segments),
        "scene_cuts": list(cuts),
    }


def _sizes(masks: BoundMasks, reference: np.ndarray, driving: DrivingVideo) -> list[Finding]:
    found = []
    height, width = driving.frames.height, driving.frames.width
    step_h, step_w = driving.size_step
    if height % step_h or width % step_w:
        near = max(1, round(height / step_h)) * step_h, max(1, round(width / step_w)) * step_w
        found.append(
            findings.error(
                "size",
                f"{width}x{height} does not fit the model, whose steps are {step_w} (width) and {step_h} (height)",
                f"use --width {near[1]} --height {near[0]}",
            )
        )
    if reference.shape[:2] != (masks.reference.height, masks.reference.width):
        found.append(
            findings.error(
                "size",
                f"the reference mask is {masks.reference.width}x{masks.reference.height} but the reference "
                f"is {reference.shape[1]}x{reference.shape[0]}",
                "export the mask at the picture's size",
            )
        )
    masked, total, planned = len(masks.driving), len(driving.frames), driving.segments.total
    if masked != total or planned > total:
        found.append(
            findings.error(
                "length",
                f"the driving video has {total} frames, its masks {masked}, the plan {planned}",
                "make the masks again from this video",
            )
        )
    return found


def _confidence(masks: TrackedMasks, side: str) -> list[Finding]:
    found = []
    for track in masks.tracks:
        if track.first_frame >= 0 and track.mean_confidence < LOW_CONFIDENCE:
            found.append(
                findings.warning(
                    "confidence",
                    f"the mask of {side} character {track.number} is uncertain (confidence {track.mean_confidence:.2f})",
                    f"look at it in the preview; supply one with --{side}-mask",
                )
            )
    return found


def _cut_findings(cuts: Sequence[int], plan: SegmentPlan) -> list[Finding]:
    if not cuts:
        return []
    inside = [cut for cut in cuts if cut not in {segment.first_new for segment in plan.segments}]
    return [
        findings.warning(
            "scene_cut",
            f"the driving video cuts to another scene at frame {', '.join(map(str, cuts))}"
            + (f" ({len(inside)} of them inside a segment)" if inside else ""),
            "render each scene as a run of its own; identities and backgrounds are lost at a cut",
            [(cut, cut + 1) for cut in cuts],
        )
    ]


def _rates(driving: DrivingVideo) -> list[Finding]:
    found = []
    fps = float(driving.fps)
    source = float(driving.source_fps) if driving.source_fps else None
    if source and abs(source - fps) > 1e-3:
        verb = "left out" if source > fps else "repeated"
        found.append(
            findings.info(
                "frame_rate", f"the driving video is resampled from {source:.3f} to {fps:.3f} fps; frames are {verb}"
            )
        )
    if not 8 <= fps <= 32:
        found.append(
            findings.warning(
                "frame_rate",
                f"{fps:.3f} frames a second is far from the {_MODEL_FPS} the model was trained at: motion may look wrong",
                f"use --fps {_MODEL_FPS}",
            )
        )
    return found


def _segments(plan: SegmentPlan) -> list[Finding]:
    last = plan.segments[-1]
    length = last.stop - last.start
    if len(plan.segments) > 1 and length < min(_SHORT_TAIL, plan.segments[0].padded_frames):
        return [
            findings.info("short_tail", f"the last segment has only {length} frames; --equal-segments evens them out")
        ]
    return []


def contact_sheet(
    masks: BoundMasks,
    reference: np.ndarray,
    driving: SizedFrames,
    report: PreflightReport,
    path: Path | None = None,
    *,
    frames: int = 10,
) -> np.ndarray:
    """A picture uint8 (H, W, 3) for a quick look: reference and driving frames with their masks over them.

    Frames are spread over the clip, and those that findings point at come first. Written as PNG where `path` is given.
    """
    from scail2.perception.preview import Sheet, write_sheet

    total = len(driving)
    if total == 0:
        raise InputError("the driving video has no frames to show.")
    pointed = [run[0] for each in report.findings if each.severity is not Severity.INFO for run in each.frames[:2]]
    spread = np.linspace(0, total - 1, min(frames, total)).round().astype(int).tolist()
    chosen = sorted({*spread, *[frame for frame in pointed[: frames // 2] if frame < total]})
    sheet = Sheet(masks.reference, masks.driving, masks.binding)
    marks = {run[0] for each in report.findings for run in each.frames if each.severity is not Severity.INFO}
    picture = sheet.draw(reference, driving, chosen, marked=marks)
    if path is not None:
        write_sheet(Path(path), picture)
    return picture
