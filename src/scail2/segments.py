"""Segment plans: how a video of any length is cut into the windows the network generates one after the other.

Every window has ``4n + 1`` frames (the video autoencoder's first latent frame stands alone, every other for 4 frames).
A later window begins on the last ``overlap`` output frames of the one before; a window that runs past the end of the
driving video is padded by repeating its last frame and cut after decoding. Output frames = driving frames, exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

from scail2.errors import InputError


def round_up_frames(frames: int, temporal_stride: int = 4) -> int:
    """Smallest ``temporal_stride * n + 1`` that is at least ``frames`` (``frames >= 1``)."""
    return (frames - 1 + temporal_stride - 1) // temporal_stride * temporal_stride + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One window of a plan; frame numbers count in the driving video.

    Attributes:
        index: place in the plan.
        start, stop: driving frames ``[start, stop)`` it covers.
        padded_frames: frames the network sees, ``>= stop - start``, of the form ``4n + 1``.
        overlap: how many of its first frames are the previous segment's output (0 for the first).
    """

    index: int
    start: int
    stop: int
    padded_frames: int
    overlap: int

    @property
    def first_new(self) -> int:
        """First driving frame whose output this segment contributes."""
        return self.start + self.overlap

    @property
    def new_frames(self) -> int:
        """Number of output frames this segment contributes: ``[first_new, stop)``."""
        return self.stop - self.first_new

    @property
    def padding(self) -> int:
        """Repetitions of the last driving frame."""
        return self.padded_frames - (self.stop - self.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentPlan:
    """All segments of a driving video of ``total`` frames. Made by ``SegmentPlan.of``."""

    total: int
    segments: tuple[Segment, ...]

    @classmethod
    def of(
        cls,
        total: int,
        *,
        segment_frame_length: int = 81,
        overlap: int = 5,
        equal: bool = False,
        temporal_stride: int = 4,
    ) -> "SegmentPlan":
        """Plan the segments of a video.

        Args:
            total: frames of the driving video, at least 1.
            segment_frame_length: frames of a full segment, ``4n + 1``.
            overlap: frames a later segment shares with the one before, ``4n + 1`` and less than a segment.
            equal: False is the published plan: full segments and a tail as short as needed. True gives as many
                segments, all of one length (the shortest that reaches the end), which is one shape for compiled code.
                Where that would leave a short tail, which drifts most, the last ones are a latent frame shorter.
            temporal_stride: frames per latent frame of the video autoencoder.

        Raises:
            InputError: a number is out of range or not of the form ``4n + 1``.
        """
        _check(total, segment_frame_length, overlap, temporal_stride)
        count = 1 if total <= segment_frame_length else -(-(total - overlap) // (segment_frame_length - overlap))
        lengths = [segment_frame_length] * count
        if equal and count > 1:
            lengths = _even(total - overlap, count, overlap, temporal_stride)
        segments, start = [], 0
        for index, length in enumerate(lengths):
            stop = min(start + length, total)
            padded = length if equal and count > 1 else round_up_frames(stop - start, temporal_stride)
            segments.append(
                Segment(index=index, start=start, stop=stop, padded_frames=padded, overlap=overlap if index else 0)
            )
            start = stop - overlap
        return cls(total=total, segments=tuple(segments))

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __getitem__(self, index: int) -> Segment:
        return self.segments[index]


def _even(new_frames: int, count: int, overlap: int, stride: int) -> list[int]:
    """Lengths of ``count`` segments that have ``new_frames`` together, beyond the overlap with what is before each."""
    length = round_up_frames(overlap + -(-new_frames // count), stride)
    spare = count * (length - overlap) - new_frames
    shorter = spare // stride if 4 * spare > length - overlap and spare >= 2 * stride else 0  # one alone gains nothing
    return [length] * (count - shorter) + [length - stride] * shorter


def _check(total: int, length: int, overlap: int, stride: int) -> None:
    numbers = {
        "number of frames": total,
        "segment_frame_length": length,
        "overlap": overlap,
        "temporal_stride": stride,
    }
    for name, value in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InputError(f"segment plan: {name} is {value!r}; it must be a whole number.")
        if value < 1:
            raise InputError(f"segment plan: {name} is {value}; it must be at least 1.")
    for name in ("segment_frame_length", "overlap"):
        if (numbers[name] - 1) % stride:
            raise InputError(
                f"segment plan: {name} is {numbers[name]}; it must be {stride}n + 1, "
                f"for example {round_up_frames(numbers[name], stride)}."
            )
    if overlap >= length:
        raise InputError(
            f"segment plan: overlap is {overlap} and segment_frame_length {length}; the overlap must be the smaller."
        )
