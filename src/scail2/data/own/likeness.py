"""Clips that are nearly the same: a file that came in twice, encoded again or in another size.

The perceptual hash of a clip says, around its characters at five moments, which of neighbouring cells is the lighter one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scail2.data.own.listing import Listed
from scail2.data.own.timing import Array
from scail2.data.pairs import Clip, MotionPair, read_pair
from scail2.data.shards import DamagedSample

_MOMENTS, _CELLS = 5, 12
# Share of different bits up to which two clips are one. Of real dances, encoding again in another size changes 1 %, beginning
# one frame later 8 to 16 %, another dancer in the same scene 31 %, another moment 44 %.
LIKE = 0.08


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A clip that is nearly another one, which comes before it and is kept."""

    key: str
    of: str
    difference: float


def fingerprint(pair: MotionPair) -> Array:
    """Bits bool (N,) of a pair, of both sides where it has two: only where both are alike are two pairs."""
    sides = [pair.real] if pair.is_single else [pair.synthetic, pair.real]
    return np.concatenate([_bits(clip) for clip in sides])


def _bits(clip: Clip) -> Array:
    rows, columns = (np.flatnonzero(clip.region.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    box = 0.0, 0.0, float(clip.frames.shape[2]), float(clip.frames.shape[1])
    if len(rows):
        box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    bits = []
    for number in np.linspace(0, len(clip.frames) - 1, _MOMENTS).round().astype(int):
        grey = Image.fromarray(clip.frames[number]).convert("L")
        values = np.asarray(grey.resize((_CELLS + 1, _CELLS), Image.Resampling.BOX, box=box)).astype(int)
        bits.append((values[:, 1:] > values[:, :-1] + 2).ravel())
    return np.concatenate(bits)


def near_duplicates(pairs: Sequence[Listed]) -> list[Twin]:
    """Pairs that are nearly an earlier one of another source, of the same kind and length; unreadable ones are passed over."""
    kept: list[tuple[Listed, Array]] = []
    twins = []
    for each in pairs:
        try:
            bits = fingerprint(read_pair(each.record))
        except DamagedSample:
            continue
        likest: Twin | None = None
        for other, known in kept:
            if other.source == each.source or other.kind != each.kind or len(known) != len(bits):
                continue
            difference = float((known != bits).mean())
            if difference <= LIKE and (likest is None or difference < likest.difference):
                likest = Twin(key=each.key, of=other.key, difference=round(difference, 4))
        if likest is None:
            kept.append((each, bits))
        else:
            twins.append(likest)
    return twins
