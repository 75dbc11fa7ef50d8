"""The one question every mask source answers: which pixels of these frames belong to which character?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scail2.perception.labels import TrackedMasks
from scail2.video import FrameSource


@dataclass(frozen=True, kw_only=True)
class PointPrompt:
    """A click: `character` (counted from 1) is, or with ``inside=False`` is not, at pixel (x, y) of `frame`."""

    frame: int
    character: int
    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True, kw_only=True)
class BoxPrompt:
    """A box around `character` (counted from 1) in `frame`: x0, y0, x1, y1 in pixels."""

    frame: int
    character: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What the user says about the characters. Points and boxes at later frames are corrections from there on.

    Attributes:
        text: what to look for, e.g. ("person",); each match becomes a character of its own.
        points, boxes: clicks and boxes, in pixels of the frames given to the segmenter.
        characters: how many characters to expect; None leaves it to the segmenter.
    """

    text: tuple[str, ...] = ()
    points: tuple[PointPrompt, ...] = ()
    boxes: tuple[BoxPrompt, ...] = ()
    characters: int | None = None

    @property
    def placed(self) -> bool:
        """Whether any point or box was given."""
        return bool(self.points or self.boxes)


class VideoSegmenter(Protocol):
    """Finds and follows the characters of a clip."""

    name: str

    def segment(
        self,
        frames: FrameSource,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrackedMasks:
        """Segments every frame.

        Args:
            frames: the clip, uint8 RGB, read window by window. A picture is a clip of one frame.
            prompts: what the user says; segmenters that cannot use a prompt raise `InputError` instead of ignoring it.
            directory: where label maps go, so that memory does not grow with length; None keeps them in memory.
            progress: called with (frames done, frames in total).

        Returns:
            One label map per frame, at the frames' size, and the measured tracks.
        """
        ...
