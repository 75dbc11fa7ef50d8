"""Where are the limbs? Part pixels of a generated clip, found again by colour, against the true ones.

The renderer knows which pixel shows which body part, and its characters are flat-shaded. So a pixel of the output can be
asked which of the clip's true colours it is nearest to: a limb's, another part's, or the background's at that very
place (taken from a plate of the scene without characters). No network is involved and a blurred or missing arm costs what
it should.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

# Squared RGB distance under which two colours cannot be told apart after generation (16 grey levels a channel).
_SAME_COLOUR = 3 * 16.0**2
_COLOURS_PER_PART = 8
_COMMON = 0.02  # a colour belongs to a part when it covers at least this share of it


@dataclass(frozen=True, slots=True)
class LimbColours:
    """The palette of one clip: colours of limb parts and of all other parts, float32 `(N, 3)`."""

    limbs: Array
    others: Array

    @classmethod
    def of(cls, truth: Array, parts: Array, limb_parts: Collection[int]) -> "LimbColours":
        """Reads the palette off the true clip.

        Args:
            truth: uint8 `(T, H, W, 3)`. parts: uint8 `(T, H, W)`. limb_parts: part ids that count as limbs.
        """
        groups: dict[bool, list[Array]] = {True: [], False: []}
        for part in np.unique(parts[parts > 0]):
            groups[int(part) in limb_parts].append(_main_colours(truth[parts == part]))
        empty = np.zeros((0, 3), np.float32)
        limbs, others = (np.concatenate(groups[key]) if groups[key] else empty for key in (True, False))
        # Another part in a limb's colour (a face, with bare arms) must not take the limb's pixels.
        return cls(limbs, others[_nearest(others, limbs) >= _SAME_COLOUR] if len(limbs) else others)


def _main_colours(pixels: Array) -> Array:
    """Mean colours of the most frequent 5-bit colour cells, at most eight of at least 2 %."""
    cells = (pixels >> 3).astype(np.int32) @ np.array([1024, 32, 1])
    _, inverse, counts = np.unique(cells, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_COLOURS_PER_PART]
    kept = [n for n in order if counts[n] >= _COMMON * len(cells)] or [order[0]]
    return np.stack([pixels[inverse == n].mean(axis=0) for n in kept]).astype(np.float32)


def limb_iou(
    output: Array, truth: Array, parts: Array, plate: Array, limb_parts: Collection[int], region: Array | None = None
) -> float:
    """Intersection over union of limb pixels of output and truth, summed over the clip.

    A pixel of the output is a limb pixel when its colour is nearer to a limb colour than to every other part's colour and
    to the background's colour at that place. Left out on both sides are pixels where colour cannot decide, within 16
    levels a channel: limb pixels before a background of their own colour, and all other pixels of a limb's colour (the shirt
    behind its own sleeve, a face with bare arms, grass as green as somebody's trousers).

    Args:
        output, truth: uint8 `(T, H, W, 3)`.
        parts: uint8 `(T, H, W)`, true part ids, 0 none.
        plate: uint8 `(T, H, W, 3)` or `(H, W, 3)`, the scene without characters.
        limb_parts: ids of arms, hands, legs and feet.
        region: bool `(T, H, W)`, where to look (default: everywhere); pixels outside it are not counted.

    Returns:
        IoU in [0, 1]; nan if no limb pixel can be measured.
    """
    colours = LimbColours.of(truth, parts, limb_parts)
    if not len(colours.limbs):
        return float("nan")
    plate = np.broadcast_to(plate, truth.shape)
    is_limb = np.isin(parts, list(limb_parts))
    to_background = ((truth.astype(np.float32) - plate) ** 2).sum(axis=-1)
    undecidable = np.where(is_limb, to_background, _nearest(truth, colours.limbs)) < _SAME_COLOUR
    counted = ~undecidable if region is None else region & ~undecidable
    to_background = ((output.astype(np.float32) - plate) ** 2).sum(axis=-1)
    to_other = np.minimum(_nearest(output, colours.others), to_background)
    found = _nearest(output, colours.limbs) < to_other
    true_limb = is_limb & counted
    union = (found & counted) | true_limb
    return float((found & true_limb).sum() / union.sum()) if true_limb.any() else float("nan")


def _nearest(pixels: Array, colours: Array) -> Array:
    """Squared distance `(...)` of pixels `(..., 3)` to the nearest of `colours` `(N, 3)`; infinite without any."""
    if not len(colours):
        return np.full(pixels.shape[:-1], np.inf, np.float32)
    values = pixels.reshape(-1, 3).astype(np.float32)
    # |p − c|² = |p|² + (|c|² − 2 p·c): one matrix product for all colours, exact enough for 8-bit values.
    to_colours = (colours**2).sum(axis=1) - 2 * (values @ colours.T)
    return ((values**2).sum(axis=1) + to_colours.min(axis=1)).reshape(pixels.shape[:-1])
