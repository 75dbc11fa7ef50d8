"""What is compared when a segment is held against the reference or the first segment: colour, sharpness, identity."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from scail2.drift.colour import ColourStatistics, as_float_frames, check_mask, colour_statistics, lab_planes, luma

if TYPE_CHECKING:
    import torch

# The amounts that make a drift of 1.0: plainly visible when the two pictures lie side by side.
_VISIBLE_COLOUR, _VISIBLE_OCTAVES, _VISIBLE_IDENTITY = 6.0, 1.0, 0.35
_HISTOGRAM_BINS, _STRUCTURE_SIDE, _CHROMA_REACH = 8, 8, 64.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentStatistics:
    """What is remembered of a segment (or of the reference picture) for comparing others with it. JSON-safe, exact."""

    colour: ColourStatistics
    sharpness: float  # variance of the Laplacian of 8-bit luma, mean over frames
    histogram: tuple[float, ...]  # character's colours: soft L* bins, then a*-b* cells; each part sums to 1
    structure: tuple[float, ...]  # 8 × 8 picture of the character's lightness, zero mean, unit norm

    def to_json(self) -> dict[str, Any]:
        return {
            "colour": self.colour.to_json(),
            "sharpness": self.sharpness,
            "histogram": list(self.histogram),
            "structure": list(self.structure),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SegmentStatistics":
        return cls(
            colour=ColourStatistics.from_json(values["colour"]),
            sharpness=values["sharpness"],
            histogram=tuple(values["histogram"]),
            structure=tuple(values["structure"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One segment against another (or against the reference picture); 0 everywhere for equal ones."""

    colour_inside: float | None  # CIE 1976 difference of mean colours over the character; None without a mask
    colour_outside: float | None  # … over its surroundings
    colour_whole: float
    contrast: float  # log2 of the ratio of lightness deviations (whole frame)
    sharpness: float  # log2 of the ratio
    identity: float | None  # 0 … 1, see `identity_distance`; None where only one of both shows a character

    @property
    def parts(self) -> dict[str, float]:
        """What has changed, each in units of what is plainly visible: 6 colour steps, a factor of two in contrast or
        sharpness, 0.35 of identity. Colour is that of the whole where no mask tells character and surroundings."""
        colours = {"colour of the character": self.colour_inside, "colour of the surroundings": self.colour_outside}
        known = {name: value for name, value in colours.items() if value is not None} or {"colour": self.colour_whole}
        parts = {name: value / _VISIBLE_COLOUR for name, value in known.items()} | {
            "contrast": abs(self.contrast) / _VISIBLE_OCTAVES,
            "sharpness": abs(self.sharpness) / _VISIBLE_OCTAVES,
        }
        return parts if self.identity is None else parts | {"identity": self.identity / _VISIBLE_IDENTITY}

    @property
    def score(self) -> float:
        """The largest of the parts."""
        return max(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"score": self.score}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Difference":
        return cls(**{name: values[name] for name in cls.__slots__})


def segment_statistics(
    frames: "np.ndarray | torch.Tensor", character_mask: np.ndarray | None = None
) -> SegmentStatistics:
    """Statistics of a segment; for the reference picture give it as one frame.

    Args:
        frames: float ``(T, 3, H, W)`` in [-1, 1] or uint8 ``(T, H, W, 3)``, T ≥ 1.
        character_mask: bool ``(T, H, W)``, True where any character is; without it the whole frame stands for it.
    """
    check_mask(character_mask, frames)
    histograms, structures, sharpness = [], [], []
    for number, frame in enumerate(as_float_frames(frames)):
        mask = None if character_mask is None else character_mask[number]
        sharpness.append(_laplacian_variance(luma(frame)))
        crop, inside = _character(frame, mask)
        histograms.append(_histogram(crop, inside))
        structures.append(_structure(crop, inside))
    histogram, structure = _summed(histograms), _summed(structures)
    norm = float(np.linalg.norm(structure))
    return SegmentStatistics(
        colour=colour_statistics(frames, character_mask),
        sharpness=float(np.mean(sharpness)),
        histogram=tuple((histogram / len(sharpness)).tolist()),
        structure=tuple((structure / norm if norm > 0 else structure).tolist()),
    )


def _summed(each: list[np.ndarray]) -> np.ndarray:
    """The sum, added in order: `np.sum` groups the terms, and stored measurements would differ in their last digits."""
    return functools.reduce(np.add, each)


def _laplacian_variance(grey: np.ndarray) -> float:
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var(dtype=np.float64))


def _character(frame: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The smallest crop around the character and where in it the character is; everything if there is none."""
    if mask is None or not mask.any():
        return frame, np.ones(frame.shape[:2], dtype=bool)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return frame[window], mask[window]


def _histogram(crop: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """8 lightness bins and 8 × 8 cells of a* and b* (±64, the rest in the outer cells), each part summing to 1."""
    step = max(1, max(crop.shape[:2]) // 128)
    sampled = inside[::step, ::step]
    lab = lab_planes(crop[::step, ::step][sampled] if sampled.any() else crop[inside])
    bins = _HISTOGRAM_BINS
    lightness = _soft_bins(lab[0] / 100.0, bins)
    chroma = [_soft_bins(axis / (2 * _CHROMA_REACH) + 0.5, bins) for axis in lab[1:]]
    plane = chroma[0].T @ chroma[1] / lab.shape[1]
    return np.concatenate([lightness.mean(axis=0), plane.reshape(-1)])


def _soft_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """Shares (N, bins) of values in 0 … 1 in the two nearest bins: a small shift moves a small share."""
    position = np.clip(values.astype(np.float64) * bins - 0.5, 0, bins - 1)
    lower = np.minimum(position.astype(int), bins - 2)
    share = position - lower
    shares = np.zeros((len(values), bins))
    rows = np.arange(len(values))
    shares[rows, lower] = 1 - share
    shares[rows, lower + 1] += share
    return shares


def _structure(crop: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The crop's lightness on an 8 × 8 grid (surroundings replaced by the character's mean), zero mean, unit norm."""
    grey = luma(crop) / 255
    grey = np.where(inside, grey, grey[inside].mean())
    small = np.asarray(
        Image.fromarray(grey.astype(np.float32)).resize((_STRUCTURE_SIDE, _STRUCTURE_SIDE), Image.Resampling.BOX),
        dtype=np.float64,
    )
    small = (small - small.mean()).reshape(-1)
    norm = np.linalg.norm(small)
    return small / norm if norm > 1e-6 else np.zeros_like(small)


def identity_distance(first: SegmentStatistics, second: SegmentStatistics) -> float:
    """0 (same look) … 1: ¾ Hellinger distance of the characters' colours + ¼ of (1 - correlation of structure) / 2.

    A proxy that needs no network: it sees changed clothes, hair and shading, not a changed face of the same colours;
    turning around moves it a little.
    """
    ours, theirs = np.array(first.histogram), np.array(second.histogram)
    halves = [
        np.sqrt(ours[part]) - np.sqrt(theirs[part]) for part in (np.s_[:_HISTOGRAM_BINS], np.s_[_HISTOGRAM_BINS:])
    ]
    hellinger = np.mean([np.linalg.norm(half) / np.sqrt(2) for half in halves])
    correlation = float(np.dot(first.structure, second.structure))
    if not any(first.structure) or not any(second.structure):
        correlation = 1.0  # a flat character has no structure to compare
    return float(np.clip(0.75 * hellinger + 0.25 * (1 - correlation) / 2, 0.0, 1.0))


def _shows_somebody(colour: ColourStatistics) -> bool:
    """Whether there is a character, as far as a mask says; without one the whole frame stands for it."""
    return colour.inside is not None or colour.outside is None


def compare(segment: SegmentStatistics, base: SegmentStatistics) -> Difference:
    """How ``segment`` differs from ``base``; positive contrast and sharpness mean more of it in ``segment``."""
    ours, theirs = segment.colour, base.colour

    def distance(region: str) -> float | None:
        here, there = getattr(ours, region), getattr(theirs, region)
        return None if here is None or there is None else here.distance(there)

    return Difference(
        colour_inside=distance("inside"),
        colour_outside=distance("outside"),
        colour_whole=ours.whole.distance(theirs.whole),
        contrast=ours.whole.contrast_change(theirs.whole),
        sharpness=float(np.log2((segment.sharpness + 1.0) / (base.sharpness + 1.0))),
        identity=identity_distance(segment, base) if _shows_somebody(ours) == _shows_somebody(theirs) else None,
    )
