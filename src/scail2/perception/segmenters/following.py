"""From instances in single frames to characters through a clip.

Each frame comes with an instance map whose numbers mean nothing; the follower matches instances to the characters it knows
by overlap with where they were, and, after they were away, by their colours. It also repairs the two common faults: one
instance covering two characters that touch, and one character broken into two instances.
"""

from dataclasses import dataclass

import numpy as np

# Overlap (intersection over union) with its last mask from which an instance simply is that character.
_SAME = 0.15
# Frames after which a last position says nothing any more.
_POSITION_MEMORY = 6
# Shared share of colour histograms from which a newcomer is somebody who was seen before.
_FAMILIAR = 0.55
# Weight of the newest frame in a character's remembered colours.
_COLOUR_UPDATE = 0.1
_BINS = 4


def components(mask: np.ndarray, *, smallest: int = 1) -> np.ndarray:
    """Connected regions (8 neighbours) of a bool (H, W) mask, numbered 1, 2, … from the largest: int32 (H, W)."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges > 0)
    ends = np.nonzero(edges < 0)[1]  # of the runs in the same order, exclusive
    lengths, roots = ends - starts, _joined(rows, starts, ends, width)
    counts = np.bincount(roots, weights=lengths, minlength=len(roots)).astype(int)
    order = np.argsort(-counts, kind="stable")
    table = np.zeros(len(roots), np.int32)
    big = order[counts[order] >= max(1, smallest)]
    table[big] = np.arange(1, len(big) + 1)
    numbered = np.zeros((height, width), np.int32)
    numbered[mask] = np.repeat(table[roots], lengths)
    return numbered


def _joined(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """For runs of pixels in the order of reading, the last run of the region that each belongs to."""
    here, below = rows * (width + 2), (rows + 1) * (width + 2)
    first = np.searchsorted(here + ends, below + starts, side="left")
    beyond = np.searchsorted(here + starts, below + ends, side="right")
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    for run, (low, high) in enumerate(zip(first.tolist(), beyond.tolist(), strict=True)):
        for other in range(low, high):
            one, two = root(run), root(other)
            parents[min(one, two)] = max(one, two)
    return np.array([root(run) for run in range(len(rows))], np.intp)


def colour_histogram(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Coarse colour histogram float (64,), summing to 1, of the pixels of uint8 (H, W, 3) under bool (H, W)."""
    bins = rgb[mask].astype(np.int64) * _BINS // 256
    codes = (bins[:, 0] * _BINS + bins[:, 1]) * _BINS + bins[:, 2]
    return np.bincount(codes, minlength=_BINS**3) / max(1, len(codes))


@dataclass
class _Known:
    """A character met so far."""

    mask: np.ndarray
    seen: int
    colours: np.ndarray


class Follower:
    """Gives instances the numbers of characters, frame after frame.

    Args:
        limit: how many characters there can be; None for any number. Beyond it, newcomers join the nearest character.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self._known: list[_Known] = []
        self._frame = -1

    @property
    def count(self) -> int:
        """Characters met so far."""
        return len(self._known)

    def follow(self, rgb: np.ndarray, instances: np.ndarray) -> np.ndarray:
        """Numbers one frame.

        Args:
            rgb: uint8 (H, W, 3), at the instances' size.
            instances: int (H, W), 0 where nobody is.

        Returns:
            uint8 (H, W): character numbers from 1, the same person the same number in every frame.
        """
        self._frame += 1
        labels = np.zeros(instances.shape, np.uint8)
        found = {int(n): instances == n for n in np.unique(instances) if n}
        taken = self._match_positions(found)
        self._split_touching(found, taken, labels)
        for number, mask in sorted(found.items(), key=lambda item: -int(item[1].sum())):
            if number not in taken:
                taken[number] = self._identify(rgb, mask, set(taken.values()))
        for number, character in taken.items():
            if number in found:
                labels[found[number]] = character + 1
        self._remember(rgb, labels)
        return labels

    def _recent(self) -> list[int]:
        return [i for i, known in enumerate(self._known) if self._frame - known.seen <= _POSITION_MEMORY]

    def _match_positions(self, found: dict[int, np.ndarray]) -> dict[int, int]:
        """Instances → characters, best overlaps first, one to one; then broken-off pieces join theirs."""
        scores = []
        for number, mask in found.items():
            for character in self._recent():
                last = self._known[character].mask
                shared = np.count_nonzero(mask & last)
                if shared:
                    scores.append((shared / np.count_nonzero(mask | last), number, character))
        taken: dict[int, int] = {}
        for score, number, character in sorted(scores, reverse=True):
            if score >= _SAME and number not in taken and character not in taken.values():
                taken[number] = character
        for number, mask in found.items():
            if number in taken:
                continue
            size = np.count_nonzero(mask)
            shares = [(np.count_nonzero(mask & self._known[c].mask) / size, c) for c in self._recent()]
            share, character = max(shares, default=(0.0, -1))
            # A piece that lies where a bigger matched instance's character just was belongs to that character.
            if share > 0.5 and character in taken.values():
                taken[number] = character
        return taken

    def _split_touching(self, found: dict[int, np.ndarray], taken: dict[int, int], labels: np.ndarray) -> None:
        """Divides an instance that now covers several characters, by whose last mask is nearer."""
        for number in list(taken):
            mask = found[number]
            covered = [
                c
                for c in self._recent()
                if (c == taken[number] or c not in taken.values())
                and self._frame - self._known[c].seen <= 2
                and np.count_nonzero(mask & self._known[c].mask) > 0.5 * np.count_nonzero(self._known[c].mask)
            ]
            if len(covered) < 2:
                continue
            nearest = _nearest_of([self._known[c].mask for c in covered], mask)
            labels[mask] = (np.array(covered) + 1)[nearest[mask]]
            del found[number]

    def _identify(self, rgb: np.ndarray, mask: np.ndarray, busy: set[int]) -> int:
        """The character a new instance is: one who was away and looks like it, else somebody new."""
        colours = colour_histogram(rgb, mask)
        away = [i for i in range(len(self._known)) if i not in busy]
        likeness = [(float(np.minimum(colours, self._known[i].colours).sum()), i) for i in away]
        best, character = max(likeness, default=(0.0, -1))
        full = self.limit is not None and len(self._known) >= self.limit
        if best >= _FAMILIAR or (full and away):
            return character
        if full:
            centre = np.argwhere(mask).mean(axis=0)
            gaps = [np.linalg.norm(np.argwhere(known.mask).mean(axis=0) - centre) for known in self._known]
            return int(np.argmin(gaps))
        self._known.append(_Known(mask=mask, seen=self._frame, colours=colours))
        return len(self._known) - 1

    def _remember(self, rgb: np.ndarray, labels: np.ndarray) -> None:
        for index, known in enumerate(self._known):
            mask = labels == index + 1
            if mask.any():
                known.mask, known.seen = mask, self._frame
                known.colours = (1 - _COLOUR_UPDATE) * known.colours + _COLOUR_UPDATE * colour_histogram(rgb, mask)


def _nearest_of(sources: list[np.ndarray], within: np.ndarray) -> np.ndarray:
    """For every pixel of `within`, which of the bool (H, W) sources is nearest (grown step by step): int (H, W)."""
    owner = np.full(within.shape, -1, np.int32)
    for index, source in enumerate(sources):
        owner[source & within & (owner < 0)] = index
    while (open_ := within & (owner < 0)).any():
        grown = owner
        for axis in (0, 1):
            for shift in (1, -1):
                moved = np.roll(owner, shift, axis)
                edge = [slice(None)] * 2
                edge[axis] = slice(0, 1) if shift == 1 else slice(-1, None)
                moved[tuple(edge)] = -1
                grown = np.where((grown < 0) & open_, moved, grown)
        if np.array_equal(grown, owner):
            owner = np.where(open_, 0, owner)
            break
        owner = grown
    return owner


def follow_regions(follower: Follower, rgb: np.ndarray, mask: np.ndarray, *, side: int = 96) -> np.ndarray:
    """Numbers the characters of a mask bool (H, W) by its connected regions: uint8 (H, W).

    Regions are found and followed on a grid whose short side is at most `side` pixels, then brought back to full size.

    Args:
        follower: knows the frames before.
        rgb: uint8 (H, W, 3), the frame itself.
    """
    height, width = mask.shape
    step = max(1, min(height, width) // side)
    ys, xs = np.arange(0, height, step), np.arange(0, width, step)
    small = mask[np.ix_(ys, xs)]
    regions = components(small, smallest=max(2, small.size // 2000))
    labels = follower.follow(rgb[np.ix_(ys, xs)], regions)
    if not labels.any():
        return np.zeros(mask.shape, np.uint8)
    numbers = [number for number in np.unique(labels) if number]
    nearest = _nearest_of([labels == number for number in numbers], np.ones_like(small))
    full = np.array(numbers, np.uint8)[nearest][np.ix_(np.arange(height) // step, np.arange(width) // step)]
    return np.where(mask, full, 0).astype(np.uint8)
