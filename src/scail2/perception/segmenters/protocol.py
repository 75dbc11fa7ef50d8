"""The one question every mask source answers: which pixels of these frames belong to which character?"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from scail2.perception.tracks import TrackedMasks
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

Progress = Callable[[int, int], None]


class VideoSegmenter(Protocol):
    """Finds and follows the characters of a clip."""

    name: str

    def segment(
        self,
        frames: SizedFrames,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Progress | None = None,
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
