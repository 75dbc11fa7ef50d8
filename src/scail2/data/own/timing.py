"""When two videos show the same motion: how much later it is in one of them, measured by how the bodies move.

The signal of a character is a row of numbers for each frame: where the joints are, counted from the hips in torso lengths,
or, of a body without known joints, its outline. Two signals of one rate are laid over each other at every shift, and what
counts is their correlation, over all numbers together, so that different bodies and scenes do not disturb it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from scail2.data.own.verdicts import Reason, Refused
from scail2.perception.segmenters.people.joints import LEFT_HIP, LIMBS, RIGHT_HIP, body_size
from scail2.perception.tracks import TrackedMasks

Array = np.ndarray

# An outline is seen in so many cells each way.
_GRID = 8
# Of the shorter video: two that have less in common than this are not the same motion, however alike they look.
LEAST_OVERLAP = 1 / 3
LEAST_FRAMES = 5
# More characters than this are taken from left to right: all orders would be too many.
_MOST_PERMUTED = 4
# What of a stretch has to be known in both to be compared.
_KNOWN = 0.3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How two videos lie in time.

    Attributes:
        shift: frames by which the motion is later in the driving video than in the target.
        agreement: correlation of the two motions there, from -1 to 1.
        others: the best agreement at shifts more than half a second away, how much this one stands out.
        frames: how many they have in common.
        order: for each character of the target, the number of the driving video's (from 0) that moves like it.
    """

    shift: int
    agreement: float
    others: float
    frames: int
    order: tuple[int, ...]


def joint_signal(places: Array, seen: Array) -> Array:
    """Of joints (T, 33, 2) in pixels, `seen` bool (T, 33): limbs from the hips' middle in torso lengths, float (T, 24), NaN
    for what is not seen."""
    hips = (places[:, LEFT_HIP] + places[:, RIGHT_HIP]) / 2
    sizes = body_size(places)
    size = float(np.nanmedian(sizes)) if np.isfinite(sizes).any() else np.nan
    limbs = (places[:, list(LIMBS)] - hips[:, None]) / size
    limbs[~seen[:, list(LIMBS)]] = np.nan
    return limbs.reshape(len(places), -1).astype(np.float32)


def outline_signal(masks: TrackedMasks, track: int) -> Array:
    """Of a character (from 0) the place, the extent and the outline in each frame, in its own usual height: float32 (T, 70).

    NaN in frames that do not show it.
    """
    known = masks.tracks[track]
    boxes = known.boxes
    height = float(np.nanmedian(boxes[:, 3] - boxes[:, 1])) if known.present.any() else 1.0
    rows = np.full((len(masks), 6 + _GRID**2), np.nan, np.float32)
    for start, labels in masks.windows():
        for offset, frame in enumerate(labels):
            if known.present[start + offset]:
                rows[start + offset] = _outline(frame == track + 1, boxes[start + offset], height)
    # Each group counts alike: places, extents and cells are of different sorts.
    for group in (slice(0, 2), slice(2, 6), slice(6, None)):
        centred = rows[:, group] - np.nanmean(rows[:, group], axis=0) if known.present.any() else rows[:, group]
        spread = float(np.sqrt(np.nansum(centred**2, axis=1).mean())) if known.present.any() else 0.0
        rows[:, group] = centred / max(spread, 1e-3)
    return rows


def _outline(mask: Array, box: Array, height: float) -> Array:
    ys, xs = np.nonzero(mask)
    x, y = xs.mean(), ys.mean()
    x0, y0, x1, y1 = box
    # Cells of a square around the middle, a little larger than the body.
    column = ((xs - x) / (1.3 * height) + 0.5) * _GRID
    row = ((ys - y) / (1.3 * height) + 0.5) * _GRID
    inside = (column >= 0) & (column < _GRID) & (row >= 0) & (row < _GRID)
    cells = np.bincount(row[inside].astype(int) * _GRID + column[inside].astype(int), minlength=_GRID**2)
    share = cells / (1.3 * height / _GRID) ** 2
    around = np.array([x - x0, x1 - x, y - y0, y1 - y]) / height
    return np.concatenate([[x / height, y / height], around, share]).astype(np.float32)


def agreement(one: Array, other: Array) -> float:
    """Correlation of two signals (T, D) over all their numbers, each column from its own mean; 0 where too little is known."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.mean() < _KNOWN:
        return 0.0
    count = np.maximum(both.sum(axis=0), 1)
    a, b = (np.where(both, each, 0.0).astype(np.float64) for each in (one, other))
    a, b = (np.where(both, each - each.sum(axis=0) / count, 0.0) for each in (a, b))
    power = float((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / np.sqrt(power)) if power > 1e-12 else 0.0


@dataclass(frozen=True, kw_only=True)
class Signals:
    """How the characters of a pair move: one signal (T, D) for each.

    Attributes:
        bound: whether the first of the one is the first of the other, and so on; else it is found who moves like whom.
    """

    target: Sequence[Array]
    driving: Sequence[Array]
    bound: bool = False

    @property
    def lengths(self) -> tuple[int, int]:
        """Frames of target and driving video."""
        return len(self.target[0]), len(self.driving[0])


def match(signals: Signals, shift: int, start: int, stop: int) -> tuple[float, tuple[int, ...]]:
    """Mean agreement of the target's frames [start, stop) with the driving video's, and who moves like whom there."""
    table = _agreements(signals, shift, start, stop)
    orders = [tuple(range(len(table)))]
    if 1 < len(table) <= _MOST_PERMUTED and not signals.bound:
        orders = list(permutations(range(len(table))))
    means = [_mean(table, order) for order in orders]
    best = int(np.argmax(means))  # the first of equals: from left to right
    return means[best], orders[best]


def agreement_of(signals: Signals, timing: Timing, start: int, stop: int) -> float:
    """Mean agreement of the target's frames [start, stop) with the driving video's as ``timing`` binds them.

    Another order may agree better in a stretch of a pair; it is not the one that the stretch is made with.
    """
    return _mean(_agreements(signals, timing.shift, start, stop), timing.order)


def _agreements(signals: Signals, shift: int, start: int, stop: int) -> Array:
    """How well each character of the target, frames [start, stop), agrees with each of the driving video: (S, S)."""
    ours = [each[start:stop] for each in signals.target]
    theirs = [each[start + shift : stop + shift] for each in signals.driving]
    return np.array([[agreement(a, b) for b in theirs] for a in ours])


def _mean(table: Array, order: Sequence[int]) -> float:
    return float(np.mean([table[ours, theirs] for ours, theirs in enumerate(order)]))


def measure(signals: Signals, *, most: int, fps: float) -> Timing:
    """The shift at which two videos of as many characters agree best, up to ``most`` frames either way.

    Raises:
        InputError: none of the videos is long enough.
    """
    lengths = signals.lengths
    least = max(LEAST_FRAMES, int(LEAST_OVERLAP * min(lengths)))
    found: dict[int, tuple[float, int]] = {}
    for shift in range(max(-most, least - lengths[0]), min(most, lengths[1] - least) + 1):
        start, stop = overlap(lengths, shift)
        if stop - start >= least:
            # Few frames agree by chance sooner than many.
            weight = np.sqrt((stop - start) / min(lengths))
            found[shift] = match(signals, shift, start, stop)[0] * weight, stop - start
    if not found:
        raise Refused(
            Reason.NO_OVERLAP,
            f"the videos have {lengths[0]} and {lengths[1]} frames: too few to be laid over each other.",
        )
    best = max(found, key=lambda shift: (found[shift][0], -abs(shift)))
    return at(signals, best, others=[score for shift, (score, _) in found.items() if abs(shift - best) > fps / 2])


def at(signals: Signals, shift: int, others: Sequence[float] = ()) -> Timing:
    """What the videos are at a shift that was found or given.

    Raises:
        InputError: they have no frame in common there.
    """
    lengths = signals.lengths
    start, stop = overlap(lengths, shift)
    if stop - start < LEAST_FRAMES:
        raise Refused(
            Reason.NO_OVERLAP,
            f"at this offset the videos have {max(0, stop - start)} frames in common (of {lengths[0]} and {lengths[1]}): give "
            "another --offset.",
        )
    value, order = match(signals, shift, start, stop)
    return Timing(
        shift=shift, agreement=value, others=float(max(others, default=0.0)), frames=stop - start, order=order
    )


def overlap(lengths: tuple[int, int], shift: int) -> tuple[int, int]:
    """Frames [start, stop) of the target (of ``lengths[0]``) that the driving video (of ``lengths[1]``) has too."""
    return max(0, -shift), min(lengths[0], lengths[1] - shift)
