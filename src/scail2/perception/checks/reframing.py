"""Reframing: the part of a reference picture, before any crop, in which its characters are as large as the driving ones.

The part (`Window`) has the run's aspect. It contains every character whole, lies inside the picture where that is large enough,
and keeps the characters' feet where they are in the picture, relative to its size. Where it is larger than the picture, the
picture's border is continued.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

# The characters' share of the picture's height is never changed by more than this factor: beyond it too little of the
# picture, or too much border, would remain.
REFRAME_LIMIT = 2.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A part of a picture in its pixels, which may stick out of it; ``limited`` where the shares cannot agree, ``narrow`` where
    the characters are wider than the run's aspect leaves room for at their height."""

    left: float
    top: float
    width: float
    height: float
    limited: bool = False
    narrow: bool = False


@dataclass(frozen=True, kw_only=True)
class Reframed:
    """A resampled reference: picture uint8 (H, W, C) and label map uint8 (H, W), and how much of the frame is border."""

    picture: np.ndarray
    labels: np.ndarray
    invented_share: float


def find_window(boxes: np.ndarray, shares: Sequence[float], picture: tuple[int, int], size: tuple[int, int]) -> Window:
    """The part of a picture that shows its characters at the wanted shares of its height.

    Several characters get the one size at which their errors, as factors, balance.

    Args:
        boxes: float (N, 4), x0 y0 x1 y1 of the characters in the picture.
        shares: for each the share of the height that its driving character has.
        picture: (height, width) of the picture.
        size: (height, width) of the run.
    """
    heights = boxes[:, 3] - boxes[:, 1]
    wanted = float(np.exp(np.mean(np.log(heights / np.asarray(shares)))))
    height = float(np.clip(wanted, picture[0] / REFRAME_LIMIT, picture[0] * REFRAME_LIMIT))
    x0, y0, x1, y1 = (float(value) for value in (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)))
    height = max(height, y1 - y0)
    width = height * size[1] / size[0]
    middle = (x0 + x1) / 2
    return Window(
        left=_placed(middle * (1 - width / picture[1]), width, x0, x1),
        top=_placed(y1 * (1 - height / picture[0]), height, y0, y1),
        width=width,
        height=height,
        limited=not math.isclose(height, wanted, rel_tol=1e-6),
        narrow=x1 - x0 > width,
    )


def _placed(start: float, length: float, low: float, high: float) -> float:
    """A window's beginning moved as little as needed to contain [low, high); centred on it where that is longer."""
    if high - low > length:
        return (low + high - length) / 2
    return float(np.clip(start, high - length, low))


def reframe(picture: np.ndarray, labels: np.ndarray, window: Window, size: tuple[int, int]) -> Reframed:
    """A window of a picture at the run's size.

    Args:
        picture: uint8 (H, W, C), at any resolution.
        labels: uint8 (h, w) of the whole picture; the window is in its pixels.
        window: see `find_window`.
        size: (height, width) of the result; the window has its aspect.
    """
    scale = size[0] / window.height
    rows, columns = (max(1, round(side * scale)) for side in labels.shape)
    # Placed in whole pixels of the result, so that picture and labels cannot drift apart.
    ys = np.arange(size[0]) + round(window.top * scale)
    xs = np.arange(size[1]) + round(window.left * scale)
    inside = ((ys >= 0) & (ys < rows))[:, None] & ((xs >= 0) & (xs < columns))[None]
    ys, xs = ys.clip(0, rows - 1), xs.clip(0, columns - 1)
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(picture[..., c])).resize((columns, rows), Image.Resampling.BICUBIC)
        )
        for c in range(picture.shape[-1])
    ]
    resized = np.stack(planes, axis=-1)
    moved = np.asarray(Image.fromarray(labels).resize((columns, rows), Image.Resampling.NEAREST))
    shown = _empty_border(resized, moved)[ys][:, xs]
    shown[inside] = resized[ys][:, xs][inside]
    return Reframed(
        picture=shown,
        labels=np.where(inside, moved[ys][:, xs], 0).astype(np.uint8),
        invented_share=float(1 - inside.mean()),
    )


def _empty_border(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The picture with the characters taken out of its outermost rows and columns, so that they can be continued."""
    emptied = picture.copy()
    for line, lines in (
        (emptied[0], labels),
        (emptied[-1], labels[::-1]),
        (emptied[:, 0], labels.T),
        (emptied[:, -1], labels.T[::-1]),
    ):
        # Two pixels more on all sides: soft outlines belong to the character as well. Less where that leaves nothing.
        free = next((found for margin in (2, 1, 0) if len(found := _free_of(lines, margin))), np.arange(0))
        if 0 < len(free) < len(line):
            places = np.arange(len(line))
            after = np.searchsorted(free, places).clip(0, len(free) - 1)
            before = (after - 1).clip(0)
            nearest = np.where(np.abs(free[after] - places) <= np.abs(free[before] - places), free[after], free[before])
            line[:] = line[nearest]
    return emptied


def _free_of(lines: np.ndarray, margin: int) -> np.ndarray:
    """Places on the first of these lines that are more than ``margin`` pixels from every character."""
    near = (lines[: margin + 1] > 0).any(axis=0)
    return np.flatnonzero(np.convolve(near, np.ones(2 * margin + 1), mode="same") == 0)
