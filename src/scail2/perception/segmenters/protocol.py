"""The one question every mask source answers: which pixels of these frames belong to which character?"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from scail2.errors import InputError
from scail2.perception.tracks import TrackedMasks
from scail2.request.masks import MAX_CHARACTERS, BoxPrompt, PointPrompt, Prompts
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


def check_places(prompts: Prompts, frames: SizedFrames) -> None:
    """Raises `InputError` for points and boxes outside the clip, and for empty boxes."""
    for prompt in prompts.all_placed:
        if not 0 <= prompt.frame < len(frames):
            raise InputError(
                f"a point or box names frame {prompt.frame}, but the clip has frames 0 to {len(frames) - 1}."
            )
        if not 1 <= prompt.character <= MAX_CHARACTERS:
            raise InputError(f"a point or box names character {prompt.character}: count characters from 1.")
        places = [(prompt.x, prompt.y)] if isinstance(prompt, PointPrompt) else [prompt.box[:2], prompt.box[2:]]
        if any(not (0 <= x <= frames.width and 0 <= y <= frames.height) for x, y in places):
            raise InputError(
                f"a point or box in frame {prompt.frame} lies outside the {frames.width}x{frames.height} pixels."
            )
        if isinstance(prompt, BoxPrompt) and not (prompt.box[0] < prompt.box[2] and prompt.box[1] < prompt.box[3]):
            raise InputError(
                f"the box {prompt.box} in frame {prompt.frame} is empty: give x0,y0,x1,y1 with x0<x1, y0<y1."
            )
