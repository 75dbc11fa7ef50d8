"""What every generator takes and gives, and what it says about itself. Arrays are uint8 RGB; T frames of H x W pixels."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.joints import Joints

Array = np.ndarray


class GenerationError(InputError):
    """A generator ran and made nothing of use: another try, or another character, may do better."""


class Style(StrEnum):
    """How a character is drawn; the published data has 57 % of the first, 33 % of the second and 9 % of the third."""

    THREE_D = "3d"
    TWO_D = "2d"
    REAL = "real"


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """Frames uint8 (T, H, W, 3) and how many of them make a second."""

    frames: Array
    fps: float

    def __post_init__(self) -> None:
        _check_pictures(self.frames, 4, "a clip's frames")
        if not self.fps > 0:
            raise InputError(f"The frame rate of a clip is {self.fps}: it must be above 0.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1], self.frames.shape[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """Who is to be seen.

    Attributes:
        image: uint8 (H, W, 3), the character in the environment that an animation shows.
        mask: uint8 (H, W, 3), the character in a slot's colour, or None where nobody has made one.
        caption: what the picture shows, in words; also the prompt of generators that take one.
        source: where the picture comes from, for the data card; `puppet:…` names a drawn one.
    """

    name: str
    style: Style
    image: Array
    mask: Array | None = None
    caption: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        _check_pictures(self.image, 3, f"the picture of {self.name}")
        if self.mask is not None:
            _check_pictures(self.mask, 3, f"the mask of {self.name}")
            _check_same(self.mask.shape, self.image.shape, f"The mask of {self.name} is", "its picture")


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """What is to be performed.

    Attributes:
        clip: somebody who performs it.
        masks: uint8 (T, H, W, 3), each performer in a slot's colour on one background; None where nobody has made them.
        joints: what a pose estimator says of the clip. Generators that are driven by poses believe it and estimate none of
            their own.
        source: where the clip comes from; `puppet:…` names a drawn one.
    """

    name: str
    clip: Clip
    masks: Array | None = None
    joints: Joints | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.masks is not None:
            _check_pictures(self.masks, 4, f"the masks of {self.name}")
            _check_same(self.masks.shape, self.clip.frames.shape, f"The masks of {self.name} are", "its clip")
        if self.joints is not None and self.joints.places.shape[1] != len(self.clip.frames):
            raise InputError(
                f"The joints of {self.name} are of {self.joints.places.shape[1]} frames, its clip has {len(self.clip.frames)}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorFacts:
    """What is known about a generator before anything is spent on it.

    Attributes:
        licence: of code and weights, in a few words; "none stated" is a fact, too.
        modes: which constructions it can make.
        max_characters: that it can draw in one call.
        seconds_per_frame: an estimate for one frame of output; None where nobody has measured it.
        cannot: what it is not able to do, a sentence each.
        measured_on: what the estimate is of: card, size, steps, and who says so.
        driven_by_poses: whether it repeats the joints that come with a motion, right or wrong.
    """

    name: str
    licence: str
    modes: tuple[AnimationMode, ...]
    max_characters: int
    seconds_per_frame: float | None = None
    cannot: tuple[str, ...] = ()
    measured_on: str = ""
    driven_by_poses: bool = False

    def check(self, mode: AnimationMode, characters: int = 1) -> None:
        """Refuses what the generator cannot do.

        Raises:
            InputError: it has no such mode, or draws fewer characters at once.
        """
        if mode not in self.modes:
            able = " and ".join(each.value for each in self.modes)
            raise InputError(f"The generator {self.name} makes {able}, not {mode.value}: choose another for it.")
        if characters > self.max_characters:
            raise InputError(
                f"The generator {self.name} draws at most {self.max_characters} at once, not {characters} characters: "
                "replace them one after the other."
            )


class Generator(Protocol):
    """Draws a character that performs a motion. A pure function of its arguments and settings."""

    @property
    def facts(self) -> GeneratorFacts:
        """What it is and can do."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that fix the output: name, settings, versions of what is run."""

    def generate(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> Clip:
        """The character performs the motion: in its own picture (animation) or in the clip's scene (replacement).

        Args:
            masks: uint8 (T, H, W, 3), the performers that the character stands in for, in slot colours, when these are not
                all of `motion.masks`; None means all of them.
            seed: of whatever is drawn.

        Returns:
            As many frames as the motion's clip, at its rate; of its size, unless the generator's facts say otherwise.

        Raises:
            GenerationError: it tried, and nothing came of it.
            InputError: the generator cannot do this, or lacks what it needs (masks, joints, the extra `people`).
        """


def _check_pictures(pixels: Array, axes: int, what: str) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != axes or pixels.shape[-1] != 3 or not pixels.size:
        shape = "(T, H, W, 3)" if axes == 4 else "(H, W, 3)"
        raise InputError(f"{what} must be uint8 {shape}, not {pixels.dtype} {pixels.shape}.")


def _check_same(ours: tuple[int, ...], theirs: tuple[int, ...], what: str, whose: str) -> None:
    if ours != theirs:
        raise InputError(f"{what} {ours[:-1]}, {whose} {theirs[:-1]}: they must agree.")
