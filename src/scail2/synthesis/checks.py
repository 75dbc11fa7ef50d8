"""The check of whole clips: what a generator made is measured, and refused where a measure is beyond its calibrated limit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.network import PoseNetwork
from scail2.synthesis.generators.protocol import Array, Character, Clip, Motion
from scail2.synthesis.limits import LIMITS, Limit
from scail2.synthesis.measures import MEANING, Measure, Subject, measure
from scail2.synthesis.performers import found_again, marked, performers, pictured

_REASONS = {
    Measure.COUNT: "{value:.0%} of the frames show another number of characters than they should",
    Measure.IDENTITY: "the character does not look like its picture ({value:.2f})",
    Measure.CHANGE: "the character's look changes within the clip ({value:.2f})",
    Measure.MOTION: "the motion is not the driving one: joints are {value:.2f} torso lengths off",
    Measure.OUTLINE: "the character's outline does not move as the driving performer's ({value:.2f})",
    Measure.HANDS: "the hands are {value:.2f} torso lengths off",
    Measure.HAND_BLUR: "the hands are blurred, by {value:.1f} factors of two",
    Measure.FLICKER: "the picture flickers by {value:.1f} grey levels",
    Measure.FROZEN: "{value:.0f} frames in a row stand still while the driving video moves",
    Measure.REPEATED: "{value:.0%} of the frames repeat the one before while the driving video moves",
    Measure.BACKGROUND: "the scene is not that of the character's picture ({value:.2f})",
    Measure.SCENE: "the driving video's scene was changed, by {value:.1f} grey levels",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipVerdict:
    """What was measured of a clip, and what is wrong with it.

    Attributes:
        values: by measure; 0 is perfect.
        reasons: a sentence for each value beyond its limit; empty for a clip that passes.
        beyond: the measures that those sentences are about.
        unmeasured: why a measure could not be taken; that alone refuses nothing.
    """

    values: Mapping[Measure, float]
    reasons: tuple[str, ...] = ()
    beyond: tuple[Measure, ...] = ()
    unmeasured: Mapping[Measure, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong as far as it was measured."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "values": {name.value: round(value, 4) for name, value in self.values.items()},
            "unmeasured": {name.value: reason for name, reason in self.unmeasured.items()},
        }


def check_clip(
    clip: Clip,
    motion: Motion,
    character: Character,
    mode: AnimationMode = AnimationMode.ANIMATION,
    masks: Array | None = None,
    *,
    limits: Mapping[Measure, Limit] = LIMITS,
    network: PoseNetwork | None = None,
) -> ClipVerdict:
    """Measures a generated clip against the motion and the character it was made of.

    Args:
        clip: of the motion's length and size.
        masks: uint8 (T, H, W, 3), whom the character stands in for; None is all of the motion's masks.
        limits: beyond which a value is wrong; measures without a limit are only told.
        network: to be used again for the next clip; None loads it.

    Raises:
        InputError: the clip's size or length is not the motion's, or nobody is found in the motion's clip.
    """
    return judged(measure(subject_of(clip, motion, character, mode, masks), network), limits)


def judged(measured: Any, limits: Mapping[Measure, Limit] = LIMITS) -> ClipVerdict:
    """The verdict on values that were taken."""
    beyond = tuple(each for each, value in measured.values.items() if each in limits and value > limits[each].value)
    return ClipVerdict(
        values=measured.values,
        reasons=tuple(_REASONS[each].format(value=measured.values[each]) for each in beyond),
        beyond=beyond,
        unmeasured=measured.unmeasured,
    )


def subject_of(clip: Clip, motion: Motion, character: Character, mode: AnimationMode, masks: Array | None) -> Subject:
    """What `measure` takes; arguments and errors as for `check_clip`."""
    if clip.frames.shape != motion.clip.frames.shape:
        ours, theirs = clip.frames.shape[:3], motion.clip.frames.shape[:3]
        raise InputError(
            f"The generated clip is {ours} (frames, height, width), {motion.name} {theirs}: they must agree."
        )
    chosen = performers(motion, masks)
    performer = np.any(list(chosen.values()), axis=0)
    everybody = {} if motion.masks is None else marked(motion.masks)
    others = (
        [each for slot, each in everybody.items() if slot not in chosen] if mode is AnimationMode.REPLACEMENT else []
    )
    return Subject(
        mode=mode,
        frames=clip.frames,
        driving=motion.clip.frames,
        picture=character.image,
        pictured=_place_of(character),
        performer=performer,
        others=np.stack(others) if others else np.zeros((0, *performer.shape), bool),
        found=found_again(clip.frames, motion.clip.frames),
    )


def _place_of(character: Character) -> Array:
    """Where a character is in its picture, bool (H, W); nowhere if no segmenter here knows such pictures."""
    try:
        return np.asarray(np.any(list(pictured(character).values()), axis=0))
    except InputError:
        return np.zeros(character.image.shape[:2], bool)


def told(verdict: ClipVerdict) -> list[str]:
    """A verdict for people, a line for each measure."""
    lines = ["passed" if verdict.passed else f"refused: {'; '.join(verdict.reasons)}"]
    lines += [f"{each.value}: {value:.3f} ({MEANING[each]})" for each, value in verdict.values.items()]
    lines += [f"{each.value}: not measured, {reason}" for each, reason in verdict.unmeasured.items()]
    return lines
