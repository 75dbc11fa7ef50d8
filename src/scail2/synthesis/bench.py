"""What pairs are made with, and which of them are to be made."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from scail2.data.triplet_settings import SampleKind
from scail2.modes import AnimationMode
from scail2.synthesis.generators.protocol import Generator
from scail2.synthesis.machine import Budget
from scail2.synthesis.pools.protocol import CharacterPool, MotionPool
from scail2.synthesis.roles.protocol import Made, Roles


class Verdict(Protocol):
    """What the measures of a clip come to."""

    @property
    def passed(self) -> bool:
        """Whether all of them are within their bounds."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Those that are not, in words."""


class ClipCheck(Protocol):
    """Measures whole clips."""

    def check(self, made: Made) -> Verdict:
        """Of a generated clip."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that pairs are made with.

    Attributes:
        generators: for animation and for replacement.
        candidates: characters that the selector may choose from.
    """

    motions: MotionPool
    characters: CharacterPool
    roles: Roles
    generators: Mapping[AnimationMode, Generator]
    check: ClipCheck
    budget: Budget
    candidates: int = 4
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """What decides what comes out."""
        return {
            "motions": self.motions.describe(),
            "characters": self.characters.describe(),
            "roles": self.roles.describe(),
            "generators": {mode.value: generator.describe() for mode, generator in self.generators.items()},
            "check": self.check.describe(),
            "budget": dataclasses.asdict(self.budget),
            "candidates": self.candidates,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A pair to make: its key in the shards, its number in the run, its kind."""

    key: str
    number: int
    kind: SampleKind
