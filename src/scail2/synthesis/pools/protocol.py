"""What the loop asks of its pools. Both are drawn from by seed, and give the same for the same name."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from scail2.data import pairs
from scail2.data.triplet_settings import SampleKind
from scail2.synthesis.generators.protocol import Character, Motion

STYLE_SHARES = {"3d": 0.57, "2d": 0.33, "real": 0.09}
"""Of the published references; they add up to 0.99 there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolMotion:
    """A motion, and the clip of it as a pair holds it: y.

    Attributes:
        motion: as generators take it; its masks show the clip's characters in the order of the slots.
        real: frames, tracks and whatever else is known; with pose renders where they are known.
        meta: sources, licences and the like, for the pair's record.
    """

    motion: Motion
    real: pairs.Clip
    meta: dict[str, Any] = field(default_factory=dict)


class MotionPool(Protocol):
    """Motions."""

    def draw(self, kind: SampleKind, seed: int) -> str:
        """Name of a motion with as many performers as a pair of this kind needs.

        Raises:
            InputError: there is none.
        """

    def motion(self, name: str) -> PoolMotion:
        """The motion of that name; InputError if it is none of this pool's."""

    @property
    def num_parts(self) -> int:
        """Part classes of the clips' part maps, 0 where there are none."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""


class CharacterPool(Protocol):
    """Characters, in the published proportions of styles."""

    def draw(self, count: int, seed: int, without: Collection[str]) -> list[str]:
        """Names of so many different characters, fewer where there are no more."""

    def character(self, name: str) -> Character:
        """The character of that name; InputError if it is none of this pool's."""

    def is_standing(self, name: str) -> bool:
        """Whether its picture already shows the whole character standing before white."""

    def meta(self, name: str) -> dict[str, Any]:
        """Source, licence and the like, for the record of a pair."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""
