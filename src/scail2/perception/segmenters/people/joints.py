"""Joints of people: in a whole clip, or of characters whose masks are known; hand and face boxes; the error of a motion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scail2.perception.segmenters.people.network import NUM_JOINTS, Body, PoseNetwork, Posture, Square, placed
from scail2.perception.segmenters.people.places import PRESENT, PlaceFinder
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

# The 33 joints of the BlazePose topology that the parts below need; left and right are the person's own.
NOSE, LEFT_EAR, RIGHT_EAR = 0, 7, 8
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST = 11, 12, 13, 14, 15, 16
LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = 23, 24, 25, 26, 27, 28
HANDS = {"left": (15, 17, 19, 21), "right": (16, 18, 20, 22)}
FEET = {"left": (27, 29, 31), "right": (28, 30, 32)}
FACE = tuple(range(11))
# Trunk and limbs, on which a motion is compared: fingers and faces are too small to be sure of.
LIMBS = (
    LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST,
    LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE,
)  # fmt: skip
# Below this a joint is hidden or outside the picture.
VISIBLE = 0.5
HAND_JOINTS = HANDS["left"] + HANDS["right"]
# A body is a mask's when the two outlines share this part of their union.
_SAME_BODY = 0.6
# Bodies less tall than this, in pixels, are not looked for: their joints could not be told apart.
SMALLEST_BODY = 48
# What a box reaches beyond the joints, in torso lengths: where fingers end, and chin, forehead and hair.
_MARGIN = 0.2


@dataclass(frozen=True, kw_only=True)
class Joints:
    """Joints of every person in every frame.

    Attributes:
        places: float32 (people, T, 33, 2), x and y in pixels; NaN in frames without the person.
        visibility: float32 (people, T, 33) in [0, 1]; 0 in frames without the person.
    """

    places: np.ndarray
    visibility: np.ndarray

    @classmethod
    def of(cls, bodies: Sequence[Sequence[Posture | None]]) -> "Joints":
        """Of bodies by person and frame, None where a person was not found."""
        shape = len(bodies), len(bodies[0]) if bodies else 0
        places = np.full((*shape, NUM_JOINTS, 2), np.nan, np.float32)
        visibility = np.zeros((*shape, NUM_JOINTS), np.float32)
        for person, found in enumerate(bodies):
            for frame, body in enumerate(found):
                if body is not None:
                    places[person, frame], visibility[person, frame] = body.joints, body.visibility
        return cls(places=places, visibility=visibility)

    @property
    def seen(self) -> np.ndarray:
        """bool (people, T, 33): joints that are in the picture and not hidden."""
        return self.visibility >= VISIBLE

    def hand_boxes(self) -> np.ndarray:
        """Boxes float32 (people, T, 2, 4) around the left and the right hand, see `boxes`."""
        return np.stack([self.boxes(HANDS[side]) for side in ("left", "right")], axis=2)

    def face_boxes(self) -> np.ndarray:
        """Boxes float32 (people, T, 4) around the face, chin and forehead included, see `boxes`."""
        return self.boxes(FACE)

    def boxes(self, joints: tuple[int, ...], margin: float = _MARGIN) -> np.ndarray:
        """Boxes float32 (people, T, 4) around some joints: x0, y0, x1, y1 in pixels, which may lie beyond the picture.

        NaN where fewer than two of them are seen. The margin is a share of the person's usual torso length, for the fingers
        or hair that joints do not reach.
        """
        places = np.where(self.seen[..., None], self.places, np.nan)[..., list(joints), :]
        enough = np.isfinite(places[..., 0]).sum(axis=-1) >= 2
        low, high = np.full((*enough.shape, 2), np.nan, np.float32), np.full((*enough.shape, 2), np.nan, np.float32)
        low[enough], high[enough] = np.nanmin(places[enough], axis=1), np.nanmax(places[enough], axis=1)
        reach = margin * _typical_size(self.places)[:, None, None]
        return np.concatenate([low - reach, high + reach], axis=-1).astype(np.float32)


def find_joints(
    frames: SizedFrames,
    network: PoseNetwork | None = None,
    prompts: Prompts | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Joints:
    """Joints of the people of a clip uint8 RGB, the largest person first, or as the prompts number them.

    ``progress`` is called with (frames done, frames in total); afterwards only gaps are followed backwards.
    """
    people = PlaceFinder(network or PoseNetwork(), prompts).find(
        frames, None if progress is None else lambda done, _: progress(done, len(frames))
    )
    found = [
        [person.findings[frame].body if frame in person.findings else None for frame in range(len(frames))]
        for person in people
    ]
    return Joints.of(found)


def is_tall_enough(mask: np.ndarray) -> bool:
    """Whether a character's mask bool (H, W) is tall enough for its joints to be looked for."""
    rows = np.flatnonzero(mask.any(axis=1))
    return len(rows) > 0 and int(rows[-1] - rows[0]) + 1 >= SMALLEST_BODY


def body_on(network: PoseNetwork, frame: np.ndarray, mask: np.ndarray) -> Body | None:
    """The body of a character in a frame uint8 (H, W, 3), whose mask bool (H, W) is known.

    None where the network sees no person there, or one whose outline is not the mask: a drawing, an animal, somebody else.
    """
    if not is_tall_enough(mask):
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    body = body_near(network, frame, Square.of_box((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    return body if body is not None and _agreement(body, mask) >= _SAME_BODY else None


def found_body_on(network: PoseNetwork, frame: np.ndarray, mask: np.ndarray) -> Body | None:
    """As `body_on`, but of a body that may be cut off: a box around what is left of one would be taken for all of it.

    The detector places a whole body by its head and hips, also where the picture ends above the feet. None where it finds
    nobody on the mask.
    """
    if not is_tall_enough(mask):
        return None
    bodies = [body_near(network, frame, square) for _, square in network.detect(frame)]
    known = [(_agreement(body, mask), place) for place, body in enumerate(bodies) if body is not None]
    share, place = max(known, default=(0.0, 0))
    return bodies[place] if share >= _SAME_BODY else None


def _agreement(body: Body, mask: np.ndarray) -> float:
    """Intersection over union of a body's outline and a mask bool (H, W)."""
    outline = placed(body.outline, body.square, *mask.shape) > 0
    union = int(np.count_nonzero(outline | mask))
    return int(np.count_nonzero(outline & mask)) / max(union, 1)


def body_near(network: PoseNetwork, frame: np.ndarray, square: Square) -> Body | None:
    """The body in or near a square of a frame uint8 (H, W, 3); None where nobody is."""
    first = network.posture(frame, square)
    # Its own landmarks place the square better than a box does.
    again = network.body(frame, first.following)
    body = again if again.presence >= first.presence else network.body(frame, square)
    return body if body.presence >= PRESENT else None


def posture_near(network: PoseNetwork, frame: np.ndarray, square: Square) -> Posture | None:
    """The joints of `body_near`, cheaper than with its outline."""
    first = network.posture(frame, square)
    again = network.posture(frame, first.following)
    seen = again if again.presence >= first.presence else first
    return seen if seen.presence >= PRESENT else None


def body_size(joints: np.ndarray) -> np.ndarray:
    """Length float (...,) of the torso, shoulders' middle to hips' middle, of joints (..., 33, 2)."""
    top = (joints[..., LEFT_SHOULDER, :] + joints[..., RIGHT_SHOULDER, :]) / 2
    bottom = (joints[..., LEFT_HIP, :] + joints[..., RIGHT_HIP, :]) / 2
    return np.linalg.norm(top - bottom, axis=-1)


def motion_error(output: Joints, driving: Joints, compared: Sequence[int] = LIMBS) -> np.ndarray:
    """How far an output's joints are from where the driving video's motion puts them, float (people, T), in torso lengths.

    Each body is centred on its hips and divided by its median torso length, so place and size do not count, only pose. Mean
    over those of the compared joints (trunk and limbs) that are seen in both; NaN where fewer than half of them are. People
    are compared in order; both need the same number.
    """
    if len(output.places) != len(driving.places):
        raise ValueError(f"{len(output.places)} people in the output, {len(driving.places)} in the driving video")
    limbs = list(compared)
    ours, theirs = _normalised(output)[..., limbs, :], _normalised(driving)[..., limbs, :]
    both = (output.seen & driving.seen)[..., limbs]
    distance = np.where(both, np.linalg.norm(ours - theirs, axis=-1), 0.0)
    count = both.sum(axis=-1)
    return np.where(count >= len(limbs) // 2, distance.sum(axis=-1) / np.maximum(count, 1), np.nan)


def _typical_size(places: np.ndarray) -> np.ndarray:
    """Median torso length float (people,) of places (people, T, 33, 2); NaN for somebody who is never seen."""
    sizes = body_size(places)
    return np.array([np.nanmedian(each) if np.isfinite(each).any() else np.nan for each in sizes])


def _normalised(joints: Joints) -> np.ndarray:
    hips = (joints.places[..., LEFT_HIP, :] + joints.places[..., RIGHT_HIP, :]) / 2
    size = _typical_size(joints.places)[:, None, None, None]
    return (joints.places - hips[..., None, :]) / np.maximum(size, 1e-6)
