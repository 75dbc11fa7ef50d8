"""The driving video as it will be used, and what identifies it."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from scail2.files.storage import digest, hash_file
from scail2.request.masks import MaskRequest
from scail2.segments import SegmentPlan
from scail2.video import SizedFrames, VideoReader, first_frames, probe
from scail2.video.images import FolderFrames


@dataclass(frozen=True, kw_only=True, slots=True)
class DrivingVideo:
    """The driving video as it will be used.

    Attributes:
        frames: at the run's size and rate.
        fps: that rate; ``source_fps`` is the file's own, None where unknown.
        segments: the expected plan.
        size_step: (height, width) steps of the model; (1, 1) where no model was named yet.
        enlarged: gives the same frames at another size (height, width), where there is a file with more detail.
    """

    frames: SizedFrames
    fps: Fraction
    source_fps: Fraction | None
    segments: SegmentPlan
    size_step: tuple[int, int] = (1, 1)
    enlarged: Callable[[tuple[int, int]], SizedFrames] | None = None

    @classmethod
    def open(cls, request: MaskRequest) -> Self:
        """The video a request names, planned as for the full-size model.

        At its own size where none is asked for; where one side is, the other follows its shape.
        """
        info = probe(request.driving)
        size = _size(request, info.height, info.width)
        reader = VideoReader(request.driving, fps=request.fps, size=size, fit=request.fit)
        frames = first_frames(reader, request.frames)
        return cls(
            frames=frames, fps=reader.fps, source_fps=reader.source_info.fps, segments=SegmentPlan.of(len(frames))
        )


def _size(request: MaskRequest, height: int, width: int) -> tuple[int, int]:
    if request.height and request.width:
        return request.height, request.width
    scale = (request.height or height) / height if not request.width else request.width / width
    return request.height or max(1, round(height * scale)), request.width or max(1, round(width * scale))


def hash_driving(request: MaskRequest) -> str:
    """Hash of the driving video; of a folder of pictures only of those that ``frames`` lets anybody look at."""
    if request.frames is None or not request.driving.is_dir():
        return hash_file(request.driving)
    indices = VideoReader(request.driving, fps=request.fps).source_indices
    if len(indices) <= request.frames:
        return hash_file(request.driving)
    pictures = FolderFrames(request.driving).files(int(indices[request.frames - 1]) + 1)
    return digest([[each.name, hash_file(each)] for each in pictures])
