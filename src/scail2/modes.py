"""What an animation mode means: one table, read by masks, positions and conditions, and nowhere turned into code paths.

The rows follow the method's two tables (in-context mask backgrounds, mode-specific shifted rotary positions).
"""

from dataclasses import dataclass
from enum import StrEnum

from scail2.errors import InputError, short


class AnimationMode(StrEnum):
    """Where the environment of the output comes from: the reference picture or the driving video."""

    ANIMATION = "animation"
    REPLACEMENT = "replacement"

    @classmethod
    def parse(cls, value: "AnimationMode | str") -> "AnimationMode":
        """Turn ``"animation"`` or ``"replacement"`` (any letter case) into a mode; raise ``InputError`` otherwise."""
        if isinstance(value, cls):
            return value
        try:
            return cls(value.strip().lower())
        except (AttributeError, ValueError):
            names = " or ".join(repr(mode.value) for mode in cls)
            raise InputError(f"mode is {short(value)}; it must be {names}.") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeTraits:
    """Everything in which the two modes differ.

    Attributes:
        reference_background: background colour of the reference mask; white says "this background is to be seen".
        driving_background: background colour of the driving mask.
        shifts_reference_height: whether reference tokens are moved in height by the model's reference height shift.
        video_follows_reference_time: whether the video starts one time step after the reference (True) or at the
            reference's own time step (False).
        black_out_reference: whether reference pixels that their mask leaves black are blacked out before encoding.
    """

    reference_background: str
    driving_background: str
    shifts_reference_height: bool
    video_follows_reference_time: bool
    black_out_reference: bool


MODE_TRAITS: dict[AnimationMode, ModeTraits] = {
    AnimationMode.ANIMATION: ModeTraits(
        reference_background="white",
        driving_background="black",
        shifts_reference_height=False,
        video_follows_reference_time=True,
        black_out_reference=False,
    ),
    AnimationMode.REPLACEMENT: ModeTraits(
        reference_background="black",
        driving_background="white",
        shifts_reference_height=True,
        video_follows_reference_time=False,
        black_out_reference=True,
    ),
}
