"""Transparency for finished films: who of the output is the character, and how its outline ends.

An animated character stands where the driving character stands, but it has its own outline: wider clothes, other hair. So
the right mask of an output, in both modes, is the one that is found in the output itself; the driving mask says which of
those found there are meant (in replacement the scene may show others), and can serve in its place.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.masks import palette_codes
from scail2.perception.segmenters.protocol import VideoSegmenter
from scail2.perception.tracks import TrackedMasks
from scail2.request.masks import Prompts
from scail2.video import FrameSource, SizedFrames

# Share of what is found in the output that has to lie where the driving characters are, to be taken for one of them.
_OVERLAP = 0.3
_SAMPLES = 12
_BLACK, _WHITE = 0, 7  # palette codes of backgrounds


def soft_edge(inside: np.ndarray, *, erode: float, feather: float) -> np.ndarray:
    """Masks as alpha: half transparent ``erode`` pixels inside the outline, from nothing to all over ``feather`` pixels.

    With ``feather`` no more than twice ``erode`` nothing outside the outline is seen. The picture's border is no outline.

    Args:
        inside: bool (T, H, W).
        erode: pixels, ≥ 0; may be a fraction.
        feather: pixels, ≥ 0; 0 gives a hard edge.

    Returns:
        uint8 (T, H, W).
    """
    reach = int(np.ceil(erode + feather / 2)) + 1
    alpha = np.empty(inside.shape, np.uint8)
    for frame, here in enumerate(inside):
        # Pixels are half a pixel from an outline that runs between them and their neighbours.
        depth = np.where(here, _distance(~here, reach) - 0.5, 0.5 - _distance(here, reach))
        ramp = (depth - erode) / feather + 0.5 if feather else (depth >= erode).astype(np.float32)
        alpha[frame] = np.rint(255 * np.clip(ramp, 0, 1))
    return alpha


def _distance(marked: np.ndarray, reach: int) -> np.ndarray:
    """Distance of every pixel to the nearest marked one, bool (H, W) → float32, exact up to ``reach`` and larger beyond."""
    far = np.float32(4 * (reach + 1) ** 2)
    in_column = np.where(marked, np.float32(0), far)
    padded = np.pad(in_column, ((reach, reach), (0, 0)), constant_values=far)
    height, width = marked.shape
    for step in range(1, reach + 1):
        for start in (reach - step, reach + step):
            np.minimum(in_column, padded[start : start + height] + np.float32(step**2), out=in_column)
    best = in_column.copy()
    padded = np.pad(in_column, ((0, 0), (reach, reach)), constant_values=far)
    for step in range(1, reach + 1):
        for start in (reach - step, reach + step):
            np.minimum(best, padded[:, start : start + width] + np.float32(step**2), out=best)
    return np.sqrt(best)


def bound_characters(palette: np.ndarray) -> np.ndarray:
    """Where palette masks uint8 (T, H, W, 3) show anybody: bool (T, H, W)."""
    codes = palette_codes(palette)
    return (codes != _BLACK) & (codes != _WHITE)


@dataclass(frozen=True, kw_only=True)
class FoundCharacters:
    """The characters of a finished film: label maps, and the numbers of those that are meant."""

    masks: TrackedMasks
    numbers: tuple[int, ...]

    def inside(self, start: int, stop: int) -> np.ndarray:
        """Where they are in frames [start, stop): bool (stop - start, H, W)."""
        return np.isin(self.masks.labels.labels(start, stop), self.numbers)


def find_characters(
    film: SizedFrames,
    driving_mask: FrameSource,
    segmenter: VideoSegmenter,
    prompts: Prompts | None,
    directory: Path,
) -> FoundCharacters:
    """The characters of a finished film.

    Args:
        film: its frames.
        driving_mask: the run's palette masks: those found elsewhere are bystanders.
        prompts: what the segmenter is to look for.
        directory: where label maps go meanwhile.

    Raises:
        InputError: the segmenter does not know what the film shows, or nobody is where the driving characters are.
    """
    masks = segmenter.segment(film, prompts, directory=directory)
    numbers = [track.number for track in masks.tracks if _overlap(masks, track.number, driving_mask) >= _OVERLAP]
    if not numbers:
        raise InputError("nobody is found in it where the driving characters are")
    return FoundCharacters(masks=masks, numbers=tuple(numbers))


def _overlap(masks: TrackedMasks, number: int, driving_mask: FrameSource) -> float:
    """Share of a character's pixels that lie where a driving character is, in frames spread over its presence."""
    present = np.flatnonzero(masks.tracks[number - 1].present)
    shared = total = 0
    for frame in present[np.unique(np.linspace(0, len(present) - 1, min(_SAMPLES, len(present))).astype(int))].tolist():
        here = masks.labels.labels(frame, frame + 1)[0] == number
        shared += int((here & bound_characters(driving_mask.frames(frame, frame + 1))[0]).sum())
        total += int(here.sum())
    return shared / total if total else 0.0
