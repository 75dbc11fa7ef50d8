"""Draws a person: limbs in depth order, then what lies on them."""

import math

from scail2.puppets.characters import Character, Color
from scail2.puppets.drawing import Pen, Point, mix, shade
from scail2.puppets.figure import LIMB_SHADE, Figure, Layer, arm_depths, draw_layers
from scail2.puppets.heads import draw_back_hair, draw_head
from scail2.puppets.props import draw_held
from scail2.puppets.skeleton import DIGIT_NAMES, PART_IDS, SIDES

SKIRTS = ("skirt", "dress")


def draw_person(pen: Pen, character: Character, figure: Figure) -> None:
    """Draws the whole person, far limbs first."""
    layers: list[Layer] = [
        (figure.near("pelvis", "neck") + 0.02, lambda: _draw_torso(pen, character, figure)),
        (figure.near("head") + 0.03, lambda: draw_head(pen, character, figure)),
    ]
    back = math.copysign(0.12, figure.head[2, 2])
    layers.append((figure.near("head") - back, lambda: draw_back_hair(pen, character, figure)))
    for side in SIDES:
        layers += _limb_layers(pen, character, figure, side)
    draw_layers(layers)


def _limb_layers(pen: Pen, character: Character, figure: Figure, side: str) -> list[Layer]:
    arm, forearm = arm_depths(figure, side)
    thigh = figure.near(f"hip_{side}", f"knee_{side}")
    return [
        (thigh, lambda: _draw_thigh(pen, character, figure, side)),
        (thigh - 0.005, lambda: _draw_shin(pen, character, figure, side)),
        (thigh - 0.004, lambda: _draw_foot(pen, character, figure, side)),
        (arm, lambda: _draw_upper_arm(pen, character, figure, side)),
        (forearm, lambda: _draw_forearm(pen, character, figure, side)),
        (forearm + 0.0005, lambda: draw_held(pen, character, figure, side)),
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
    if outfit.bottom_kind not in SKIRTS:
        pen.line(hips[0], hips[1], 1.12 * body.leg_width * unit, outfit.bottom, part)
    waist = [
        mix(mix(pelvis, hip, 0.85), mix(neck, shoulder, 0.85), 0.18)
        for hip, shoulder in zip(hips, shoulders, strict=True)
    ]
    if outfit.bottom_kind in SKIRTS:
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
    outfit, part = character.outfit, PART_IDS["torso"]
    unit = figure.scale
    if outfit.shirt_pattern == "stripe":
        left, right = (mix(upper[side], waist[side], 0.5) for side in (0, 1))
        pen.line(mix(left, right, -0.12), mix(left, right, 1.12), 0.045 * unit, outfit.accent, part)
    elif outfit.shirt_pattern == "belt":
        pen.line(mix(waist[0], waist[1], -0.18), mix(waist[0], waist[1], 1.18), 0.032 * unit, outfit.accent, part)
    elif outfit.shirt_pattern == "badge" and figure.head[2, 2] > 0.2:
        chest = mix(mix(upper[0], upper[1], 0.5), mix(waist[0], waist[1], 0.5), 0.4)
        pen.oval(chest, 0.05 * unit, 0.05 * unit, outfit.accent, part)


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
    skin = shade(character.extras.gloves or character.face.skin, LIMB_SHADE[side] + 0.08)
    wrist = figure.at(f"wrist_{side}")
    outlined = len(character.digits) == len(DIGIT_NAMES)
    for digit in character.digits:
        joints = [figure.at(f"{DIGIT_NAMES[digit]}_{bone}_{side}") for bone in ("knuckle", "middle", "tip")]
        if outlined:
            pen.polyline(joints, body.finger_width * unit, shade(skin, 0.72), part)
        pen.polyline(joints, (0.78 if outlined else 1.0) * body.finger_width * unit, skin, part)
    knuckles = [figure.at(f"{name}_knuckle_{side}") for name in ("index", "little")]
    pen.polygon([wrist, *knuckles], skin, part, rounding=0.7 * body.palm * unit)


def _draw_thigh(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    outfit, width = character.outfit, 1.1 * character.body.leg_width * figure.scale
    tone = LIMB_SHADE[side]
    ends = (figure.at(f"hip_{side}"), figure.at(f"knee_{side}"))
    cloth = outfit.shirt if outfit.bottom_kind == "dress" else outfit.bottom
    colors = (shade(character.face.skin, tone), shade(cloth, tone))
    covered = {"trousers": 1.0, "shorts": 0.6, "skirt": 0.45, "dress": 0.6}[outfit.bottom_kind]
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
