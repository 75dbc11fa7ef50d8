"""Framing: does the reference show its character as large, and as whole, as the driving video shows its own?

Scale. The published measurement (a community report on SCAIL-2): a reference subject filling 34 % of the frame's height
came out at 1.003 times the wanted size, one filling 93 % at 1.71 times. We put a power law through the two points,

    scale = 1.003 * (reference share / driving share) ** 0.530,      0.530 = ln(1.71 / 1.003) / ln(0.93 / 0.34),

reading the first point as "same share as the driving character" (its share was not reported, so 34 % is assumed). Two
points cannot test the form: take it as a size of the error, not as a promise. ``reframe`` removes it at the source by
resampling the reference so that both shares agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from scail2.perception.binding import Binding
from scail2.perception.checks import findings
from scail2.perception.checks.extents import PairExtents
from scail2.perception.checks.findings import Finding
from scail2.perception.tracks import CharacterTrack, TrackedMasks

MEASURED_SHARES = (0.34, 0.93)
MEASURED_SCALES = (1.003, 1.71)
SCALE_EXPONENT = math.log(MEASURED_SCALES[1] / MEASURED_SCALES[0]) / math.log(MEASURED_SHARES[1] / MEASURED_SHARES[0])
# Predicted size errors within this factor go unreported.
SCALE_TOLERANCE = 1.15
# A picture is never resampled by more than this factor: beyond it too little of it, or too much border, would remain.
REFRAME_LIMIT = 2.5
# Share of a character's box edge that has to lie on the frame's border before the body counts as cut off there.
_CUT_SHARE = 0.15


def predicted_scale(reference_share: float, driving_share: float) -> float:
    """Size at which the character is expected to come out, relative to the driving character (formula above)."""
    return MEASURED_SCALES[0] * (reference_share / driving_share) ** SCALE_EXPONENT


@dataclass(frozen=True, kw_only=True)
class PairFraming:
    """One bound pair: shares of the frame's height, the expected size error, and where each body is cut off.

    `reframe_scale` is the factor by which the reference picture would have to be resampled to remove the error. `extents` say
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
    """All pairs, and the one factor and anchor for `reframe` (1.0: leave the picture alone)."""

    pairs: tuple[PairFraming, ...]
    reframe_scale: float
    anchor: tuple[float, float]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "pairs": [asdict(pair) for pair in self.pairs],  # extents as numbers from 0, the chest, to 3, the feet
            "reframe_scale": self.reframe_scale,
            "anchor": list(self.anchor),
        }


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
) -> FramingReport:
    """Compares every bound pair where the driving character is first seen.

    Args:
        reference: characters of the reference picture, at the size it will be given to the model.
        driving: characters of the driving video, at the run's size.
        binding: who moves whom.
        extents: how far down the characters are shown, by (driving number, reference number), where joints told.
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
    scale = float(np.clip(scale, 1 / REFRAME_LIMIT, REFRAME_LIMIT))
    boxes = np.array([reference.tracks[pair.reference - 1].boxes[0] for pair in pairs])
    anchor = (float((boxes[:, 0].min() + boxes[:, 2].max()) / 2), float(boxes[:, 3].max())) if pairs else (0.0, 0.0)
    return FramingReport(
        pairs=tuple(pairs), reframe_scale=scale, anchor=anchor, findings=tuple(_findings(pairs, driving, binding))
    )


def _findings(pairs: Sequence[PairFraming], driving: TrackedMasks, binding: Binding) -> list[Finding]:
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
        found += [*_legs(pair), *_cut_off(pair)]
    return found + _later_cuts(driving, binding)


def _legs(pair: PairFraming) -> list[Finding]:
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
    return [
        findings.warning(
            "cut_off",
            f"reference character {pair.reference} is shown down to the {extents.reference.label} only, driving character "
            f"{pair.driving} down to the {extents.driving.label} (frame {extents.frame}): what is missing will be invented",
            "use a reference that shows as much of the body, or crop the driving video alike",
            [(extents.frame, extents.frame + 1)],
        )
    ]


def _cut_off(pair: PairFraming) -> list[Finding]:
    """Where the frame cuts off one of the two and not the other, by their masks; what joints say of the legs is surer."""
    by_joints = {"bottom"} if pair.extents is not None else set()
    only_reference = [side for side in pair.reference_cut if side not in {*pair.driving_cut, *by_joints}]
    only_driving = [side for side in pair.driving_cut if side not in {*pair.reference_cut, *by_joints}]
    found = []
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


@dataclass(frozen=True, kw_only=True)
class Reframed:
    """A resampled reference: picture uint8 (H, W, C) and label map uint8 (H, W), and how much of the frame is border."""

    picture: np.ndarray
    labels: np.ndarray
    invented_share: float


def _empty_border(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The picture with the characters taken out of its outermost rows and columns, so that they can be continued."""
    emptied = picture.copy()
    for line, here in (
        (emptied[0], labels[0]),
        (emptied[-1], labels[-1]),
        (emptied[:, 0], labels[:, 0]),
        (emptied[:, -1], labels[:, -1]),
    ):
        # Two pixels more on both sides: soft outlines belong to the character as well.
        free = np.flatnonzero(np.convolve(here > 0, np.ones(5), mode="same") == 0)
        if 0 < len(free) < len(here):
            places = np.arange(len(here))
            after = np.searchsorted(free, places).clip(0, len(free) - 1)
            before = (after - 1).clip(0)
            nearest = np.where(np.abs(free[after] - places) <= np.abs(free[before] - places), free[after], free[before])
            line[:] = line[nearest]
    return emptied


def reframe(picture: np.ndarray, labels: np.ndarray, scale: float, anchor: tuple[float, float]) -> Reframed:
    """Enlarges or shrinks a reference about an anchor that stays where it is (the characters' feet), size unchanged.

    Where a shrunk picture leaves the frame empty, its border pixels are continued outwards (label 0).

    Args:
        picture: uint8 (H, W, C).
        labels: uint8 (H, W), resampled with it (nearest).
        scale: > 1 enlarges.
        anchor: x, y in pixels.
    """
    height, width = labels.shape
    left, top = anchor[0] * (1 - 1 / scale), anchor[1] * (1 - 1 / scale)
    if scale > 1:
        # Keep the window inside the picture: an enlarged character must not drag in border that is not needed.
        left, top = np.clip(left, 0, width - width / scale), np.clip(top, 0, height - height / scale)
    pad = math.ceil(max(0.0, -left, -top, left + width / scale - width, top + height / scale - height))
    padded = np.pad(_empty_border(picture, labels), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    padded[pad : pad + height, pad : pad + width] = picture
    box = (left + pad, top + pad, left + pad + width / scale, top + pad + height / scale)
    planes = [
        np.asarray(Image.fromarray(padded[..., c]).resize((width, height), Image.Resampling.BICUBIC, box=box))
        for c in range(picture.shape[-1])
    ]
    ys = np.floor(top + (np.arange(height) + 0.5) / scale).astype(int)
    xs = np.floor(left + (np.arange(width) + 0.5) / scale).astype(int)
    inside = ((ys >= 0) & (ys < height))[:, None] & ((xs >= 0) & (xs < width))[None]
    moved = np.where(inside, labels[ys.clip(0, height - 1)][:, xs.clip(0, width - 1)], 0).astype(np.uint8)
    return Reframed(picture=np.stack(planes, axis=-1), labels=moved, invented_share=float(1 - inside.mean()))
