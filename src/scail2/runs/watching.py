"""Films that are rendered from and measured at the same time, and what the measures need of the driving video.

That is taken down while the pipeline reads it: nothing is decoded twice.
"""

from collections.abc import Iterable
from threading import Lock

import numpy as np

from scail2.drift.glance import GRID, Glance
from scail2.video import FrameSource

# Longer side of the pictures a driving frame is judged by: differences of neighbours need no more.
_SIDE = 128
_WINDOW = 16


class SharedFrames:
    """A `FrameSource` that the thread which renders and the one which saves and measures read by turns."""

    def __init__(self, source: FrameSource):
        self.source = source
        self.source_info = getattr(source, "source_info", None)
        self._reading = Lock()

    def __len__(self) -> int:
        return len(self.source)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop): uint8 (T, H, W, 3), as the source gives them."""
        with self._reading:
            return self.source.frames(start, stop)


class WatchedFrames(SharedFrames):
    """Remembers every frame at a glance, and until `forget` also small, and a few of them whole.

    Args:
        source: the driving video at the run's size.
        kept: numbers of the frames to remember whole.
    """

    def __init__(self, source: FrameSource, kept: Iterable[int] = ()):
        super().__init__(source)
        self.kept = frozenset(kept)
        self._cells: dict[int, np.ndarray] = {}
        self._steps: dict[int, float] = {}
        self._small: dict[int, np.ndarray] = {}
        self._frames: dict[int, np.ndarray] = {}
        self._noting = Lock()

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop): uint8 (T, H, W, 3), as the source gives them."""
        frames = super().frames(start, stop)
        self._note(start, frames)
        return frames

    def glance(self, start: int, stop: int) -> Glance:
        """Frames [start, stop) at a glance; whatever was not read yet is read now."""
        wanted = range(start, stop)
        if not all(number in self._cells for number in wanted) or not all(n in self._steps for n in wanted[1:]):
            self._read(start, stop)
        cells = np.stack([self._cells[number] for number in wanted])
        return Glance(cells, np.array([self._steps[number] for number in wanted[1:]]))

    def small(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop), every `stride`-th row and column of them: uint8 (T, h, w, 3)."""
        if not all(number in self._small for number in range(start, stop)):
            self._read(start, stop)
        return np.stack([self._small[number] for number in range(start, stop)])

    @staticmethod
    def stride(height: int, width: int) -> int:
        """Which rows and columns of frames of this size `small` keeps."""
        return max(1, min(-(-max(height, width) // _SIDE), min(height, width) // GRID))

    def frame(self, number: int) -> np.ndarray:
        """One of the kept frames, uint8 (H, W, 3)."""
        kept = self._frames.get(number)
        return self.frames(number, number + 1)[0] if kept is None else kept

    def forget(self, before: int) -> None:
        """Lets go of the pictures before this frame; what they came to at a glance stays."""
        with self._noting:
            for pictures in (self._frames, self._small):
                for number in [each for each in pictures if each < before]:
                    del pictures[number]

    def _read(self, start: int, stop: int) -> None:
        # Windows share a frame, so that every step lies in one of them.
        for first in range(start, stop, _WINDOW):
            self.frames(first, min(first + _WINDOW + 1, stop))

    def _note(self, start: int, frames: np.ndarray) -> None:
        stride = self.stride(*frames.shape[1:3])
        small = frames[:, ::stride, ::stride]
        glance = Glance.at(small)
        with self._noting:
            for offset, cells in enumerate(glance.cells):
                self._cells[start + offset], self._small[start + offset] = cells, small[offset].copy()
            for offset, step in enumerate(glance.steps, start=1):
                self._steps[start + offset] = float(step)
            for number in self.kept.intersection(range(start, start + len(frames))):
                self._frames[number] = frames[number - start].copy()
