"""What the driving video does meanwhile: what it explains is no fault of the output."""

from dataclasses import dataclass, replace

from scail2.drift.glance import Glance
from scail2.drift.statistics import Difference, SegmentStatistics, compare


@dataclass(frozen=True, kw_only=True, slots=True)
class DrivingMeasures:
    """Of the driving frames that belong to a segment.

    Attributes:
        glance: the frames of the previous segment's tail, where there is one, and of the segment.
        statistics: of the segment's frames, in its characters' masks; of small pictures, which is enough for colours.
        first: the same of the first segment; None for that itself.
        is_scene: whether the output shows the driving video's surroundings (replacement).
    """

    glance: Glance
    statistics: SegmentStatistics
    first: SegmentStatistics | None
    is_scene: bool

    @property
    def to_first(self) -> Difference:
        """How the driving frames differ from those of the first segment; surroundings only where the output shows them."""
        found = compare(self.statistics, self.first or self.statistics)
        return found if self.is_scene else replace(found, colour_outside=None)
