"""One character in one frame, in pixels, and the order in which its parts cover each other."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import skia

from scail2.puppets.drawing import Point
from scail2.puppets.skeleton import JOINT_INDEX

LIMB_SHADE = {"left": 0.80, "right": 0.92}
"""Limbs are a little darker than the body so that they stand out before it, the left ones most: sides can be told apart."""

Layer = tuple[float, Callable[[], None]]
"""Nearness, and what draws it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Pixels of the joints and the directions that features need."""

    points: list[list[float]]
    """(J, 3): x, y and nearness of each joint."""
    scale: float
    """Pixels per body height."""
    head: np.ndarray
    """Rotation of the head as seen by the camera, (3, 3)."""
    pelvis: np.ndarray
    """The same of the pelvis."""
    seat: float = 0.0
    """Width of the stool below, in body heights; 0 for none."""
    ground: float = 0.0
    """Pixel row of the ground."""

    def at(self, joint: str) -> Point:
        """Pixel of a joint."""
        x, y, _ = self.points[JOINT_INDEX[joint]]
        return (x, y)

    def near(self, *joints: str) -> float:
        """Mean nearness of some joints."""
        return sum(self.points[JOINT_INDEX[joint]][2] for joint in joints) / len(joints)

    def offset(self, joint: str, frame: np.ndarray, left: float, up: float, forward: float) -> Point:
        """Pixel of a point fixed to a joint: `frame` (3, 3) has its axes, the offsets are body heights."""
        x, y = self.at(joint)
        right, rise, _ = frame @ (left, up, forward)
        return (x + self.scale * right, y - self.scale * rise)


def arm_depths(figure: Figure, side: str) -> tuple[float, float]:
    """Nearness of the upper arm and of the forearm with its hand: before the body unless clearly behind it."""
    arm = figure.near(f"shoulder_{side}", f"elbow_{side}") + 0.05
    forearm = max(figure.near(f"elbow_{side}", f"wrist_{side}") + 0.055, arm + 0.001)
    if figure.near(f"wrist_{side}") + 0.05 < figure.near("chest") - 0.04:
        forearm = figure.near(f"elbow_{side}", f"wrist_{side}")
    return arm, forearm


def draw_layers(layers: list[Layer]) -> None:
    """Draws far layers first."""
    for _, draw in sorted(layers, key=lambda layer: layer[0]):
        draw()


def head_frame(figure: Figure, half_height: float) -> tuple[skia.Matrix, np.ndarray]:
    """Coordinates in skull half heights about the head's middle, and the facing (right, down, toward the viewer) in them."""
    x, y = figure.at("head")
    up = figure.head[:, 1]
    angle = math.atan2(up[0], up[1])
    unit = half_height * figure.scale
    matrix = skia.Matrix.Translate(x, y)
    matrix.preRotate(math.degrees(angle))
    matrix.preScale(unit, unit)
    forward = figure.head[:, 2]
    cos, sin = math.cos(angle), math.sin(angle)
    right = forward[0] * cos - forward[1] * sin
    down = -forward[0] * sin - forward[1] * cos
    return matrix, np.array((right, down, forward[2]))
