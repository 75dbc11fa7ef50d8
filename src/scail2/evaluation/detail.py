"""Measures that see what a mean squared error forgives: blurred outlines, faces without eyes, flicker.

Clips are uint8 `(T, H, W, 3)`, regions bool `(T, H, W)`, part maps uint8 `(T, H, W)` with 0 for none. Each formula is in
its function and explained for readers of the tables in `docs/evaluation.md`.
"""

from collections.abc import Collection

import numpy as np

Array = np.ndarray

EDGE = 20.0
"""Grey levels a pixel by which the steepest channel must change at an edge."""

_SAME = 2.0  # grey levels under which a pixel of the truth counts as unchanged from frame to frame
_PUPIL, _WHITE = 70, 190  # brightest channel of a pupil, darkest channel of the white around it
_EYE_REACH = 2  # pixels from a pupil to the white of its eye
_SMALLEST_EYE = 2  # pixels of a pupil that count as one


def sharpness(output: Array, truth: Array, region: Array) -> float:
    """Sum of squared differences to the right and lower neighbour over the region, output over truth.

    1 is as sharp as the truth, below is blurred, above is noisy or has edges that are not there. nan if the truth is flat.
    """
    energies = [float(_squared_differences(clip)[region].sum(dtype=np.float64)) for clip in (output, truth)]
    return energies[0] / energies[1] if energies[1] > 0 else float("nan")


def _squared_differences(clip: Array) -> Array:
    """`(T, H, W)` float32; the last row and column have no lower or right neighbour and count 0 there."""
    values = clip.astype(np.float32)
    squares = np.zeros(clip.shape[:3], np.float32)
    squares[:, :, :-1] += (np.diff(values, axis=2) ** 2).sum(axis=-1)
    squares[:, :-1] += (np.diff(values, axis=1) ** 2).sum(axis=-1)
    return squares


def edges(clip: Array) -> Array:
    """Where edges run, bool `(T, H, W)`: the steepest channel changes by `EDGE` levels a pixel or more, and by most there.

    The slope is the central difference; a pixel is on the edge when no neighbour across the edge is steeper.
    """
    values = np.pad(clip.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    across = np.abs(values[:, 1:-1, 2:] - values[:, 1:-1, :-2]).max(axis=-1) / 2
    down = np.abs(values[:, 2:, 1:-1] - values[:, :-2, 1:-1]).max(axis=-1) / 2
    slope = np.hypot(across, down)
    around = np.pad(slope, ((0, 0), (1, 1), (1, 1)))
    beside = np.maximum(around[:, 1:-1, 2:], around[:, 1:-1, :-2])
    above = np.maximum(around[:, 2:, 1:-1], around[:, :-2, 1:-1])
    return (slope >= EDGE) & (slope >= np.where(across >= down, beside, above))


def edge_f1(output: Array, truth: Array, region: Array) -> float:
    """F-score of the output's edges against the true ones, in [0, 1]; an edge is right within one pixel.

    Edges in the region and within two pixels of it count, so that outlines do. nan if the truth has none.
    """
    near = grown(region, 2)
    found, true = edges(output) & near, edges(truth) & near
    if not true.any():
        return float("nan")
    right, seen = (found & grown(true, 1)).sum(), (true & grown(found, 1)).sum()
    precision, recall = right / max(1, found.sum()), seen / true.sum()
    return float(2 * precision * recall / (precision + recall)) if right and seen else 0.0


def flicker(output: Array, truth: Array) -> float:
    """Mean |x[t] − x[t−1]| of the output in grey levels where the truth stays the same; nan where it never does."""
    still = np.abs(np.diff(truth.astype(np.float32), axis=0)).max(axis=-1) < _SAME
    changes = np.abs(np.diff(output.astype(np.float32), axis=0)).mean(axis=-1)[still]
    return float(changes.mean()) if changes.size else float("nan")


def eyes_found(output: Array, truth: Array, parts: Array, head_parts: Collection[int]) -> float:
    """Share of the eyes that the truth shows which the output shows, too.

    An eye is a dark spot of at least two pixels in a head with white within two pixels of it. The output shows it when
    the same white is brighter than the same dark by at least half of what it is in the truth. nan without eyes (shades,
    backs of heads, robots' screens).
    """
    head = np.isin(parts, list(head_parts))
    white = head & (truth.min(axis=-1) >= _WHITE)
    dark = head & (truth.max(axis=-1) <= _PUPIL) & grown(white, 1)
    brightness = [clip.mean(axis=-1, dtype=np.float32) for clip in (output, truth)]
    found, count = 0, 0
    for frame in range(len(truth)):
        for pupil in _spots(dark[frame]):
            around = grown(pupil[None], _EYE_REACH)[0] & white[frame]
            if pupil.sum() < _SMALLEST_EYE or not around.any():
                continue
            shown, true = (float(b[frame][around].mean() - b[frame][pupil].mean()) for b in brightness)
            count += 1
            found += shown >= true / 2
    return found / count if count else float("nan")


def _spots(mask: Array) -> list[Array]:
    """The connected (by sides and corners) spots of a mask `(H, W)`, each as a mask."""
    left, spots = mask.copy(), []
    while left.any():
        spot = np.zeros_like(mask)
        spot[np.unravel_index(int(left.argmax()), mask.shape)] = True
        while (wider := grown(spot[None], 1)[0] & left).sum() > spot.sum():
            spot = wider
        spots.append(spot)
        left &= ~spot
    return spots


def grown(mask: Array, pixels: int) -> Array:
    """A mask `(T, H, W)` and every pixel within so many of it, diagonals included."""
    _, height, width = mask.shape
    padded = np.pad(mask, ((0, 0), (pixels, pixels), (pixels, pixels)))
    rows = np.zeros_like(padded[:, :height])
    for shift in range(2 * pixels + 1):
        rows |= padded[:, shift : shift + height]
    result = np.zeros_like(mask)
    for shift in range(2 * pixels + 1):
        result |= rows[:, :, shift : shift + width]
    return result
