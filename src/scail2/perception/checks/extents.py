"""How far down bodies are to be seen, told by their joints: a mask that touches no border may still end at the knees.

Feet need the extra `people`; without it, and for whoever the pose network does not know, `framing` goes by masks alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from scail2.perception.bound_masks import BoundMasks
from scail2.perception.segmenters.people import joints as people
from scail2.perception.segmenters.people.network import Body, PoseNetwork, installed
from scail2.perception.tracks import CharacterTrack, TrackedMasks
from scail2.video import SizedFrames

# Mean visibility of a level's two joints from which it is shown, joints outside the picture counting nothing. Measured on
# crops of real clips: docs/masks.md.
_SHOWN = 0.6
# Frames of a driving character that are looked at, spread over the clip.
_LOOKS = 5


class Extent(IntEnum):
    """The lowest part of a body that is shown."""

    CHEST = 0
    HIPS = 1
    KNEES = 2
    FEET = 3

    @property
    def label(self) -> str:
        return self.name.lower()


_LEVELS = {
    Extent.HIPS: (people.LEFT_HIP, people.RIGHT_HIP),
    Extent.KNEES: (people.LEFT_KNEE, people.RIGHT_KNEE),
    Extent.FEET: (people.LEFT_ANKLE, people.RIGHT_ANKLE),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PairExtents:
    """Of a bound pair: how far down the reference shows its character, and the driving video at most, in ``frame``."""

    reference: Extent
    driving: Extent
    frame: int


def pair_extents(masks: BoundMasks, reference: np.ndarray, driving: SizedFrames) -> dict[tuple[int, int], PairExtents]:
    """Extents by (driving number, reference number), of the pairs whose joints are found in both.

    Args:
        reference: the reference picture, uint8 (H, W, 3).
        driving: the driving video at the masks' size.
    """
    pairs = masks.binding.pairs if installed() else ()
    shown_masks = {pair: _mask(masks.reference, pair.reference, 0) for pair in pairs}
    tall = [pair for pair in pairs if people.is_tall_enough(shown_masks[pair])]
    if not tall:
        return {}
    network, found = PoseNetwork(), {}
    for pair in tall:
        shown = _extent(network, reference, shown_masks[pair])
        if shown is None:
            continue
        moving = [
            (extent, -frame)
            for frame in _looks(masks.driving.tracks[pair.driving - 1])
            if (extent := _extent(network, _frame(driving, frame), _mask(masks.driving, pair.driving, frame)))
            is not None
        ]
        if moving:
            lowest, frame = max(moving)
            found[pair.driving, pair.reference] = PairExtents(reference=shown, driving=lowest, frame=-frame)
    return found


def _extent(network: PoseNetwork, frame: np.ndarray, mask: np.ndarray) -> Extent | None:
    if mask.shape != frame.shape[:2]:
        return None  # another finding says so
    body = people.found_body_on(network, np.ascontiguousarray(frame[..., :3]), mask)
    return None if body is None else _lowest(body, *mask.shape)


def _lowest(body: Body, height: int, width: int) -> Extent:
    lowest = Extent.CHEST
    for level, joints in _LEVELS.items():
        places, seen = body.joints[list(joints)], body.visibility[list(joints)]
        inside = (places >= 0).all(axis=1) & (places[:, 0] < width) & (places[:, 1] < height)
        if float((seen * inside).mean()) < _SHOWN:
            break
        lowest = level
    return lowest


def _looks(track: CharacterTrack) -> Iterator[int]:
    present = np.flatnonzero(track.present)
    for place in np.unique(np.linspace(0, len(present) - 1, min(_LOOKS, len(present))).round().astype(int)):
        yield int(present[place])


def _frame(frames: SizedFrames, number: int) -> np.ndarray:
    return frames.frames(number, number + 1)[0]


def _mask(masks: TrackedMasks, number: int, frame: int) -> np.ndarray:
    return masks.labels.labels(frame, frame + 1)[0] == number
