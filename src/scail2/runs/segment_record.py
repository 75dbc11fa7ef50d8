"""What is recorded of a finished segment, as JSON beside its frames."""

from dataclasses import dataclass, field
from pathlib import Path

from scail2.runs.sealed import read_sealed

RECORD = "segment.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRecord:
    """What a finished segment was made of and what it contains.

    ``key`` is the hash of everything that decides its frames apart from its predecessor; ``previous_state`` is the
    predecessor's ``state`` (hash of float history and generator state) it continued from. ``also_continues`` lists
    states of replaced versions of this segment from which the next segment may still be continued: that is how a
    segment is re-rendered alone. ``seed`` is the segment's own (None: its noise continues the run's generator), and
    ``run_seed`` the run's when it was rendered. ``file_sha256`` is the hash of the frames' file as it was written.
    """

    index: int
    key: str
    previous_state: str
    state: str
    frames_sha256: str
    num_frames: int
    seed: int | None = None
    run_seed: int | None = None
    also_continues: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    file_sha256: str = field(default="", compare=False)

    def accepted_states(self) -> tuple[str, ...]:
        """States the next segment may have been continued from."""
        return (self.state, *self.also_continues)


def read_record(folder: Path) -> SegmentRecord:
    """A segment's record. Raises `DocumentError` when its file is damaged or edited, `OSError` when it cannot be read."""
    return read_sealed(folder / RECORD, SegmentRecord)
