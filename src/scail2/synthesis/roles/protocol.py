"""What the loop asks of its roles, and what they tell. A role is a pure function of its arguments, or its answers are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.synthesis.generators.protocol import Array, Character, Clip, Motion

T_co = TypeVar("T_co", covariant=True)


class RoleError(InputError):
    """A role gave no answer to this one question; the next may be answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told(Generic[T_co]):
    """A role's decision, and what there is to keep of how it came about.

    Attributes:
        prompt: what was asked, where words were used.
        answer: what came back, word by word.
        tokens, cost: what it took; cost in the currency of the endpoint's prices.
    """

    value: T_co
    prompt: str = ""
    answer: str = ""
    tokens: int = 0
    cost: float = 0.0


class Finding(StrEnum):
    """What a judge makes of a picture or clip, and what the loop does about it."""

    PASS = "pass"
    POSE = "pose"  # the pose is not that of the motion: the picture goes into another edit
    ENVIRONMENT = "environment"  # the motion's scene leaked in, or the scene makes no sense: it is edited
    FAILURE = "failure"  # another character, or nothing that could be mended


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """A judge's finding and its reason, in words that an editor can be told."""

    finding: Finding
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A selector's candidate, by number from 0; None if nobody suits this motion."""

    number: int | None
    reason: str = ""


class Task(StrEnum):
    """What an edit is for."""

    POSE = "pose"  # the character, in its own picture, in the posture of the motion's first frame
    ENVIRONMENT = "environment"  # the same picture with a scene that is the character's own
    STAND = "stand"  # the whole character, standing before white: what a replacement generator takes


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture in the making: uint8 (H, W, 3), and where it is from (a drawn one says what it shows)."""

    image: Array
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """What is to be made of what.

    Attributes:
        base: the picture to edit: the character's own, or an earlier result.
        character: who it is to show.
        motion: whose first frame gives posture and framing.
        performer: which of the motion's performers, from 0.
        remark: what the judge said about `base`, empty for a first edit.
    """

    task: Task
    base: Picture
    character: Character
    motion: Motion
    performer: int = 0
    remark: str = ""

    @property
    def guide(self) -> Array:
        """The motion's first frame, uint8 (H, W, 3)."""
        return self.motion.clip.frames[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A clip that a generator made, and all it was made of.

    Attributes:
        character: with the accepted picture as its image.
        mode: animation, or replacement.
        performer: which of the motion's performers it stands in for.
        masks: uint8 (T, H, W, 3), that performer; None in animation.
        seed: that the generator was given.
    """

    clip: Clip
    character: Character
    motion: Motion
    mode: AnimationMode = AnimationMode.ANIMATION
    performer: int = 0
    masks: Array | None = None
    seed: int = 0

    @property
    def replaces(self) -> bool:
        """Whether the rest of the motion's clip stays."""
        return self.mode is AnimationMode.REPLACEMENT

    @property
    def place(self) -> int:
        """Which of the clip's characters it is."""
        return self.performer if self.replaces else 0


class Selector(Protocol):
    """Picks whom a motion suits."""

    def select(self, motion: Motion, performer: int, candidates: Sequence[Character], seed: int) -> Told[Choice]:
        """The best candidate for the motion's first frame, or none of them."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""


class Weaver(Protocol):
    """Puts into words the picture that is to be made."""

    def weave(self, edit: Edit, seed: int) -> Told[str]:
        """An instruction for a picture editor: character, posture, background."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""


class PoseEditor(Protocol):
    """Makes pictures of several pictures and words."""

    def edit(self, edit: Edit, words: str, seed: int) -> Picture:
        """The picture asked for, of the guide's height and width."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""


class Judge(Protocol):
    """Says whether a picture or clip is what it should be."""

    def judge_picture(self, picture: Picture, edit: Edit, seed: int) -> Told[Ruling]:
        """Of an edit's result."""

    def judge_clip(self, made: Made, seed: int) -> Told[Ruling]:
        """Of a generated clip; `Finding.POSE` is a motion that is not the driving one."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""


class Captioner(Protocol):
    """Describes a clip at length, as training's captions do."""

    def caption(self, clip: Clip, subject: str, seed: int) -> Told[str]:
        """Words about the clip; `subject` is what is known of it, perhaps nothing."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """All of them."""

    selector: Selector
    weaver: Weaver
    editor: PoseEditor
    judge: Judge
    captioner: Captioner

    def describe(self) -> dict[str, Any]:
        """Each one's facts."""
        return {
            "selector": self.selector.describe(),
            "weaver": self.weaver.describe(),
            "editor": self.editor.describe(),
            "judge": self.judge.describe(),
            "captioner": self.captioner.describe(),
        }
