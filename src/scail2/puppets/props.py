"""Things held in a hand, and the stool below somebody who sits. They count as part of the torso in the parts map."""

import math
from collections.abc import Callable

from scail2.puppets.characters import Character, Color
from scail2.puppets.drawing import Pen, Point, mix, shade
from scail2.puppets.figure import Figure
from scail2.puppets.skeleton import PART_IDS

PART = PART_IDS["torso"]
WOOD: Color = (142, 98, 60)


def draw_held(pen: Pen, character: Character, figure: Figure, side: str) -> None:
    """Draws the prop if it is held on this side."""
    extras = character.extras
    if extras.prop == "none" or extras.prop_side != side:
        return
    palm, wrist = figure.at(f"palm_{side}"), figure.at(f"wrist_{side}")
    reach = math.hypot(palm[0] - wrist[0], palm[1] - wrist[1]) or 1.0
    along = ((palm[0] - wrist[0]) / reach, (palm[1] - wrist[1]) / reach)
    PROPS[extras.prop](pen, palm, along, figure.scale, extras.prop_color)


def draw_stool(pen: Pen, character: Character, figure: Figure) -> None:
    """Draws the stool below the pelvis."""
    x, y = figure.at("pelvis")
    half = 0.5 * figure.seat * figure.scale
    top = y + 0.45 * character.body.depth * figure.scale
    color = shade(character.outfit.accent, 0.55)
    for sign in (-1.0, 1.0):
        pen.line(
            (x + 0.75 * sign * half, top),
            (x + sign * half, figure.ground),
            0.035 * figure.scale,
            shade(color, 0.8),
            PART,
        )
    pen.line((x - half, top), (x + half, top), 0.06 * figure.scale, color, PART)


def _shifted(point: Point, along: Point, across: float, ahead: float) -> Point:
    """A point `ahead` along the hand and `across` it."""
    return (point[0] + ahead * along[0] - across * along[1], point[1] + ahead * along[1] + across * along[0])


def _ball(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    centre = _shifted(palm, along, 0.0, 0.09 * unit)
    pen.oval(centre, 0.085 * unit, 0.085 * unit, color, PART)
    pen.oval((centre[0] - 0.025 * unit, centre[1] - 0.03 * unit), 0.028 * unit, 0.028 * unit, shade(color, 1.4))


def _stick(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    pen.line(_shifted(palm, along, -0.1 * unit, 0.0), _shifted(palm, along, 0.32 * unit, 0.0), 0.03 * unit, WOOD, PART)


def _sword(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    pen.line(palm, _shifted(palm, along, 0.4 * unit, 0.0), 0.035 * unit, (205, 212, 222), PART)
    guard = [_shifted(palm, along, 0.05 * unit, side * 0.06 * unit) for side in (-1.0, 1.0)]
    pen.line(guard[0], guard[1], 0.03 * unit, color, PART)


def _balloon(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    top = (palm[0] + 0.05 * unit, palm[1] - 0.34 * unit)
    pen.line(palm, top, 0.012 * unit, (240, 240, 240), PART)
    pen.oval((top[0], top[1] - 0.08 * unit), 0.085 * unit, 0.105 * unit, color, PART)


def _umbrella(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    top = (palm[0], palm[1] - 0.36 * unit)
    pen.line((palm[0], palm[1] + 0.05 * unit), top, 0.022 * unit, WOOD, PART)
    pen.sector((top[0], top[1] + 0.1 * unit), (0.24 * unit, 0.2 * unit), 180.0, 180.0, color, PART)


def _cup(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    x, y = palm
    corners = [(-0.045, -0.11), (0.045, -0.11), (0.035, 0.02), (-0.035, 0.02)]
    pen.polygon([(x + u * unit, y + v * unit) for u, v in corners], color, PART, rounding=0.01 * unit)


def _flag(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    low, high = (_shifted(palm, along, -0.08 * unit, 0.0), _shifted(palm, along, 0.42 * unit, 0.0))
    pen.line(low, high, 0.022 * unit, WOOD, PART)
    fly = 0.2 * unit
    cloth = [
        high,
        _shifted(high, along, 0.0, fly),
        _shifted(mix(high, low, 0.32), along, 0.0, fly),
        mix(high, low, 0.32),
    ]
    pen.polygon(cloth, color, PART)


def _phone(pen: Pen, palm: Point, along: Point, unit: float, color: Color) -> None:
    ends = (_shifted(palm, along, 0.0, -0.01 * unit), _shifted(palm, along, 0.0, 0.09 * unit))
    pen.line(*ends, 0.06 * unit, (40, 44, 54), PART)
    pen.line(*ends, 0.035 * unit, shade(color, 1.3))


PROPS: dict[str, Callable[[Pen, Point, Point, float, Color], None]] = {
    "ball": _ball,
    "stick": _stick,
    "sword": _sword,
    "balloon": _balloon,
    "umbrella": _umbrella,
    "cup": _cup,
    "flag": _flag,
    "phone": _phone,
}
