"""Frames at a glance: 8 × 8 mean colours and how much changes from frame to frame; enough for seams, flicker and freezes."""

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from scail2.drift.colour import as_float_frames, luma

if TYPE_CHECKING:
    import torch

GRID = 8
# Frames over which a change may be taken back to count as flicker.
_TAKEN_BACK = (1, 2)


@dataclass(frozen=True, slots=True)
class Glance:
    """What is remembered of frames that follow each other.

    Attributes:
        cells: float32 (T, 8, 8, 3), mean R, G, B of every cell of a grid, grey levels 0 … 255.
        steps: float64 (T - 1,), mean absolute luma difference of neighbouring frames, grey levels.
    """

    cells: np.ndarray
    steps: np.ndarray

    @classmethod
    def at(cls, *parts: "np.ndarray | torch.Tensor") -> "Glance":
        """Of parts that follow each other, float ``(T, 3, H, W)`` in [-1, 1] or uint8 ``(T, H, W, 3)`` with H, W ≥ 8."""
        cells, steps, before = [], [], None
        for frame in chain.from_iterable(map(as_float_frames, parts)):
            cells.append(_cells(frame))
            grey = luma(frame)
            if before is not None:
                steps.append(float(np.abs(grey - before).mean(dtype=np.float64)))
            before = grey
        return cls(np.stack(cells) if cells else np.zeros((0, GRID, GRID, 3), np.float32), np.array(steps))

    def colour_steps(self) -> np.ndarray:
        """How far the picture as a whole changes colour from frame to frame, float (T - 1,) in grey levels.

        The largest of the three channels' median steps over the cells: whatever moves changes some cells one way and some
        the other, only light and colour change most of them alike.
        """
        steps = np.diff(self.cells, axis=0).reshape(len(self.steps), -1, 3)
        return np.abs(np.median(steps, axis=1)).max(axis=-1) if len(steps) else np.zeros(0)

    def flicker(self) -> np.ndarray:
        """How much of each frame's colour is taken back one or two frames later, float (T,) in grey levels.

        Per cell the smaller of the two changes, where they go opposite ways; over the cells the median, and the largest of
        the three channels. Motion, light that changes and cuts stay, so they do not count; the ends have no value (0).
        """
        found = np.zeros(len(self.cells))
        for gap in _TAKEN_BACK:
            if len(self.cells) <= 2 * gap:
                continue
            here = self.cells[gap:-gap]
            there, back = here - self.cells[: -2 * gap], here - self.cells[2 * gap :]
            taken = np.where(there * back > 0, np.minimum(np.abs(there), np.abs(back)), 0.0)
            values = np.median(taken.reshape(len(taken), -1, 3), axis=1).max(axis=-1)
            found[gap:-gap] = np.maximum(found[gap:-gap], values)
        return found


def _cells(frame: np.ndarray) -> np.ndarray:
    """Means float32 (8, 8, 3) of a frame (H, W, 3) in [0, 1], in grey levels; rows and columns left over are left out."""
    height, width = frame.shape[0] // GRID, frame.shape[1] // GRID
    # Rows first, in which pixels lie beside each other.
    rows = frame[: height * GRID, : width * GRID].reshape(GRID, height, GRID * width * 3).mean(axis=1, dtype=np.float32)
    return rows.reshape(GRID, GRID, width, 3).mean(axis=2, dtype=np.float32) * 255
