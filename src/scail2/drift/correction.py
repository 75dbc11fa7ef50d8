"""Matching a segment's colours to an earlier part of the film."""

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from scail2.drift.colour import (
    ColourStatistics,
    ColourTransfer,
    as_float_frames,
    colour_statistics,
    lab_to_rgb,
    rgb_to_lab,
)

if TYPE_CHECKING:
    import torch

_FEATHER = 0.02  # of the shorter side: how softly the two corrections meet at the character's edge


class CorrectionMode(StrEnum):
    """Whose colours a segment is given."""

    OFF = "off"
    REINHARD_FIRST = "reinhard-first"  # the first segment's: errors cannot add up
    REINHARD_PREVIOUS = "reinhard-previous"  # the last frames' before it: smoother joins, but errors add up


def correct(
    frames: "torch.Tensor",
    anchor: ColourStatistics,
    mode: str,
    *,
    mask: np.ndarray | None = None,
    window: int = 5,
) -> "torch.Tensor":
    """Matches a segment's colours to an anchor: a pure function, the same input gives the same bits.

    One transfer for the whole segment, so that changes of light within it stay. ``reinhard-first`` measures all of its
    frames; ``reinhard-previous`` only the first ``window``, those next to the join. With a mask, character and
    surroundings are matched apart and blended softly along the edge: a character that comes nearer, or leaves, then does
    not tint the background.

    Args:
        frames: float ``(T, 3, H, W)`` in [-1, 1]: the segment's new frames.
        anchor: :func:`colour_statistics` of segment 0 (``reinhard-first``) or of the previous segment's last frames.
        mode: a :class:`CorrectionMode`.
        mask: bool ``(T, H, W)``, True where a character is; used where the anchor was measured with one as well.

    Returns:
        The same shape, dtype and device, clipped to [-1, 1]; the input itself for ``off``. Take the history for the
        next segment from the end of the corrected frames.
    """
    import torch

    mode = CorrectionMode(mode)
    if mode is CorrectionMode.OFF:
        return frames
    measured = slice(None) if mode is CorrectionMode.REINHARD_FIRST else slice(0, window)
    own = colour_statistics(frames[measured], None if mask is None else mask[measured])
    transfers = _transfers(own, anchor)
    if transfers is None:
        return frames
    corrected = np.empty(tuple(frames.shape), dtype=np.float32)
    for number, frame in enumerate(as_float_frames(frames)):
        lab = rgb_to_lab(frame)
        if mask is None or transfers[0] is transfers[1]:
            lab = transfers[1].apply(lab)
        else:
            share = _feathered(mask[number])[..., None]
            lab = share * transfers[0].apply(lab) + (1 - share) * transfers[1].apply(lab)
        corrected[number] = lab_to_rgb(lab).transpose(2, 0, 1) * 2 - 1
    return torch.from_numpy(corrected).to(device=frames.device, dtype=frames.dtype)


def _transfers(own: ColourStatistics, anchor: ColourStatistics) -> tuple[ColourTransfer, ColourTransfer] | None:
    """Of the character and of its surroundings; None where nothing is seen in both.

    Where one is not seen in both, the other's stands for it. The whole is compared only where no mask tells them apart: with a
    character in one and not in the other it would take the colours of somebody who is not there.
    """
    unmasked = [each.inside is None and each.outside is None for each in (own, anchor)]
    if any(unmasked):
        whole = ColourTransfer.between(own.whole, anchor.whole)
        return whole, whole
    seen = [(own.inside, anchor.inside), (own.outside, anchor.outside)]
    inside, outside = (ColourTransfer.between(a, b) if a is not None and b is not None else None for a, b in seen)
    if inside is None or outside is None:
        either = inside or outside
        return None if either is None else (either, either)
    return inside, outside


def _feathered(mask: np.ndarray) -> np.ndarray:
    """The mask as float32 shares 0 … 1 with an edge about 4 % of the shorter side wide (a repeated box filter)."""
    radius = max(1, round(_FEATHER * min(mask.shape)))
    shares = mask.astype(np.float32)
    for _ in range(2):
        for axis in (0, 1):
            padded = np.pad(shares, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
            sums = padded.cumsum(axis=axis, dtype=np.float64)
            length = shares.shape[axis]
            upper = np.take(sums, np.arange(length) + 2 * radius + 1, axis=axis)
            lower = np.take(sums, np.arange(length), axis=axis)
            shares = ((upper - lower) / (2 * radius + 1)).astype(np.float32)
    return np.clip(shares, 0.0, 1.0)
