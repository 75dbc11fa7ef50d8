"""Pose estimators, good and bad: what they say of a motion is what a generator that is driven by poses will repeat."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scail2 import puppets
from scail2.data.puppet_source import POSE_ERRORS
from scail2.errors import InputError
from scail2.perception.segmenters.people.joints import HANDS, Joints, body_size
from scail2.synthesis.generators.protocol import Motion
from scail2.synthesis.performers import poses

# A body is so many torso lengths tall.
_TORSOS_TALL = 3.2
# The joints of people under the names that the simulated errors know.
_NAMES = {"shoulder": 11, "elbow": 13, "wrist": 15, "hip": 23, "knee": 25, "ankle": 27, "toe": 31}
_FINGERS = ("little", "index", "thumb")


class Estimator(Protocol):
    """Says where the joints of a motion's performers are, rightly or not. A pure function of motion and seed."""

    def estimate(self, motion: Motion, seed: int) -> Motion:
        """The same motion with this estimator's joints.

        Raises:
            InputError: nobody's joints can be found.
        """

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that fix what it says."""


@dataclass(frozen=True, kw_only=True)
class PeopleEstimator:
    """The networks of the extra `people`; `error`, of `POSE_ERRORS`, makes a weaker estimator of them."""

    error: str = "none"

    def __post_init__(self) -> None:
        if self.error not in POSE_ERRORS:
            raise InputError(f"Unknown pose error {self.error!r}: choose one of {', '.join(POSE_ERRORS)}.")

    def describe(self) -> dict[str, Any]:
        """The error's strengths."""
        strength = POSE_ERRORS[self.error]
        return {"estimator": "people", "error": None if strength is None else dataclasses.asdict(strength)}

    def estimate(self, motion: Motion, seed: int) -> Motion:
        """See `Estimator`; joints that came with the motion are not believed."""
        joints = poses(dataclasses.replace(motion, joints=None))
        strength = POSE_ERRORS[self.error]
        if strength is not None:
            joints = mistaken(joints, strength, seed, fps=motion.clip.fps)
        return dataclasses.replace(motion, joints=joints)


def mistaken(joints: Joints, error: puppets.PoseError, seed: int, *, fps: float) -> Joints:
    """Joints with simulated errors: smooth noise that grows toward the hands, lost fingers, exchanged sides, a lag.

    Faces stay; lost fingers are not seen.
    """
    number = {name: place for place, name in enumerate(puppets.JOINT_NAMES)}
    pairs = [(joint + side, number[f"{name}_{which}"]) for name, joint in _NAMES.items() for side, which in _SIDES]
    pairs += [
        (HANDS[which][1 + place], number[f"{finger}_{bone}_{which}"])
        for _, which in _SIDES
        for place, finger in enumerate(_FINGERS)
        for bone in ("knuckle", "middle", "tip")
    ]
    places, visibility = joints.places.copy(), joints.visibility.copy()
    sizes = body_size(joints.places)
    for person, points in enumerate(joints.places):
        known = sizes[person][np.isfinite(sizes[person])]
        if not len(known):
            continue
        drawn = np.zeros((1, len(points), len(number), 2))
        for ours, theirs in pairs:
            drawn[0, :, theirs] = points[:, ours]
        wrong = puppets.corrupt_joints(
            drawn, error, seed + person, fps=fps, body_pixels=_TORSOS_TALL * float(np.median(known))
        )[0]
        for ours, theirs in pairs:
            lost = ~np.isfinite(wrong[:, theirs]).all(axis=-1)
            places[person, ~lost, ours] = wrong[~lost, theirs]
            visibility[person, lost, ours] = 0
    return Joints(places=places.astype(np.float32), visibility=visibility)


_SIDES = ((0, "left"), (1, "right"))
