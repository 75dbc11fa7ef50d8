"""Characters before one flat colour: pose and body renders, chroma-key footage, drawings on white.

No network: what differs from the colour that surrounds the picture belongs to somebody.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from scail2.errors import InputError
from scail2.perception.binding import left_to_right
from scail2.perception.segmenters.following import Follower, components
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

# Levels of 255 by which video coding changes a flat colour at the most, and from which a pixel is somebody.
_FLAT, _DIFFERENT = 10, 26
# Share of the border, in every frame looked at, that shows the colour.
_SURROUNDED = 0.7
# Pieces nearer than this share of the short side are one character: the strokes of a skeleton do not touch.
_GAP = 0.02
# Characters smaller than this share of the picture are not reported.
_SMALLEST = 0.002
_SAMPLES, _WINDOW = 12, 8


def flat_background(frames: SizedFrames) -> np.ndarray | None:
    """The one colour uint8 (3,) that surrounds every frame of a clip, or None: looks at up to 12 frames."""
    colour: np.ndarray | None = None
    for number in np.unique(np.linspace(0, len(frames) - 1, min(_SAMPLES, len(frames))).round().astype(int)):
        frame = frames.frames(number, number + 1)[0, ..., :3]
        border = np.concatenate([frame[:2].reshape(-1, 3), frame[-2:].reshape(-1, 3)])
        border = np.concatenate([border, frame[:, :2].reshape(-1, 3), frame[:, -2:].reshape(-1, 3)]).astype(int)
        if colour is None:
            colour = np.median(border, axis=0)
        if (np.abs(border - colour).max(axis=1) <= _FLAT).mean() < _SURROUNDED:
            return None
    return None if colour is None else colour.astype(np.uint8)


class PlainBackgroundSegmenter:
    """`VideoSegmenter` for clips that `flat_background` finds a colour for; understands only a number of characters."""

    name = "plain background"

    def __init__(self, colour: np.ndarray):
        self.colour = colour.astype(int)

    def segment(
        self,
        frames: SizedFrames,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrackedMasks:
        """See `VideoSegmenter.segment`. Raises `InputError` for text, points and boxes, and where nothing stands out."""
        if prompts is not None and (prompts.text or prompts.placed):
            raise InputError("characters before a plain background are found by colour, without text, points or boxes.")
        follower = Follower(prompts.characters if prompts is not None else None)
        recorder = TrackRecorder(directory, height=frames.height, width=frames.width)
        for start in range(0, len(frames), _WINDOW):
            stop = min(start + _WINDOW, len(frames))
            window = frames.frames(start, stop)[..., :3]
            labels = np.stack([follower.follow(frame, self._instances(frame)) for frame in window])
            recorder.add(labels, np.ones((len(labels), max(follower.count, 1))))
            if progress:
                progress(stop, len(frames))
        found = recorder.finish(self.name)
        seen = [track.number for track in found.tracks if track.first_frame >= 0]
        if not seen:
            raise InputError("nothing stands out from the plain background: supply a mask.")
        return left_to_right(found, seen, directory)

    def _instances(self, frame: np.ndarray) -> np.ndarray:
        """Characters of a frame uint8 (H, W, 3) as int32 (H, W), 0 background; near pieces are one."""
        different = np.abs(frame.astype(int) - self.colour).max(axis=-1) > _DIFFERENT
        reach = max(1, round(_GAP * min(different.shape) / 2))
        spread = F.max_pool2d(torch.from_numpy(different)[None, None].float(), 2 * reach + 1, 1, reach)[0, 0] > 0
        groups = np.where(different, components(spread.numpy()), 0)
        sizes = np.bincount(groups.ravel())
        small = sizes < _SMALLEST * different.size
        return np.where(small[groups], 0, groups).astype(np.int32)
