"""Masks of a film or picture as it was fitted to one size, brought to how it is fitted to another.

Each pixel is followed to its place in the source and from there to the mask: cropping what was cropped before would shift
and scale it.
"""

from dataclasses import dataclass

import numpy as np

from scail2.errors import InputError
from scail2.request.masks import Fit
from scail2.video.resize import cover_box, letterbox_size

# Sizes in a model's steps differ a little in shape: so much of a frame's side may continue the mask's edge.
_CONTINUED = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """How a source met a size, both (height, width) in pixels."""

    source: tuple[int, int]
    size: tuple[int, int]
    fit: Fit

    def axis(self, side: int) -> "_Axis":
        """Rows (0) or columns (1)."""
        if self.fit is Fit.LETTERBOX:
            inner = letterbox_size(*self.source, *self.size)[side]
            first = (self.size[side] - inner) // 2
            scale = self.source[side] / inner
            return _Axis(origin=-first * scale, scale=scale, first=first, stop=first + inner)
        left, top, right, bottom = cover_box(*self.source, *self.size)
        low, high = ((top, bottom), (left, right))[side]
        return _Axis(origin=low, scale=(high - low) / self.size[side], first=0, stop=self.size[side])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axis:
    """Pixels ``first`` … ``stop`` − 1 show the source, from ``origin + scale · pixel`` on; the others are bars."""

    origin: float
    scale: float
    first: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Which row and column of a mask each of the new size takes, −1 for bars; ``continued`` is the larger share of both that
    the mask does not show and takes from its edge."""

    rows: np.ndarray
    columns: np.ndarray
    continued: float

    def changes_nothing(self, height: int, width: int) -> bool:
        """Whether a mask of that size stays as it is."""
        return np.array_equal(self.rows, np.arange(height)) and np.array_equal(self.columns, np.arange(width))

    def pick(self, masks: np.ndarray, bars: int | tuple[int, ...] = 0) -> np.ndarray:
        """Masks ``(T, H, W, …)`` at the new size, their bars filled."""
        picked = masks[:, self.rows][:, :, self.columns]
        picked[:, self.rows < 0] = bars
        picked[:, :, self.columns < 0] = bars
        return picked


def places(before: Fitted, after: Fitted, what: str) -> Places:
    """Where the pixels of ``after`` lie in a mask of ``before``.

    Raises:
        InputError: ``what`` shows more of its source now than when the mask was made.
    """
    rows, columns = (_followed(before.axis(side), after.axis(side), after.size[side]) for side in (0, 1))
    continued = max(rows[1], columns[1])
    if continued > _CONTINUED:
        old, new = (f"{each.size[1]}x{each.size[0]} ({each.fit})" for each in (before, after))
        raise InputError(
            f"the masks were made for {what} at {old}, which cuts off what this run at {new} shows; make them again for it "
            "with `scail2 masks`, or give --width, --height and --fit as they were made with."
        )
    return Places(rows=rows[0], columns=columns[0], continued=continued)


def _followed(before: _Axis, after: _Axis, count: int) -> tuple[np.ndarray, float]:
    pixels = np.arange(count)
    there = after.origin + after.scale * (pixels + 0.5)
    found = np.floor((there - before.origin) / before.scale).astype(int)
    shown = (pixels >= after.first) & (pixels < after.stop)
    beyond = shown & ((found < before.first) | (found >= before.stop))
    return np.where(shown, found.clip(before.first, before.stop - 1), -1), float(beyond.mean())
