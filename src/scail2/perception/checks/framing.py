"""Framing: does the reference show its character as large, and as whole, as the driving video shows its own?

Scale. The published measurement (a community report on SCAIL-2): a reference subject filling 34 % of the frame's height
came out at 1.003 times the wanted size, one filling 93 % at 1.71 times. We put a power law through the two points,

    scale = 1.003 * (reference share / driving share) ** 0.530,      0.530 = ln(1.71 / 1.003) / ln(0.93 / 0.34),

reading the first point as "same share as the driving character" (its share was not reported, so 34 % is assumed). Two
points cannot test the form: take it as a size of the error, not as a promise. Reframing (`reframing`) removes it at the source:
it takes the part of the reference in which both shares agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scail2.perception.binding import Binding
from scail2.perception.checks import findings
from scail2.perception.checks.extents import PairExtents
from scail2.perception.checks.findings import Finding
from scail2.perception.tracks import CharacterTrack, TrackedMasks
from scail2.video import cover_box

MEASURED_SHARES = (0.34, 0.93)
MEASURED_SCALES = (1.003, 1.71)
SCALE_EXPONENT = math.log(MEASURED_SCALES[1] / MEASURED_SCALES[0]) / math.log(MEASURED_SHARES[1] / MEASURED_SHARES[0])
# Predicted size errors within this factor go unreported.
SCALE_TOLERANCE = 1.15
# Share of a character's box edge that has to lie on the frame's border before the body counts as cut off there.
_CUT_SHARE = 0.15
# Share of a picture's side that a crop has to take away to count.
_CROP_SHARE = 0.01


def predicted_scale(reference_share: float, driving_share: float) -> float:
    """Size at which the character is expected to come out, relative to the driving character (formula above)."""
    return MEASURED_SCALES[0] * (reference_share / driving_share) ** SCALE_EXPONENT


@dataclass(frozen=True, kw_only=True)
class PairFraming:
    """One bound pair: shares of the frame's height, the expected size error, and where each body is cut off.

    `reframe_scale` is the factor by which the reference's character would have to grow to remove the error. `extents` say
    how far down the two are shown, where joints told.
    """

    driving: int
    reference: int
    driving_share: float
    reference_share: float
    predicted_scale: float
    reframe_scale: float
    driving_cut: tuple[str, ...]
    reference_cut: tuple[str, ...]
    extents: PairExtents | None = None


@dataclass(frozen=True, kw_only=True)
class FramingReport:
    """All pairs, and the one factor by which reframing would have to enlarge the reference (1.0: leave it alone)."""

    pairs: tuple[PairFraming, ...]
    reframe_scale: float
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "pairs": [asdict(pair) for pair in self.pairs],  # extents as numbers from 0, the chest, to 3, the feet
            "reframe_scale": self.reframe_scale,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class CroppedSides:
    """Where fitting the inputs to the run's (height, width) cut something off: top, bottom, left, right."""

    size: tuple[int, int]
    reference: frozenset[str] = frozenset()
    driving: frozenset[str] = frozenset()


NOT_CROPPED = CroppedSides(size=(0, 0))


def cropped_sides(whole: tuple[int, int], size: tuple[int, int]) -> frozenset[str]:
    """What covering ``size`` with a picture of (height, width) ``whole`` cuts off, of more than a hundredth of it."""
    left, top, _, _ = cover_box(*whole, *size)
    taller, wider = 2 * top > _CROP_SHARE * whole[0], 2 * left > _CROP_SHARE * whole[1]
    return frozenset({"top", "bottom"} if taller else {"left", "right"} if wider else ())


def cut_sides(mask: np.ndarray) -> tuple[str, ...]:
    """Sides of the frame at which a body, bool (H, W), is cut off: top, bottom, left, right."""
    if not mask.any():
        return ()
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = ys[-1] - ys[0] + 1, xs[-1] - xs[0] + 1
    edges = {
        "top": (mask[0].sum(), width),
        "bottom": (mask[-1].sum(), width),
        "left": (mask[:, 0].sum(), height),
        "right": (mask[:, -1].sum(), height),
    }
    return tuple(side for side, (count, length) in edges.items() if count > _CUT_SHARE * length)


def _share(track: CharacterTrack, height: int) -> float:
    """Box height over frame height where the character is first seen."""
    box = track.boxes[max(track.first_frame, 0)]
    return float((box[3] - box[1]) / height)


def _frame_mask(masks: TrackedMasks, number: int, frame: int) -> np.ndarray:
    return masks.labels.labels(frame, frame + 1)[0] == number


def check(
    reference: TrackedMasks,
    driving: TrackedMasks,
    binding: Binding,
    extents: Mapping[tuple[int, int], PairExtents] | None = None,
    cropped: CroppedSides = NOT_CROPPED,
) -> FramingReport:
    """Compares every bound pair where the driving character is first seen.

    Args:
        reference: characters of the reference picture, at the size it will be given to the model.
        driving: characters of the driving video, at the run's size.
        binding: who moves whom.
        extents: how far down the characters are shown, by (driving number, reference number), where joints told.
        cropped: where the run's own crop took something away.
    """
    pairs = []
    for bound in binding.pairs:
        moved, shown = driving.tracks[bound.driving - 1], reference.tracks[bound.reference - 1]
        if moved.first_frame < 0 or shown.first_frame < 0:
            continue
        moved_share, shown_share = _share(moved, driving.height), _share(shown, reference.height)
        pairs.append(
            PairFraming(
                driving=bound.driving,
                reference=bound.reference,
                driving_share=moved_share,
                reference_share=shown_share,
                predicted_scale=predicted_scale(shown_share, moved_share),
                reframe_scale=moved_share / shown_share,
                driving_cut=cut_sides(_frame_mask(driving, bound.driving, moved.first_frame)),
                reference_cut=cut_sides(_frame_mask(reference, bound.reference, 0)),
                extents=(extents or {}).get((bound.driving, bound.reference)),
            )
        )
    scale = float(np.exp(np.mean([math.log(pair.reframe_scale) for pair in pairs]))) if pairs else 1.0
    found = _findings(pairs, driving, binding, cropped)
    return FramingReport(pairs=tuple(pairs), reframe_scale=scale, findings=tuple(found))


def _findings(
    pairs: Sequence[PairFraming], driving: TrackedMasks, binding: Binding, cropped: CroppedSides
) -> list[Finding]:
    found = []
    for pair in pairs:
        if not 1 / SCALE_TOLERANCE <= pair.predicted_scale <= SCALE_TOLERANCE:
            found.append(
                findings.warning(
                    "scale",
                    f"reference character {pair.reference} fills {pair.reference_share:.0%} of the picture's height and "
                    f"driving character {pair.driving} {pair.driving_share:.0%}: it would come out about "
                    f"{pair.predicted_scale:.2f} times as large",
                    "use --reframe auto, or crop the reference like the first driving frame",
                )
            )
        found += [*_legs(pair, cropped), *_cut_off(pair, cropped)]
    return found + _later_cuts(driving, binding)


def _legs(pair: PairFraming, cropped: CroppedSides) -> list[Finding]:
    """Where one of the two is shown further down than the other, by their joints."""
    extents = pair.extents
    if extents is None or extents.reference == extents.driving:
        return []
    if extents.reference > extents.driving:
        return [
            findings.info(
                "cut_off",
                f"driving character {pair.driving} is shown down to the {extents.driving.label} at most, reference character "
                f"{pair.reference} down to the {extents.reference.label}",
            )
        ]
    if "bottom" in cropped.reference and "bottom" in pair.reference_cut:
        return [_by_crop("reference", pair.reference, ["bottom"], cropped)]
    return [
        findings.warning(
            "cut_off",
            f"reference character {pair.reference} is shown down to the {extents.reference.label} only, driving character "
            f"{pair.driving} down to the {extents.driving.label} (frame {extents.frame}): what is missing will be invented",
            "use a reference that shows as much of the body, or crop the driving video alike",
            [(extents.frame, extents.frame + 1)],
        )
    ]


def _by_crop(side: str, number: int, sides: Sequence[str], cropped: CroppedSides) -> Finding:
    whole, ways = {
        "reference": ("picture", "use --reframe auto, which goes from the whole picture, or --fit letterbox"),
        "driving": ("video", "use --fit letterbox, or a --width and --height of the video's own aspect"),
    }[side]
    return findings.warning(
        "cropped",
        f"the crop to {cropped.size[1]}x{cropped.size[0]} cuts {side} character {number} off at the {' and '.join(sides)}; the "
        f"{whole} itself shows more",
        ways,
    )


def _cut_off(pair: PairFraming, cropped: CroppedSides) -> list[Finding]:
    """Where the frame cuts off one of the two and not the other, by their masks; what joints say of the legs is surer."""
    by_joints = {"bottom"} if pair.extents is not None else set()
    only_reference = [side for side in pair.reference_cut if side not in {*pair.driving_cut, *by_joints}]
    only_driving = [side for side in pair.driving_cut if side not in {*pair.reference_cut, *by_joints}]
    found = []
    for side, number, sides, ours in (
        ("reference", pair.reference, only_reference, cropped.reference),
        ("driving", pair.driving, only_driving, cropped.driving),
    ):
        if by_crop := [each for each in sides if each in ours]:
            found.append(_by_crop(side, number, by_crop, cropped))
            sides[:] = [each for each in sides if each not in ours]
    if only_reference:
        found.append(
            findings.warning(
                "cut_off",
                f"reference character {pair.reference} is cut off at the {' and '.join(only_reference)} but driving "
                f"character {pair.driving} is not: the missing parts will be invented",
                "use a reference that shows the whole body, or crop the driving video alike",
            )
        )
    if only_driving:
        found.append(
            findings.info(
                "cut_off",
                f"driving character {pair.driving} is cut off at the {' and '.join(only_driving)} in its first frame",
            )
        )
    return found


def _later_cuts(driving: TrackedMasks, binding: Binding) -> list[Finding]:
    """Bodies that touch the frame's border later on, judged by their boxes alone."""
    found = []
    for number in sorted(binding.driving_slots()):
        track = driving.tracks[number - 1]
        with np.errstate(invalid="ignore"):
            touching = (
                (track.boxes[:, 0] <= 0)
                | (track.boxes[:, 1] <= 0)
                | (track.boxes[:, 2] >= driving.width)
                | (track.boxes[:, 3] >= driving.height)
            )
        if touching.any() and not touching.all():
            runs = findings.runs_of(touching)
            found.append(
                findings.info(
                    "touches_border",
                    f"driving character {number} reaches the frame's border in frames {findings.told(runs)}",
                    runs,
                )
            )
    return found
