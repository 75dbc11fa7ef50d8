"""What can happen to a pair in the making, in which phase, and why it is discarded in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from scail2.synthesis.roles.protocol import Finding


class Phase(StrEnum):
    """What is to happen next."""

    DRAW = "draw"
    SELECT = "select"
    WEAVE = "weave"
    EDIT = "edit"
    JUDGE_PICTURE = "judge_picture"
    GENERATE = "generate"
    CHECK_CLIP = "check_clip"
    JUDGE_CLIP = "judge_clip"
    EXTRACT = "extract"
    CAPTION = "caption"
    ACCEPTED = "accepted"
    DISCARDED = "discarded"

    @property
    def is_over(self) -> bool:
        """Whether nothing is to happen any more."""
        return self in (Phase.ACCEPTED, Phase.DISCARDED)


class Reason(StrEnum):
    """Why a pair was discarded."""

    NO_CANDIDATE = "no_candidate"  # nobody suits the motions that were drawn
    POSE = "pose"  # no edit reached the posture
    ENVIRONMENT = "environment"  # no edit got the scene right
    PICTURE = "picture"  # pictures failed altogether
    CLIP_CHECK = "clip_check"  # the measures of the whole clip refuse it
    CLIP_JUDGED = "clip_judged"  # the judge refuses it
    NO_POSE = "no_pose"  # nobody's pose is found in the motion
    NO_ANSWER = "no_answer"  # a role or the generator could not do its part


# ---- what happens ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A motion, whom to replace in which order (one number in animation), and candidates; all by name."""

    motion: str
    order: tuple[int, ...]
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """A candidate, or nobody."""

    character: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Woven:
    """The instruction for the editor."""

    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Edited:
    """A picture, by the hash of its pixels."""

    picture: str
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureJudged:
    """What the judge makes of it."""

    finding: Finding
    remark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """A clip, by the hash of its frames, and the seed that it was generated with."""

    clip: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipChecked:
    """What the measures of the whole clip say."""

    passed: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipJudged:
    """What the judge makes of it."""

    finding: Finding
    remark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """Whether the motion's performers have poses."""

    found: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioned:
    """Words about both clips; of a pose pair only about the real one."""

    real: str
    synthetic: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A role or generator could not do what it was asked, in its own words."""

    message: str


Event = (
    Drawn | Selected | Woven | Edited | PictureJudged | Generated | ClipChecked | ClipJudged | Extracted | Captioned
) | Failed  # fmt: skip

EXPECTED: Mapping[Phase, type] = MappingProxyType(
    {
        Phase.DRAW: Drawn,
        Phase.SELECT: Selected,
        Phase.WEAVE: Woven,
        Phase.EDIT: Edited,
        Phase.JUDGE_PICTURE: PictureJudged,
        Phase.GENERATE: Generated,
        Phase.CHECK_CLIP: ClipChecked,
        Phase.JUDGE_CLIP: ClipJudged,
        Phase.EXTRACT: Extracted,
        Phase.CAPTION: Captioned,
    }
)
"""The one event of each phase; `Failed` may come in any of them."""
