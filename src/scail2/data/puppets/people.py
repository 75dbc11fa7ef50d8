"""Draws a person: limbs in depth order, then what lies on them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import skia

from scail2.data.puppets.characters import Character, Color
from scail2.data.puppets.drawing import Pen, Point, mix, shade
from scail2.data.puppets.skeleton import DIGIT_NAMES, JOINT_INDEX, PART_IDS, SIDES

LIMB_SHADE = {"left": 0.80, "right": 0.92}
"""Limbs are a little darker than the body so that they stand out before it, the left ones most: sides can be told apart."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One character in one frame, in pixels."""

    points: list[list[float]]
    """(J, 3): x, y and nearness of each joint."""
    scale: float
    """Pixels per body height."""
    head: np.ndarray
    """Rotation of the head as seen by the camera, (3, 3)."""

    def at(self, joint: str) -> Point:
        """Pixel of a joint."""
        x, y, _ = self.points[JOINT_INDEX[joint]]
        return (x, y)

    def near(self, *joints: str) -> float:
        """Mean nearness of some joints."""
        return sum(self.points[JOINT_INDEX[joint]][2] for joint in joints) / len(joints)


def draw_person(pen: Pen, character: Character, figure: Figure) -> None:
    """Draws the whole person, far limbs first."""
    layers: list[tuple[float, Callable[[], None]]] = [
        (figure.near("pelvis", "neck") + 0.02, lambda: _draw_torso(pen, character, figure)),
        (figure.near("head") + 0.03, lambda: draw_head(pen, character, figure)),
    ]
    back = math.copysign(0.12, figure.head[2, 2])
    layers.append((figure.near("head") - back, lambda: draw_back_hair(pen, character, figure)))
    for side in SIDES:
        layers += _limb_layers(pen, character, figure, side)
    for _, draw in sorted(layers, key=lambda layer: layer[0]):
        draw()


def _limb_layers(pen: Pen, character: Character, figure: Figure, side: str) -> list[tuple[float, Callable[[], None]]]:
    arm = figure.near(f"shoulder_{side}", f"elbow_{side}") + 0.05
    forearm = max(figure.near(f"elbow_{side}", f"wrist_{side}") + 0.055, arm + 0.001)
    if figure.near(f"wrist_{side}") + 0.05 < figure.near("chest") - 0.04:
        forearm = figure.near(f"elbow_{side}", f"wrist_{side}")
    thigh = figure.near(f"hip_{side}", f"knee_{side}")
    return [
        (thigh, lambda: _draw_thigh(pen, character, figure, side)),
        (thigh - 0.005, lambda: _draw_shin(pen, character, figure, side)),
        (thigh - 0.004, lambda: _draw_foot(pen, character, figure, side)),
        (arm, lambda: _draw_upper_arm(pen, character, figure, side)),
        (forearm, lambda: _draw_forearm(pen, character, figure, side)),
        (forearm + 0.001, lambda: _draw_hand(pen, character, figure, side)),
    ]


def _draw_torso(pen: Pen, character: Character, figure: Figure) -> None:
    body, outfit = character.body, character.outfit
    part = PART_IDS["torso"]
    unit = figure.scale
    neck, pelvis = figure.at("neck"), figure.at("pelvis")
    pen.line(neck, mix(neck, figure.at("head"), 0.6), 0.085 * unit, shade(character.face.skin, 0.88), PART_IDS["head"])
    rounding = 0.62 * body.depth * unit
    shoulders = [mix(figure.at(f"shoulder_{side}"), neck, 0.22) for side in SIDES]
    hips = [figure.at(f"hip_{side}") for side in SIDES]
    if outfit.bottom_kind != "skirt":
        pen.line(hips[0], hips[1], 1.12 * body.leg_width * unit, outfit.bottom, part)
    waist = [
        mix(mix(pelvis, hip, 0.85), mix(neck, shoulder, 0.85), 0.18)
        for hip, shoulder in zip(hips, shoulders, strict=True)
    ]
    if outfit.bottom_kind == "skirt":
        hems = [_flare(hip, figure.at(f"knee_{side}"), pelvis) for hip, side in zip(hips, SIDES, strict=True)]
        pen.polygon([*waist, hems[1], hems[0]], outfit.bottom, part, rounding=0.5 * rounding)
    drop = 0.25 * rounding
    upper = [(x, y + drop) for x, y in shoulders]
    pen.polygon([*upper, waist[1], waist[0]], outfit.shirt, part, rounding=rounding)
    _draw_shirt_pattern(pen, character, figure, upper, waist)


def _flare(hip: Point, knee: Point, pelvis: Point) -> Point:
    """Hem of a skirt beside a thigh."""
    x, y = mix(hip, knee, 0.62)
    return (x + 0.5 * (hip[0] - pelvis[0]), y)


def _draw_shirt_pattern(pen: Pen, character: Character, figure: Figure, upper: list[Point], waist: list[Point]) -> None:
    outfit = character.outfit
    unit = figure.scale
    if outfit.shirt_pattern == "stripe":
        left, right = (mix(upper[side], waist[side], 0.5) for side in (0, 1))
        pen.line(mix(left, right, -0.12), mix(left, right, 1.12), 0.045 * unit, outfit.accent)
    elif outfit.shirt_pattern == "belt":
        pen.line(mix(*waist, -0.18), mix(*waist, 1.18), 0.032 * unit, outfit.accent)
    elif outfit.shirt_pattern == "badge" and figure.head[2, 2] > 0.2:
        chest = mix(mix(*upper, 0.5), mix(*waist, 0.5), 0.4)
        pen.oval(chest, 0.05 * unit, 0.05 * unit, outfit.accent)


def _limb(
    pen: Pen,
    ends: tuple[Point, Point],
    widths: tuple[float, float],
    colors: tuple[Color, Color],
    covered: float,
    part: int,
) -> None:
    """A limb in the bare colour with its first `covered` share in the cloth colour."""
    start, end = ends
    bare_width, cloth_width = widths
    bare, cloth = colors
    if covered < 1.0:
        pen.line(start, end, bare_width, bare, part)
    if covered > 0.0:
        pen.line(start, mix(start, end, covered), cloth_width, cloth, part)


def _draw_upper_arm(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    outfit, width = character.outfit, 1.06 * character.body.arm_width * figure.scale
    tone = LIMB_SHADE[side]
    ends = (figure.at(f"shoulder_{side}"), figure.at(f"elbow_{side}"))
    colors = (shade(character.face.skin, tone), shade(outfit.shirt, tone))
    _limb(pen, ends, (width, 1.08 * width), colors, min(1.0, 2.0 * outfit.sleeves), PART_IDS[f"upper_arm_{side}"])


def _draw_forearm(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    outfit, width = character.outfit, character.body.arm_width * figure.scale
    tone = LIMB_SHADE[side]
    ends = (figure.at(f"elbow_{side}"), figure.at(f"wrist_{side}"))
    colors = (shade(character.face.skin, tone), shade(outfit.shirt, tone))
    _limb(pen, ends, (0.95 * width, width), colors, max(0.0, 2.0 * outfit.sleeves - 1.0), PART_IDS[f"forearm_{side}"])


def _draw_hand(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    """Palm and fingers, in the skin's full tone so that they stand out."""
    body, unit, part = character.body, figure.scale, PART_IDS[f"hand_{side}"]
    skin = shade(character.face.skin, LIMB_SHADE[side] + 0.08)
    wrist = figure.at(f"wrist_{side}")
    for digit in character.digits:
        joints = [figure.at(f"{DIGIT_NAMES[digit]}_{bone}_{side}") for bone in ("knuckle", "middle", "tip")]
        pen.polyline(joints, body.finger_width * unit, skin, part)
    knuckles = [figure.at(f"{name}_knuckle_{side}") for name in ("index", "little")]
    pen.polygon([wrist, *knuckles], skin, part, rounding=0.7 * body.palm * unit)


def _draw_thigh(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    outfit, width = character.outfit, 1.1 * character.body.leg_width * figure.scale
    tone = LIMB_SHADE[side]
    ends = (figure.at(f"hip_{side}"), figure.at(f"knee_{side}"))
    colors = (shade(character.face.skin, tone), shade(outfit.bottom, tone))
    covered = {"trousers": 1.0, "shorts": 0.6, "skirt": 0.45}[outfit.bottom_kind]
    _limb(pen, ends, (width, 1.08 * width), colors, covered, PART_IDS[f"thigh_{side}"])


def _draw_shin(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    outfit, width = character.outfit, 0.95 * character.body.leg_width * figure.scale
    tone = LIMB_SHADE[side]
    ends = (figure.at(f"knee_{side}"), figure.at(f"ankle_{side}"))
    colors = (shade(character.face.skin, tone), shade(outfit.bottom, tone))
    covered = 0.9 if outfit.bottom_kind == "trousers" else 0.0
    _limb(pen, ends, (width, width), colors, covered, PART_IDS[f"shin_{side}"])


def _draw_foot(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    shoe = shade(character.outfit.shoe, LIMB_SHADE[side] + 0.06)
    width = 0.9 * character.body.leg_width * figure.scale
    pen.line(figure.at(f"ankle_{side}"), figure.at(f"toe_{side}"), width, shoe, PART_IDS[f"foot_{side}"])


def _head_frame(figure: Figure, character: Character) -> tuple[skia.Matrix, np.ndarray]:
    """Coordinates in skull half heights about the head's middle, and the facing (right, down, toward the viewer) in them."""
    x, y = figure.at("head")
    up = figure.head[:, 1]
    angle = math.atan2(up[0], up[1])
    unit = character.body.head * figure.scale
    matrix = skia.Matrix.Translate(x, y)
    matrix.preRotate(math.degrees(angle))
    matrix.preScale(unit, unit)
    forward = figure.head[:, 2]
    cos, sin = math.cos(angle), math.sin(angle)
    right = forward[0] * cos - forward[1] * sin
    down = -forward[0] * sin - forward[1] * cos
    return matrix, np.array((right, down, forward[2]))


def draw_back_hair(pen: Pen, character: Character, figure: Figure) -> None:
    """Hair that hangs or stands behind the head."""
    style = character.face.hair_style
    if style not in BACK_HAIR:
        return
    matrix, facing = _head_frame(figure, character)
    pen.push(matrix)
    BACK_HAIR[style](pen, character, facing)
    pen.pop()


def _long_hair(pen: Pen, character: Character, facing: np.ndarray) -> None:
    width = character.body.head_width / character.body.head
    back = -0.45 * facing[0]
    corners = [
        (back - 0.75 * width, -0.3),
        (back + 0.75 * width, -0.3),
        (back + 0.8 * width, 1.3),
        (back - 0.8 * width, 1.3),
    ]
    pen.polygon(corners, shade(character.face.hair, 0.8), PART_IDS["head"], rounding=0.6)


def _pigtails(pen: Pen, character: Character, facing: np.ndarray) -> None:
    for sign in (-1.0, 1.0):
        centre = (sign * 1.12 * max(abs(facing[2]), 0.35) - 0.4 * facing[0], 0.25)
        pen.oval(centre, 0.38, 0.62, shade(character.face.hair, 0.9), PART_IDS["head"])


def _bun(pen: Pen, character: Character, facing: np.ndarray) -> None:
    pen.oval((-0.4 * facing[0], -1.15), 0.42, 0.4, shade(character.face.hair, 0.9), PART_IDS["head"])


def _afro(pen: Pen, character: Character, facing: np.ndarray) -> None:
    pen.oval((-0.12 * facing[0], -0.22), 1.32, 1.2, character.face.hair, PART_IDS["head"])


BACK_HAIR = {"long": _long_hair, "pigtails": _pigtails, "bun": _bun, "afro": _afro}


def draw_head(pen: Pen, character: Character, figure: Figure) -> None:
    """Skull, face, hair and hat."""
    face, part = character.face, PART_IDS["head"]
    matrix, facing = _head_frame(figure, character)
    width = character.body.head_width / character.body.head
    pen.push(matrix)
    bald = face.hair_style == "bald"
    pen.oval((0.0, 0.0), width, 1.0, face.skin if bald else face.hair, part)
    if face.hair_style == "spiky":
        for spike in (-0.6, -0.2, 0.2, 0.6):
            x = spike * width
            pen.polygon([(x - 0.3, -0.6), (x + 0.3, -0.6), (1.35 * x, -1.4)], face.hair, part)
    if not bald and facing[2] > -0.35:
        shift = 0.42 * facing[0] * width
        narrow = width * (0.9 - 0.42 * abs(facing[0]))
        pen.oval((shift, 0.22 + 0.2 * facing[1]), narrow, 0.76, face.skin, part)
    if facing[2] > 0.0:
        _draw_features(pen, character, facing, width)
    if face.hat != "none":
        HATS[face.hat](pen, face.hat_color, facing, width)
    pen.pop()


def _draw_features(pen: Pen, character: Character, facing: np.ndarray, width: float) -> None:
    """Eyes and mouth, sliding round the skull as it turns."""
    face = character.face
    middle = (0.8 * facing[0] * width, 0.12 + 0.7 * facing[1])
    for sign in (-1.0, 1.0):
        x = middle[0] + sign * face.eye_gap * facing[2]
        pen.oval((x, middle[1]), 1.25 * face.eye_size, 1.5 * face.eye_size, (255, 255, 255))
        pen.oval((x + 0.04 * facing[0], middle[1] + 0.02), 0.8 * face.eye_size, 1.0 * face.eye_size, (24, 20, 30))
    mouth = middle[1] + 0.45
    reach = face.mouth * max(facing[2], 0.3)
    ends = ((middle[0] - reach, mouth), (middle[0] + reach, mouth))
    pen.curve(ends[0], (middle[0], mouth + 1.6 * face.smile), ends[1], 0.13, shade(face.skin, 0.42))


def _cap(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    part = PART_IDS["head"]
    pen.sector((0.0, -0.28), (1.06 * width, 0.86), 180.0, 180.0, color, part)
    reach = 0.75 * facing[0]
    pen.line((reach - 0.62 * width, -0.3), (reach + 0.62 * width, -0.3), 0.22, shade(color, 0.7), part)


def _beanie(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    part = PART_IDS["head"]
    pen.oval((0.0, -1.22), 0.26, 0.26, shade(color, 1.35), part)
    pen.sector((0.0, -0.3), (1.06 * width, 0.9), 180.0, 180.0, color, part)
    pen.line((-0.88 * width, -0.36), (0.88 * width, -0.36), 0.26, shade(color, 0.72), part)


def _top_hat(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    part = PART_IDS["head"]
    side = 0.68 * width
    pen.polygon([(-side, -1.5), (side, -1.5), (side, -0.5), (-side, -0.5)], color, part)
    pen.line((-side, -0.66), (side, -0.66), 0.18, shade(color, 0.6))
    pen.line((-1.15 * width, -0.5), (1.15 * width, -0.5), 0.2, color, part)


def _cone_hat(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    part = PART_IDS["head"]
    side = 0.72 * width
    pen.polygon([(-side, -0.55), (side, -0.55), (0.0, -1.75)], color, part, rounding=0.08)
    pen.oval((0.0, -1.7), 0.17, 0.17, shade(color, 1.4), part)


HATS: dict[str, Callable[[Pen, Color, np.ndarray, float], None]] = {
    "cap": _cap,
    "beanie": _beanie,
    "top": _top_hat,
    "cone": _cone_hat,
}
