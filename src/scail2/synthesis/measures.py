"""What of a generated clip can be measured without opinions: who is there, how they look and move, what flickers or stands.

Every measure is 0 for a perfect clip and grows with the fault. Looks are compared as `drift` compares them, motions by the
joints that the extra `people` finds; where it finds none, outlines are what there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np

from scail2.drift.driving import DrivingMeasures
from scail2.drift.glance import Glance
from scail2.drift.measure import SegmentDrift, measure_segment
from scail2.drift.statistics import SegmentStatistics, identity_distance, segment_statistics
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.joints import HAND_JOINTS, Joints, body_on, motion_error
from scail2.perception.segmenters.people.network import PoseNetwork, installed
from scail2.synthesis.generators.protocol import Array
from scail2.synthesis.performers import widened

# Looks are compared in so many parts of a clip, joints in so many frames.
_PARTS, _LOOKED_AT = 4, 7
_FEWEST = 3
# A performer stands still whose outline changes by less than this share of itself.
_STILL = 0.02
# Whoever covers less than this share of what the expected ones do is a speck.
_SPECK = 0.12
# Pixels around characters, as a share of the shorter side, that belong neither to them nor to the scene.
_SOFT_EDGE = 0.02
_NORMAL_HEIGHT = 48
# Cells over which outlines are softened, twice: another body's arm is where the performer's is to within half of that.
_SOFTENED = 7
_NOT_PICTURED = "it is not known where in its picture the character is: give a mask"


class Measure(StrEnum):
    """What is measured."""

    COUNT = "count"
    IDENTITY = "identity"
    CHANGE = "change"
    MOTION = "motion"
    OUTLINE = "outline"
    HANDS = "hands"
    HAND_BLUR = "hand_blur"
    FLICKER = "flicker"
    FROZEN = "frozen"
    REPEATED = "repeated"
    BACKGROUND = "background"
    SCENE = "scene"


MEANING = {
    Measure.COUNT: "share of frames that show another number of characters than they should",
    Measure.IDENTITY: "look of the character against its picture, 0 the same to 1",
    Measure.CHANGE: "largest change of its look within the clip, 0 none to 1",
    Measure.MOTION: "joints against the driving video's, torso lengths (median over frames)",
    Measure.OUTLINE: "how the outline changes against the driving performer's, 0 one motion, 1 nothing in common",
    Measure.HANDS: "joints of the hands against the driving video's, torso lengths (median over frames)",
    Measure.HAND_BLUR: "detail of the hands that is missing beside the driving video's, in factors of two",
    Measure.FLICKER: "largest change of the whole picture that is taken back, grey levels",
    Measure.FROZEN: "frames that stand still in a row while the driving video moves",
    Measure.REPEATED: "share of frames that repeat the one before while the driving video moves",
    Measure.BACKGROUND: "look of an animation's scene against its picture, 0 the same to 1",
    Measure.SCENE: "a replacement's scene against the driving video's, grey levels (mean of the worst quarter of the frames)",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A generated clip and what it is measured against, at one size.

    Attributes:
        frames, driving: uint8 (T, H, W, 3), the clip and the motion's.
        fps: of both.
        picture, pictured: the character's picture uint8 (H, W, 3), and where it is in it, bool (H, W); nowhere if nobody knows.
        performer: bool (T, H, W), whom of the driving clip the character stands in for.
        others: bool (S, T, H, W), who else should be seen: nobody in an animation.
        found: bool (S, T, H, W), the characters of the clip.
    """

    mode: AnimationMode
    frames: Array
    driving: Array
    picture: Array
    pictured: Array
    performer: Array
    others: Array
    found: Array

    @cached_property
    def shown(self) -> Array:
        """bool (T, H, W): the found character that stands where the performer does, or nobody."""
        if not len(self.found):
            return np.zeros(self.frames.shape[:3], bool)
        overlaps = (self.found & self.performer).sum(axis=(1, 2, 3))
        areas = self.found.sum(axis=(1, 2, 3))
        return np.asarray(self.found[int((overlaps if overlaps.any() else areas).argmax())])


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Values by measure, and why others could not be taken."""

    values: Mapping[Measure, float]
    unmeasured: Mapping[Measure, str] = field(default_factory=dict)


def measure(subject: Subject, network: PoseNetwork | None = None) -> Measured:
    """All measures that apply to a clip of its mode."""
    values: dict[Measure, float] = {Measure.COUNT: count_error(subject)}
    missing: dict[Measure, str] = {}
    if subject.shown.any():
        values |= _looks(subject)
        if Measure.IDENTITY not in values:
            missing[Measure.IDENTITY] = _NOT_PICTURED
        outline = outline_error(subject.shown, subject.performer)
        if np.isfinite(outline):
            values[Measure.OUTLINE] = outline
        else:
            missing[Measure.OUTLINE] = "the performer hardly moves"
        moved, reason = _joints(subject, network)
        values |= moved
        missing |= {each: reason for each in (Measure.MOTION, Measure.HANDS, Measure.HAND_BLUR) if each not in moved}
    else:
        nobody = (Measure.IDENTITY, Measure.CHANGE, Measure.OUTLINE, Measure.MOTION, Measure.HANDS, Measure.HAND_BLUR)
        missing |= dict.fromkeys(nobody, "nobody was found in the clip")
    values |= _steadiness(subject)
    values |= _surroundings(subject)
    if subject.mode is AnimationMode.ANIMATION and Measure.BACKGROUND not in values:
        missing[Measure.BACKGROUND] = _NOT_PICTURED
    return Measured(values=values, unmeasured=missing)


# ---- who ------------------------------------------------------------------------------------------------------------


def count_error(subject: Subject) -> float:
    """Share of frames whose number of characters is wrong; specks are nobody, and who is expected as one may be missed."""
    expected = np.concatenate([subject.performer[None], subject.others])
    sizes = expected.sum(axis=(2, 3)).astype(float)
    usual = np.median(sizes[sizes > 0]) if sizes.any() else 0.0
    wanted = (sizes > 2 * _SPECK * usual).sum(axis=0)
    least = (sizes > 0).sum(axis=0)
    counted = (subject.found.sum(axis=(2, 3)) > _SPECK * usual).sum(axis=0)
    return float(((counted < wanted) | (counted > least)).mean())


def _looks(subject: Subject) -> dict[Measure, float]:
    looks = _parts(subject.frames, subject.shown)
    found = {Measure.CHANGE: max((identity_distance(each, looks[0]) for each in looks[1:]), default=0.0)}
    if subject.pictured.any():
        base = segment_statistics(subject.picture[None], subject.pictured[None])
        found[Measure.IDENTITY] = float(np.median([identity_distance(each, base) for each in looks]))
    return found


def _parts(frames: Array, region: Array) -> list[SegmentStatistics]:
    """Statistics of a region in each part of a clip that shows it."""
    numbers = np.flatnonzero(region.any(axis=(1, 2)))
    parts = [part for part in np.array_split(numbers, min(_PARTS, len(numbers))) if len(part)] if len(numbers) else []
    return [segment_statistics(frames[part], region[part]) for part in parts]


# ---- motion ---------------------------------------------------------------------------------------------------------


def outline_error(shown: Array, performer: Array) -> float:
    """1 - correlation over time of two outlines bool (T, H, W), each brought to one usual place and height, and softened.

    Of each cell only its difference from its mean over the clip counts, so bodies may differ: what is compared is when which
    part of the picture is covered. Softened, since arms are thin: of two bodies that move alike they cover other cells. 0 is one
    motion, 1 are two that have nothing in common. NaN where the performer hardly moves or fewer than three frames show both; 1
    where the character is never seen.
    """
    both = np.flatnonzero(shown.any(axis=(1, 2)) & performer.any(axis=(1, 2)))
    if not len(both):
        return 1.0
    ours, theirs = (_normal(mask[both]).astype(np.float32) for mask in (shown, performer))
    if len(both) < _FEWEST or ((theirs - theirs.mean(axis=0)) ** 2).sum() < _STILL * theirs.sum():
        return float("nan")
    ours, theirs = (_softened(each) for each in (ours, theirs))
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    energies = float((ours**2).sum()), float((theirs**2).sum())
    return 1.0 - float((ours * theirs).sum()) / max(np.sqrt(energies[0] * energies[1]), 1e-9)


def _softened(cells: Array) -> Array:
    """Cells (T, H, W), each the mean of its neighbourhood, taken twice along both axes; nothing is beyond the edges."""
    for axis in (1, 2, 1, 2):
        length = cells.shape[axis]
        around = [(0, 0)] * 3
        around[axis] = (_SOFTENED // 2 + 1, _SOFTENED // 2)
        sums = np.cumsum(np.pad(cells, around), axis=axis, dtype=np.float64)
        ends = [np.take(sums, range(start, start + length), axis=axis) for start in (_SOFTENED, 0)]
        cells = (ends[0] - ends[1]) / _SOFTENED
    return cells


def _normal(masks: Array) -> Array:
    """Masks bool (T, H, W) on a grid in which the character is usually 48 cells tall and in the middle, bool (T, 96, 96)."""
    heights, middles = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        heights.append(rows[-1] + 1 - rows[0])
        middles.append(((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2))
    step = float(np.median(heights)) / _NORMAL_HEIGHT
    middle = np.median(middles, axis=0)
    around = (np.arange(2 * _NORMAL_HEIGHT) - _NORMAL_HEIGHT + 0.5) * step
    height, width = masks.shape[1:]
    rows, columns = (np.floor(middle[axis] + 0.5 + around).astype(int) for axis in (0, 1))
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    return np.asarray(masks[:, rows.clip(0, height - 1)][:, :, columns.clip(0, width - 1)] & inside)


def _joints(subject: Subject, network: PoseNetwork | None) -> tuple[dict[Measure, float], str]:
    """Errors of the joints, and why there are none."""
    if not installed():
        return {}, "joints are found with the extra people: pip install 'scail2[people]'"
    network = network or PoseNetwork()
    numbers = sorted({int(each) for each in np.linspace(0, len(subject.frames) - 1, _LOOKED_AT).round()})
    pairs = [
        (
            body_on(network, subject.frames[n], subject.shown[n]),
            body_on(network, subject.driving[n], subject.performer[n]),
        )
        for n in numbers
    ]
    ours, theirs = (Joints.of([[pair[side] for pair in pairs]]) for side in (0, 1))
    errors = motion_error(ours, theirs)[0]
    if np.isfinite(errors).sum() < _FEWEST:
        return {}, "no person's joints were found on enough frames of both clips"
    values = {Measure.MOTION: float(np.nanmedian(errors))}
    hands = motion_error(ours, theirs, HAND_JOINTS)[0]
    if np.isfinite(hands).sum() >= _FEWEST:
        values[Measure.HANDS] = float(np.nanmedian(hands))
    details = [
        _hand_detail(frames[numbers], joints, mask[numbers])
        for frames, joints, mask in (
            (subject.frames, ours, subject.shown),
            (subject.driving, theirs, subject.performer),
        )
    ]
    if np.isfinite(details).all():
        values[Measure.HAND_BLUR] = max(0.0, details[1] - details[0])
    return values, "the hands were not seen on enough frames of both clips"


def _hand_detail(frames: Array, joints: Joints, body: Array) -> float:
    """log2 of the detail inside the hands' boxes over that of the whole character; NaN where no hand is seen."""
    from scail2.drift.colour import luma

    height, width = frames.shape[1:3]
    inside, whole = [], []
    for number, frame in enumerate(frames):
        grey = luma(frame.astype(np.float32) / 255)
        detail = np.zeros_like(grey)
        detail[1:-1, 1:-1] = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
        whole.append(detail[body[number]])
        for x0, y0, x1, y1 in joints.hand_boxes()[0, number]:
            if np.isfinite([x0, y0, x1, y1]).all():
                rows = slice(int(np.clip(y0, 0, height)), int(np.clip(np.ceil(y1), 0, height)))
                columns = slice(int(np.clip(x0, 0, width)), int(np.clip(np.ceil(x1), 0, width)))
                inside.append(detail[rows, columns].ravel())
    here, there = (np.concatenate(each) if each else np.zeros(0) for each in (inside, whole))
    if not len(here) or not len(there):
        return float("nan")
    return float(np.log2((np.square(here).mean() + 1.0) / (np.square(there).mean() + 1.0)))


# ---- the whole picture ----------------------------------------------------------------------------------------------


def _steadiness(subject: Subject) -> dict[Measure, float]:
    theirs = Glance.at(subject.driving)
    statistics = segment_statistics(subject.driving[:1])
    replaces = subject.mode is AnimationMode.REPLACEMENT
    driving = DrivingMeasures(glance=theirs, statistics=statistics, first=None, is_scene=replaces)
    drift = measure_segment(subject.frames, reference=None, driving=driving)
    # A light that flickers in the driving scene flickers in a replacement, too.
    own = float(theirs.flicker().max(initial=0.0)) if replaces else 0.0
    first, last = drift.stalled or (0, -1)
    return {
        Measure.FLICKER: max(0.0, (drift.flicker or 0.0) - own),
        Measure.FROZEN: float(last - first + 1),
        Measure.REPEATED: _repeated(drift, theirs.steps),
    }


def _repeated(drift: SegmentDrift, driving: Array) -> float:
    """Share of the frames that repeat the one before although the driving video moves at least half as much as usual."""
    if not len(driving):
        return 0.0
    moves = driving > 0.5 * float(np.median(driving))
    return float(sum(bool(moves[number - 1]) for number in drift.repeated_frames) / len(driving))


def _surroundings(subject: Subject) -> dict[Measure, float]:
    margin = max(1, round(_SOFT_EDGE * min(subject.frames.shape[1:3])))
    everybody = np.any(subject.found, axis=0) if len(subject.found) else np.zeros(subject.frames.shape[:3], bool)
    if subject.mode is AnimationMode.REPLACEMENT:
        performers = subject.performer | np.any(subject.others, axis=0) if len(subject.others) else subject.performer
        scene = ~widened(everybody | performers, margin)
        return {Measure.SCENE: _scene_error(subject.frames, subject.driving, scene)}
    behind = ~widened(subject.pictured[None], margin)
    ours = _parts(subject.frames, ~widened(everybody, margin))
    if not ours or not behind.any() or not subject.pictured.any():
        return {}
    base = segment_statistics(subject.picture[None], behind)
    return {Measure.BACKGROUND: max(identity_distance(each, base) for each in ours)}


def _scene_error(frames: Array, driving: Array, scene: Array) -> float:
    errors = [
        float(np.abs(ours[here].astype(np.int16) - theirs[here]).mean()) if here.any() else 0.0
        for ours, theirs, here in zip(frames, driving, scene, strict=True)
    ]
    return float(np.mean(sorted(errors)[-max(1, len(errors) // 4) :]))
