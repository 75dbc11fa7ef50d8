"""The check of whole clips as the loop asks for it."""

from dataclasses import dataclass, field
from typing import Any

from scail2.synthesis.checks import ClipVerdict, check_clip
from scail2.synthesis.limits import LIMITS, Limit
from scail2.synthesis.measures import Measure
from scail2.synthesis.roles.protocol import Made


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """A verdict without objections."""

    passed: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """No measures: the judge alone sees the clip."""

    def check(self, made: Made) -> Passed:
        """See `ClipCheck`."""
        return Passed()

    def describe(self) -> dict[str, Any]:
        """That nothing is measured."""
        return {"check": "none"}


@dataclass(frozen=True, kw_only=True)
class MeasuredClips:
    """Clips are measured, and refused beyond the limits that were calibrated on puppets.

    Attributes:
        limits: other values for some of the measures, or values for measures that have no limit.
        without: measures that refuse nothing.
    """

    limits: dict[Measure, float] = field(default_factory=dict)
    without: tuple[Measure, ...] = ()

    def check(self, made: Made) -> ClipVerdict:
        """See `ClipCheck`."""
        return check_clip(made.clip, made.motion, made.character, made.mode, made.masks, limits=self._limits)

    def describe(self) -> dict[str, Any]:
        """The limits in use."""
        return {"check": "measures", "limits": {name.value: limit.value for name, limit in self._limits.items()}}

    @property
    def _limits(self) -> dict[Measure, Limit]:
        chosen = LIMITS | {name: Limit(value=value) for name, value in self.limits.items()}
        return {name: limit for name, limit in chosen.items() if name not in self.without}
