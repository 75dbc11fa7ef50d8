"""The check of whole clips as the loop asks for it."""

from dataclasses import dataclass
from typing import Any

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
