"""The motion error of a segment: how far the output's joints are from where the driving video's are."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionError:
    """Joints of the output against those of the driving video, place and size of the body left out.

    Attributes:
        frames: the frames that could be compared, counted within the segment.
        errors: in each of them the mean distance of the joints, in torso lengths; of several people the largest.
        reason: why no frame could be compared.
    """

    frames: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()
    reason: str = ""

    @property
    def value(self) -> float | None:
        """The median over the frames: single frames in which a joint was mistaken do not count; None without any."""
        return median(self.errors) if self.errors else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, `value` among them."""
        return asdict(self) | {"frames": list(self.frames), "errors": list(self.errors), "value": self.value}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "MotionError":
        return cls(frames=tuple(values["frames"]), errors=tuple(values["errors"]), reason=values["reason"])
