"""Joints of the people in a clip: for pose renders, hand and face boxes, framing, and the motion error of a finished run."""

from dataclasses import dataclass

import numpy as np

from scail2.perception.segmenters.people.network import NUM_JOINTS, PoseNetwork
from scail2.perception.segmenters.people.places import PlaceFinder
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

# The 33 joints of the BlazePose topology that the parts below need.
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 11, 12, 23, 24
HANDS = {"left": (15, 17, 19, 21), "right": (16, 18, 20, 22)}
FEET = {"left": (27, 29, 31), "right": (28, 30, 32)}
FACE = tuple(range(11))
# Below this a joint is hidden or outside the picture.
VISIBLE = 0.5


@dataclass(frozen=True, kw_only=True)
class Joints:
    """Joints of every person in every frame.

    Attributes:
        places: float32 (people, T, 33, 2), x and y in pixels; NaN in frames without the person.
        visibility: float32 (people, T, 33) in [0, 1]; 0 in frames without the person.
    """

    places: np.ndarray
    visibility: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """bool (people, T, 33): joints that are in the picture and not hidden."""
        return self.visibility >= VISIBLE

    def boxes(self, joints: tuple[int, ...], margin: float = 0.5) -> np.ndarray:
        """Boxes float32 (people, T, 4), x0 y0 x1 y1 in pixels, around some joints; NaN where fewer than two are seen.

        The margin is a share of the body's shoulder width, for the fingers or hair that joints do not reach.
        """
        places = np.where(self.seen[..., None], self.places, np.nan)[..., list(joints), :]
        enough = np.isfinite(places[..., 0]).sum(axis=-1) >= 2
        low, high = np.full((*enough.shape, 2), np.nan, np.float32), np.full((*enough.shape, 2), np.nan, np.float32)
        low[enough], high[enough] = np.nanmin(places[enough], axis=1), np.nanmax(places[enough], axis=1)
        reach = margin * np.linalg.norm(
            self.places[..., LEFT_SHOULDER, :] - self.places[..., RIGHT_SHOULDER, :], axis=-1, keepdims=True
        )
        return np.concatenate([low - reach, high + reach], axis=-1).astype(np.float32)


def find_joints(frames: SizedFrames, network: PoseNetwork | None = None, prompts: Prompts | None = None) -> Joints:
    """Joints of the people of a clip uint8 RGB, the largest person first."""
    people = PlaceFinder(network or PoseNetwork(), prompts).find(frames)
    places = np.full((len(people), len(frames), NUM_JOINTS, 2), np.nan, np.float32)
    visibility = np.zeros((len(people), len(frames), NUM_JOINTS), np.float32)
    for index, person in enumerate(people):
        for frame, found in person.findings.items():
            places[index, frame], visibility[index, frame] = found.body.joints, found.body.visibility
    return Joints(places=places, visibility=visibility)


def body_size(joints: np.ndarray) -> np.ndarray:
    """Length float (...,) of the torso, shoulders' middle to hips' middle, of joints (..., 33, 2)."""
    top = (joints[..., LEFT_SHOULDER, :] + joints[..., RIGHT_SHOULDER, :]) / 2
    bottom = (joints[..., LEFT_HIP, :] + joints[..., RIGHT_HIP, :]) / 2
    return np.linalg.norm(top - bottom, axis=-1)


def motion_error(output: Joints, driving: Joints) -> np.ndarray:
    """How far an output's joints are from where the driving video's motion puts them, float (people, T), in torso lengths.

    Each body is centred on its hips and divided by its median torso length, so place and size do not count, only pose. Mean
    over joints seen in both; NaN in frames without any. People are compared in order; both need the same number.
    """
    if len(output.places) != len(driving.places):
        raise ValueError(f"{len(output.places)} people in the output, {len(driving.places)} in the driving video")
    ours, theirs = _normalised(output), _normalised(driving)
    both = output.seen & driving.seen
    distance = np.where(both, np.linalg.norm(ours - theirs, axis=-1), 0.0)
    count = both.sum(axis=-1)
    return np.where(count > 0, distance.sum(axis=-1) / np.maximum(count, 1), np.nan)


def _normalised(joints: Joints) -> np.ndarray:
    hips = (joints.places[..., LEFT_HIP, :] + joints.places[..., RIGHT_HIP, :]) / 2
    size = np.nanmedian(body_size(joints.places), axis=-1)[:, None, None, None]
    return (joints.places - hips[..., None, :]) / np.maximum(size, 1e-6)
