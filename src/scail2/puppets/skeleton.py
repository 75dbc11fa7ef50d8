"""Joints, degrees of freedom and forward kinematics of a puppet.

World axes: x to the right of the picture, y up, z toward the viewer. A character that faces the viewer has its left side at
+x. Lengths are in standing body heights, angles in radians. Arrays have a leading frame axis T.
"""

from dataclasses import dataclass

import numpy as np

PART_NAMES = (
    "head",
    "torso",
    "upper_arm_left",
    "upper_arm_right",
    "forearm_left",
    "forearm_right",
    "hand_left",
    "hand_right",
    "thigh_left",
    "thigh_right",
    "shin_left",
    "shin_right",
    "foot_left",
    "foot_right",
)
"""Part classes of the parts map: value 1 + index, 0 is no character."""

PART_IDS = {name: number for number, name in enumerate(PART_NAMES, start=1)}

SIDES = ("left", "right")
SIDE_SIGNS = {"left": 1.0, "right": -1.0}

SEAT_HEIGHT = 0.5
"""Lowest the pelvis can be, in torso depths above the ground."""

DIGIT_NAMES = ("thumb", "index", "middle", "ring", "little")

LIMB_JOINTS = ("shoulder", "elbow", "wrist", "palm", "hip", "knee", "ankle", "toe")
BODY_JOINTS = (
    *("pelvis", "chest", "neck", "head", "head_top"),
    *(f"{joint}_{side}" for side in SIDES for joint in LIMB_JOINTS),
)
HAND_JOINTS = tuple(
    f"{digit}_{bone}_{side}" for side in SIDES for digit in DIGIT_NAMES for bone in ("knuckle", "middle", "tip")
)
JOINT_NAMES = BODY_JOINTS + HAND_JOINTS
JOINT_INDEX = {name: number for number, name in enumerate(JOINT_NAMES)}

ROOT_DOFS = ("yaw", "pitch", "roll", "sway", "lift", "advance")
TRUNK_DOFS = ("spine_pitch", "spine_yaw", "spine_roll", "neck_pitch", "neck_yaw", "neck_roll")
ARM_DOFS = ("raise", "swing", "twist", "elbow", "pronate", "wrist", "curl", "spread")
DIGIT_DOFS = tuple(f"curl_{digit}" for digit in DIGIT_NAMES)
LEG_DOFS = ("flex", "abduct", "turn", "knee", "ankle")
DOF_NAMES = (*ROOT_DOFS, *TRUNK_DOFS, *(f"{dof}_{side}" for side in SIDES for dof in ARM_DOFS + DIGIT_DOFS + LEG_DOFS))
"""`sway`, `lift`, `advance` move the whole body (x, y, z, in body heights); all others are angles.

`raise` lifts the arm sideways, `swing` forward, `twist` turns it about itself (the elbow then bends outward), `pronate`
turns the hand about the forearm, `curl` bends all fingers and `curl_thumb` ... `curl_little` one more each; `flex` lifts the
thigh forward, `abduct` sideways, `turn` turns the knee outward.
"""
DOF_INDEX = {name: number for number, name in enumerate(DOF_NAMES)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """Lengths and widths of a body as fractions of the standing height of the middle body."""

    head: float
    """Half height of the skull."""
    head_width: float
    """Half width of the skull."""
    neck: float
    torso: float
    shoulder: float
    """Half distance of the shoulders."""
    hip: float
    """Half distance of the hips."""
    depth: float
    """Thickness of the torso from front to back."""
    upper_arm: float
    forearm: float
    palm: float
    finger: float
    thigh: float
    shin: float
    foot: float
    arm_width: float
    leg_width: float
    finger_width: float


@dataclass(frozen=True, slots=True)
class PosedBody:
    """A body in T poses: joints (T, J, 3) in body heights with the feet on y = 0, and the frames that carry features."""

    joints: np.ndarray
    head: np.ndarray
    """Rotation of the head, (T, 3, 3): columns are its left, up and forward."""
    chest: np.ndarray
    pelvis: np.ndarray
    hands: dict[str, np.ndarray]

    def joint(self, name: str) -> np.ndarray:
        """Positions (T, 3) of one joint."""
        return self.joints[:, JOINT_INDEX[name]]


def rotation(axis: int, angle: np.ndarray) -> np.ndarray:
    """Right-handed rotations (T, 3, 3) about axis 0 x, 1 y or 2 z by `angle` (T,) radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., first, first] = cos
    matrix[..., second, second] = cos
    matrix[..., first, second] = -sin
    matrix[..., second, first] = sin
    return matrix


def pose_body(body: Body, angles: np.ndarray, *, plant: float = 0.0) -> PosedBody:
    """Forward kinematics of a two-legged body.

    `angles` (T, D) in the order of DOF_NAMES. The lower foot stands on y = 0 plus the `lift`. `plant` 0 keeps the pelvis over
    the origin, 1 keeps the middle of the feet there (the body sways over planted feet).
    """
    dof = {name: angles[:, number] for name, number in DOF_INDEX.items()}
    joints = np.zeros((len(angles), len(JOINT_NAMES), 3))
    pelvis = rotation(1, dof["yaw"]) @ rotation(0, dof["pitch"]) @ rotation(2, dof["roll"])
    chest = pelvis @ _euler(dof, "spine")
    head = chest @ _euler(dof, "neck")
    place = Placer(joints)
    place.put("chest", None, pelvis, (0.0, 0.45 * body.torso, 0.0))
    place.put("neck", "chest", chest, (0.0, 0.55 * body.torso, 0.0))
    place.put("head", "neck", head, (0.0, body.neck + 0.9 * body.head, 0.0))
    place.put("head_top", "head", head, (0.0, body.head, 0.0))
    hands = {}
    for side in SIDES:
        _place_leg(place, body, dof, pelvis, side)
        hands[side] = _place_arm(place, body, dof, chest, side)
    _ground(joints, body, dof, plant)
    return PosedBody(joints, head, chest, pelvis, hands)


class Placer:
    """Writes joints: parent's position plus a rotated offset."""

    def __init__(self, joints: np.ndarray):
        self.joints = joints

    def put(self, name: str, parent: str | None, frame: np.ndarray, offset: tuple[float, float, float]) -> None:
        origin = 0.0 if parent is None else self.joints[:, JOINT_INDEX[parent]]
        self.joints[:, JOINT_INDEX[name]] = origin + frame @ np.asarray(offset)


def _euler(dof: dict[str, np.ndarray], name: str) -> np.ndarray:
    return rotation(1, dof[f"{name}_yaw"]) @ rotation(0, dof[f"{name}_pitch"]) @ rotation(2, dof[f"{name}_roll"])


def _place_leg(place: Placer, body: Body, dof: dict[str, np.ndarray], pelvis: np.ndarray, side: str) -> None:
    sign = SIDE_SIGNS[side]
    place.put(f"hip_{side}", None, pelvis, (sign * body.hip, 0.0, 0.0))
    turn = sign * dof[f"turn_{side}"]
    thigh = pelvis @ rotation(2, sign * dof[f"abduct_{side}"]) @ rotation(0, -dof[f"flex_{side}"]) @ rotation(1, turn)
    shin = thigh @ rotation(0, dof[f"knee_{side}"])
    place.put(f"knee_{side}", f"hip_{side}", thigh, (0.0, -body.thigh, 0.0))
    place.put(f"ankle_{side}", f"knee_{side}", shin, (0.0, -body.shin, 0.0))
    # Feet stay nearly flat: they follow the facing and the turn of the leg, not the tilt of the shin.
    foot = rotation(1, dof["yaw"] + sign * 0.45 + 0.6 * turn) @ rotation(0, dof[f"ankle_{side}"])
    place.put(f"toe_{side}", f"ankle_{side}", foot, (0.0, -0.15 * body.foot, body.foot))


def _place_arm(place: Placer, body: Body, dof: dict[str, np.ndarray], chest: np.ndarray, side: str) -> np.ndarray:
    sign = SIDE_SIGNS[side]
    place.put(f"shoulder_{side}", "neck", chest, (sign * body.shoulder, -0.35 * body.arm_width, 0.0))
    upper = chest @ rotation(2, sign * dof[f"raise_{side}"]) @ rotation(0, -dof[f"swing_{side}"])
    upper = upper @ rotation(1, sign * dof[f"twist_{side}"])
    lower = upper @ rotation(0, -dof[f"elbow_{side}"])
    hand = lower @ rotation(1, sign * dof[f"pronate_{side}"]) @ rotation(0, -dof[f"wrist_{side}"])
    place.put(f"elbow_{side}", f"shoulder_{side}", upper, (0.0, -body.upper_arm, 0.0))
    place.put(f"wrist_{side}", f"elbow_{side}", lower, (0.0, -body.forearm, 0.0))
    place.put(f"palm_{side}", f"wrist_{side}", hand, (0.0, -0.6 * body.palm, 0.0))
    for digit, name in enumerate(DIGIT_NAMES):
        _place_digit(place, body, dof, hand, side, digit, name)
    return hand


def _place_digit(
    place: Placer, body: Body, dof: dict[str, np.ndarray], hand: np.ndarray, side: str, digit: int, name: str
) -> None:
    """One finger: knuckle, middle joint, tip. The thumb leaves the side of the palm that is nearer to the body."""
    sign = SIDE_SIGNS[side]
    curl, spread = (dof[f"curl_{side}"] + dof[f"curl_{name}_{side}"], dof[f"spread_{side}"])
    if digit:
        across = -sign * (1.0 - 2.0 / 3.0 * (digit - 1))
        knuckle = (0.42 * across * body.palm, -body.palm, 0.0)
        base = hand @ rotation(2, across * spread) @ rotation(0, 0.9 * curl)
        length = body.finger * (0.92, 1.05, 0.98, 0.8)[digit - 1]
    else:
        across = -sign
        knuckle = (0.4 * across * body.palm, -0.35 * body.palm, 0.0)
        base = hand @ rotation(2, across * (0.55 + spread)) @ rotation(0, 0.5 * curl)
        length = body.finger * 0.95
    end = base @ rotation(0, 1.1 * curl)
    place.put(f"{name}_knuckle_{side}", f"wrist_{side}", hand, knuckle)
    place.put(f"{name}_middle_{side}", f"{name}_knuckle_{side}", base, (0.0, -0.52 * length, 0.0))
    place.put(f"{name}_tip_{side}", f"{name}_middle_{side}", end, (0.0, -0.48 * length, 0.0))


def _ground(joints: np.ndarray, body: Body, dof: dict[str, np.ndarray], plant: float) -> None:
    """Moves the whole body so that the lower foot stands on the ground."""
    ankles = joints[:, [JOINT_INDEX["ankle_left"], JOINT_INDEX["ankle_right"]]]
    # A soft minimum over the two ankles: the body does not jerk when the weight changes over.
    softness = 0.02
    heights = ankles[..., 1] / softness
    lowest = softness * (np.log(2.0) - np.logaddexp(-heights[:, 0], -heights[:, 1]))
    shift = np.zeros((len(joints), 3))
    shift[:, 0] = dof["sway"] - plant * ankles[..., 0].mean(axis=1)
    shift[:, 1] = sole_height(body) - lowest + np.maximum(dof["lift"], 0.0)
    shift[:, 2] = dof["advance"] - plant * ankles[..., 2].mean(axis=1)
    # Sitting: where the seat would sink below the ground, it carries the body instead of the feet.
    shift[:, 1] = np.maximum(shift[:, 1], SEAT_HEIGHT * body.depth)
    joints += shift[:, None]


def sole_height(body: Body) -> float:
    """Height of the ankle above the ground when the foot stands flat."""
    return 0.45 * body.leg_width + 0.15 * body.foot
