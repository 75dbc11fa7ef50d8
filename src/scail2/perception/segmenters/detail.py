"""Frames at a run's size that know the same clip with more detail: what is small in a run need not be hard to find.

A run of the small embedded model has 128 pixels; its driving video has more, and networks that look for people need them.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scail2.request.masks import Prompts
from scail2.video import SizedFrames

# Short side, in pixels, below which people are looked for in more detail where there is any.
_ENOUGH = 256


class DetailedFrames:
    """Frames of a run, and the same a whole number of times as large.

    Attributes:
        detail: as many frames, ``factor`` times as high and as wide.
    """

    def __init__(self, frames: SizedFrames, detail: SizedFrames, factor: int):
        self.height, self.width = frames.height, frames.width
        self.detail, self.factor = detail, factor
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) at the run's size: uint8 (T, H, W, 3)."""
        return self._frames.frames(start, stop)


def detail_factor(size: tuple[int, int], source: tuple[int, int]) -> int:
    """How many times larger than ``size`` (height, width) people are looked for in a ``source`` of that many pixels; 1: not."""
    wanted = math.ceil(_ENOUGH / min(size))
    there = max(side / run for side, run in zip(source, size, strict=True))
    return max(1, min(wanted, math.floor(there)))


def with_detail(
    frames: SizedFrames, source: tuple[int, int], enlarged: Callable[[tuple[int, int]], SizedFrames]
) -> SizedFrames:
    """``frames``, with more detail where they are small and their ``source`` (height, width) has it.

    ``enlarged`` gives the same frames at another size (height, width).
    """
    factor = detail_factor((frames.height, frames.width), source)
    if factor == 1:
        return frames
    return DetailedFrames(frames, enlarged((factor * frames.height, factor * frames.width)), factor)


def in_detail(frames: SizedFrames, prompts: Prompts | None) -> tuple[SizedFrames, Prompts | None, int]:
    """The frames to look at, the prompts in their pixels, and how many times larger they are."""
    if not isinstance(frames, DetailedFrames):
        return frames, prompts, 1
    by = frames.factor
    if prompts is not None:
        points = tuple(replace(each, x=each.x * by, y=each.y * by) for each in prompts.points)
        boxes = []
        for each in prompts.boxes:
            x0, y0, x1, y1 = each.box
            boxes.append(replace(each, box=(by * x0, by * y0, by * x1, by * y1)))
        prompts = replace(prompts, points=points, boxes=tuple(boxes))
    return frames.detail, prompts, by


def mean_of_blocks(values: np.ndarray, factor: int) -> np.ndarray:
    """(..., H, W) → (..., H / factor, W / factor): the mean of each block of pixels."""
    *rest, height, width = values.shape
    return values.reshape(*rest, height // factor, factor, width // factor, factor).mean(axis=(-3, -1))
