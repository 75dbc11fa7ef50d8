"""Forward kinematics of a four-legged body: the same degrees of freedom as a person, carried over to four legs."""

import numpy as np

from scail2.puppets.skeleton import (
    DIGIT_NAMES,
    DOF_INDEX,
    JOINT_INDEX,
    JOINT_NAMES,
    SIDE_SIGNS,
    SIDES,
    Body,
    Placer,
    PosedBody,
    rotation,
)

HEADING = 1.05
"""Where the body faces at rest, radians from the viewer: an animal seen from the front is hard to read."""

FEET = ("ankle_left", "ankle_right", "wrist_left", "wrist_right")
PAW_HEIGHT = 0.5
"""Height of ankle and wrist above the ground, in leg widths."""


def pose_animal(body: Body, angles: np.ndarray, *, plant: float = 0.0) -> PosedBody:
    """Joints of a four-legged body for the motion angles (T, D) of a person.

    Thighs and knees move the hind legs, arms the fore legs (what raises an arm lifts the paw forward), spine and neck stay
    what they are. The lowest paw stands on y = 0 plus the lift. Joint names as for people: the wrist is the fore ankle.
    """
    dof = {name: angles[:, number] for name, number in DOF_INDEX.items()}
    joints = np.zeros((len(angles), len(JOINT_NAMES), 3))
    reach = {side: 0.38 * (dof[f"raise_{side}"] - 0.4) + 0.6 * dof[f"swing_{side}"] for side in SIDES}
    # Both fore legs lifted high: the body rears.
    rear = 0.3 * np.maximum(0.0, np.minimum(reach["left"], reach["right"]) - 0.2)
    tilt = 0.35 * (dof["pitch"] + dof["spine_pitch"]) - rear
    pelvis = rotation(1, dof["yaw"] + HEADING) @ rotation(0, tilt) @ rotation(2, 0.4 * dof["roll"])
    chest = pelvis @ rotation(1, 0.6 * dof["spine_yaw"]) @ rotation(2, 0.4 * dof["spine_roll"])
    neck = chest @ rotation(0, -0.75 * np.ones(len(angles)) + 0.5 * dof["neck_pitch"])
    head = chest @ rotation(1, dof["neck_yaw"] - 0.45 * HEADING) @ rotation(2, dof["neck_roll"])
    place = Placer(joints)
    place.put("chest", None, chest, (0.0, 0.1 * body.depth, body.torso))
    place.put("neck", "chest", chest, (0.0, 0.35 * body.depth, 0.25 * body.depth))
    place.put("head", "neck", neck, (0.0, 0.0, body.neck + body.head))
    place.put("head_top", "head", head, (0.0, body.head, 0.0))
    hands = {}
    for side in SIDES:
        _place_hind_leg(place, body, dof, pelvis, side)
        hands[side] = _place_fore_leg(place, body, dof, chest, side, reach[side] - rear)
    _ground(joints, body, dof, plant)
    return PosedBody(joints, head, chest, pelvis, hands)


def _place_hind_leg(place: Placer, body: Body, dof: dict[str, np.ndarray], pelvis: np.ndarray, side: str) -> None:
    sign = SIDE_SIGNS[side]
    place.put(f"hip_{side}", None, pelvis, (sign * body.hip, -0.1 * body.depth, 0.0))
    thigh = pelvis @ rotation(2, 0.4 * sign * dof[f"abduct_{side}"]) @ rotation(0, -0.35 - 0.6 * dof[f"flex_{side}"])
    shin = thigh @ rotation(0, 0.7 + 0.6 * dof[f"knee_{side}"])
    place.put(f"knee_{side}", f"hip_{side}", thigh, (0.0, -body.thigh, 0.0))
    place.put(f"ankle_{side}", f"knee_{side}", shin, (0.0, -body.shin, 0.0))
    place.put(f"toe_{side}", f"ankle_{side}", _flat(dof), (0.0, -0.1 * body.foot, body.foot))


def _place_fore_leg(
    place: Placer, body: Body, dof: dict[str, np.ndarray], chest: np.ndarray, side: str, reach: np.ndarray
) -> np.ndarray:
    sign = SIDE_SIGNS[side]
    place.put(f"shoulder_{side}", "chest", chest, (sign * body.shoulder, -0.1 * body.depth, 0.0))
    upper = chest @ rotation(2, 0.06 * sign * np.ones(len(reach))) @ rotation(0, -reach)
    lower = upper @ rotation(0, 0.1 + 0.45 * dof[f"elbow_{side}"] * np.clip(2.0 * reach, 0.2, 1.0))
    place.put(f"elbow_{side}", f"shoulder_{side}", upper, (0.0, -body.upper_arm, 0.0))
    place.put(f"wrist_{side}", f"elbow_{side}", lower, (0.0, -body.forearm, 0.0))
    paw = _flat(dof)
    place.put(f"palm_{side}", f"wrist_{side}", paw, (0.0, -0.1 * body.foot, 0.6 * body.foot))
    for number, digit in enumerate(DIGIT_NAMES):
        across = 0.12 * sign * (number - 2) * body.foot
        for share, bone in ((0.7, "knuckle"), (0.85, "middle"), (1.0, "tip")):
            place.put(f"{digit}_{bone}_{side}", f"wrist_{side}", paw, (across, -0.1 * body.foot, share * body.foot))
    return paw


def _flat(dof: dict[str, np.ndarray]) -> np.ndarray:
    """Axes of a paw that lies flat."""
    return rotation(1, dof["yaw"] + HEADING)


def _ground(joints: np.ndarray, body: Body, dof: dict[str, np.ndarray], plant: float) -> None:
    feet = joints[:, [JOINT_INDEX[name] for name in FEET]]
    shift = np.zeros((len(joints), 3))
    # The body's middle, not its hindquarters, stands at the place.
    middle = 0.5 * joints[:, JOINT_INDEX["chest"]]
    shift[:, 0] = dof["sway"] - plant * feet[..., 0].mean(axis=1) - (1.0 - plant) * middle[:, 0]
    shift[:, 1] = PAW_HEIGHT * body.leg_width - feet[..., 1].min(axis=1) + np.maximum(dof["lift"], 0.0)
    shift[:, 2] = dof["advance"] - plant * feet[..., 2].mean(axis=1) - (1.0 - plant) * middle[:, 2]
    joints += shift[:, None]
