"""Draws a robot: plates, bolts and grippers on a person's skeleton."""

import numpy as np

from scail2.puppets.characters import Character
from scail2.puppets.drawing import Pen, mix, shade
from scail2.puppets.figure import LIMB_SHADE, Figure, Layer, arm_depths, draw_layers, head_frame
from scail2.puppets.props import draw_held
from scail2.puppets.skeleton import PART_IDS, SIDES

LIMB_BONES = {
    "upper_arm": ("shoulder", "elbow"),
    "forearm": ("elbow", "wrist"),
    "thigh": ("hip", "knee"),
    "shin": ("knee", "ankle"),
}
GRIPPER = ("thumb", "index", "little")


def draw_robot(pen: Pen, character: Character, figure: Figure) -> None:
    """Draws the whole robot, far limbs first."""
    torso = figure.near("pelvis", "neck") + 0.02
    layers: list[Layer] = [
        (torso, lambda: _draw_torso(pen, character, figure)),
        (max(figure.near("head") + 0.03, torso + 0.001), lambda: _draw_head(pen, character, figure)),
    ]
    for side in SIDES:
        layers += _limb_layers(pen, character, figure, side)
    draw_layers(layers)


def _limb_layers(pen: Pen, character: Character, figure: Figure, side: str) -> list[Layer]:
    arm, forearm = arm_depths(figure, side)
    thigh = figure.near(f"hip_{side}", f"knee_{side}")
    return [
        (thigh, lambda: _draw_limb(pen, character, figure, "thigh", side)),
        (thigh - 0.005, lambda: _draw_limb(pen, character, figure, "shin", side)),
        (thigh - 0.004, lambda: _draw_foot(pen, character, figure, side)),
        (arm, lambda: _draw_limb(pen, character, figure, "upper_arm", side)),
        (forearm, lambda: _draw_limb(pen, character, figure, "forearm", side)),
        (forearm + 0.0005, lambda: draw_held(pen, character, figure, side)),
        (forearm + 0.001, lambda: _draw_gripper(pen, character, figure, side)),
    ]


def _draw_torso(pen: Pen, character: Character, figure: Figure) -> None:
    body, outfit, unit = character.body, character.outfit, figure.scale
    part = PART_IDS["torso"]
    neck = figure.at("neck")
    pen.line(neck, figure.at("head"), 0.06 * unit, shade(outfit.bottom, 0.6), PART_IDS["head"])
    hips = [figure.at(f"hip_{side}") for side in SIDES]
    shoulders = [mix(figure.at(f"shoulder_{side}"), neck, 0.1) for side in SIDES]
    pen.line(hips[0], hips[1], 1.2 * body.leg_width * unit, shade(outfit.bottom, 0.8), part)
    waist = [mix(hip, shoulder, 0.22) for hip, shoulder in zip(hips, shoulders, strict=True)]
    drop = 0.2 * body.depth * unit
    upper = [(x, y + drop) for x, y in shoulders]
    pen.polygon([*upper, waist[1], waist[0]], outfit.shirt, part, rounding=0.4 * body.depth * unit)
    middle = mix(mix(upper[0], upper[1], 0.5), mix(waist[0], waist[1], 0.5), 0.45)
    panel = [mix(corner, middle, 0.35) for corner in (*upper, waist[1], waist[0])]
    pen.polygon(panel, shade(outfit.shirt, 0.7))
    for number, share in enumerate((0.32, 0.5, 0.68)):
        lamp = mix(mix(upper[0], upper[1], share), mix(waist[0], waist[1], share), 0.4)
        pen.oval(lamp, 0.02 * unit, 0.02 * unit, outfit.accent if number != 1 else (255, 240, 120))


def _draw_limb(pen: Pen, character: Character, figure: Figure, name: str, side: str) -> None:
    body, outfit, unit = character.body, character.outfit, figure.scale
    start, end = (figure.at(f"{joint}_{side}") for joint in LIMB_BONES[name])
    leg = name in ("thigh", "shin")
    width = (1.05 * body.leg_width if leg else 1.0 * body.arm_width) * unit
    metal = shade(outfit.bottom if leg else outfit.shirt, LIMB_SHADE[side])
    part = PART_IDS[f"{name}_{side}"]
    pen.line(start, end, 0.6 * width, shade(metal, 0.75), part)
    pen.line(mix(start, end, 0.25), mix(start, end, 0.75), width, metal, part)
    pen.oval(start, 0.56 * width, 0.56 * width, shade(outfit.accent, LIMB_SHADE[side]), part)


def _draw_foot(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    width = 0.95 * character.body.leg_width * figure.scale
    ankle, toe = figure.at(f"ankle_{side}"), figure.at(f"toe_{side}")
    reach = 0.5 * width
    corners = [
        (ankle[0] - reach, ankle[1]),
        (ankle[0] + reach, ankle[1]),
        (toe[0] + reach, toe[1]),
        (toe[0] - reach, toe[1]),
    ]
    part = PART_IDS[f"foot_{side}"]
    pen.polygon(corners, shade(character.outfit.shoe, LIMB_SHADE[side]), part, rounding=0.6 * width)


def _draw_gripper(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    body, unit, part = character.body, figure.scale, PART_IDS[f"hand_{side}"]
    metal = shade(character.outfit.accent, LIMB_SHADE[side] + 0.08)
    for digit in GRIPPER:
        joints = [figure.at(f"{digit}_{bone}_{side}") for bone in ("knuckle", "middle", "tip")]
        pen.polyline(joints, 1.2 * body.finger_width * unit, shade(metal, 0.8), part)
    pen.line(figure.at(f"wrist_{side}"), figure.at(f"palm_{side}"), 0.85 * body.palm * unit, metal, part)


def _draw_head(pen: Pen, character: Character, figure: Figure) -> None:
    face, outfit, part = character.face, character.outfit, PART_IDS["head"]
    matrix, facing = head_frame(figure, character.body.head)
    width = character.body.head_width / character.body.head
    pen.push(matrix)
    pen.line((0.0, -0.8), (-0.2 * facing[0], -1.45), 0.1, shade(outfit.shirt, 0.6), part)
    pen.oval((-0.2 * facing[0], -1.5), 0.16, 0.16, outfit.accent, part)
    for sign in (-1.0, 1.0):
        ear = sign * width * max(abs(facing[2]), 0.25)
        pen.oval((ear, 0.05), 0.2, 0.28, shade(outfit.accent, 0.8), part)
    side = 0.82 * width
    pen.polygon([(-side, -0.78), (side, -0.78), (side, 0.72), (-side, 0.72)], outfit.shirt, part, rounding=0.3)
    if facing[2] > 0.0:
        _draw_screen(pen, character, facing, side, face.eye_size)
    pen.pop()


def _draw_screen(pen: Pen, character: Character, facing: np.ndarray, side: float, eye: float) -> None:
    middle = 0.55 * facing[0] * side
    reach = side * (0.35 + 0.4 * facing[2])
    left, right = max(middle - reach, -1.05 * side), min(middle + reach, 1.05 * side)
    pen.polygon(
        [(left, -0.5), (right, -0.5), (right, 0.45), (left, 0.45)], (28, 34, 48), PART_IDS["head"], rounding=0.15
    )
    glow = character.outfit.accent
    for sign in (-1.0, 1.0):
        pen.oval((middle + sign * 0.42 * reach, -0.12), 0.95 * eye, 1.15 * eye, shade(glow, 1.3))
    pen.line((middle - 0.4 * reach, 0.3), (middle + 0.4 * reach, 0.3), 0.1, shade(glow, 1.1))
