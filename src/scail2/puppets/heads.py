"""Heads of people: face, hair, hats, glasses and beards."""

from collections.abc import Callable

import numpy as np

from scail2.puppets.characters import Character, Color
from scail2.puppets.drawing import Pen, shade
from scail2.puppets.figure import Figure, head_frame
from scail2.puppets.skeleton import PART_IDS


def draw_back_hair(pen: Pen, character: Character, figure: Figure) -> None:
    """Hair that hangs or stands behind the head."""
    style = character.face.hair_style
    if style not in BACK_HAIR:
        return
    matrix, facing = head_frame(figure, character.body.head)
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


def _ponytail(pen: Pen, character: Character, facing: np.ndarray) -> None:
    swing = -0.9 * facing[0]
    hair = shade(character.face.hair, 0.85)
    pen.polyline([(0.4 * swing, -0.7), (1.3 * swing, -0.5), (1.5 * swing, 0.7)], 0.5, hair, PART_IDS["head"])


def _bob(pen: Pen, character: Character, facing: np.ndarray) -> None:
    width = character.body.head_width / character.body.head
    corners = [(-width, -0.2), (width, -0.2), (1.05 * width, 0.65), (-1.05 * width, 0.65)]
    pen.polygon(corners, shade(character.face.hair, 0.85), PART_IDS["head"], rounding=0.35)


def _mohawk(pen: Pen, character: Character, facing: np.ndarray) -> None:
    for number in range(5):
        x = (0.25 * number - 0.5) * max(abs(facing[0]), 0.25)
        pen.oval((x, -1.1 + 0.1 * abs(number - 2)), 0.2, 0.42, character.face.hair, PART_IDS["head"])


BACK_HAIR = {
    "long": _long_hair,
    "pigtails": _pigtails,
    "bun": _bun,
    "afro": _afro,
    "ponytail": _ponytail,
    "bob": _bob,
    "mohawk": _mohawk,
}


def draw_head(pen: Pen, character: Character, figure: Figure) -> None:
    """Skull, face, hair and hat."""
    face, part = character.face, PART_IDS["head"]
    matrix, facing = head_frame(figure, character.body.head)
    width = character.body.head_width / character.body.head
    pen.push(matrix)
    bald = face.hair_style in ("bald", "mohawk")
    pen.oval((0.0, 0.0), width, 1.0, face.skin if bald else face.hair, part)
    if face.hair_style == "spiky":
        for spike in (-0.6, -0.2, 0.2, 0.6):
            x = spike * width
            pen.polygon([(x - 0.3, -0.6), (x + 0.3, -0.6), (1.35 * x, -1.4)], face.hair, part)
    if not bald and facing[2] > -0.35:
        shift = 0.42 * facing[0] * width
        narrow = width * (0.9 - 0.42 * abs(facing[0]))
        pen.oval((shift, 0.22 + 0.2 * facing[1]), narrow, 0.76, face.skin, part)
    if facing[2] > -0.12:
        _draw_features(pen, character, facing, width)
        _draw_extras(pen, character, facing, width)
    if face.hat != "none":
        HATS[face.hat](pen, face.hat_color, facing, width)
    pen.pop()


def _draw_features(pen: Pen, character: Character, facing: np.ndarray, width: float) -> None:
    """Eyes and mouth, sliding round the skull as it turns."""
    face, part = character.face, PART_IDS["head"]
    middle = (0.8 * facing[0] * width, 0.12 + 0.7 * facing[1])
    for sign in (-1.0, 1.0):
        x = middle[0] + sign * face.eye_gap * facing[2]
        pen.oval((x, middle[1]), 1.25 * face.eye_size, 1.5 * face.eye_size, (255, 255, 255), part)
        pen.oval((x + 0.04 * facing[0], middle[1] + 0.02), 0.8 * face.eye_size, 1.0 * face.eye_size, (24, 20, 30), part)
    mouth = middle[1] + 0.45
    reach = face.mouth * max(facing[2], 0.3)
    ends = ((middle[0] - reach, mouth), (middle[0] + reach, mouth))
    pen.curve(ends, (middle[0], mouth + 1.6 * face.smile), 0.13, shade(face.skin, 0.42), part)


def _draw_extras(pen: Pen, character: Character, facing: np.ndarray, width: float) -> None:
    """Glasses and beard on a face that is seen."""
    face, extras = character.face, character.extras
    middle = (0.8 * facing[0] * width, 0.12 + 0.7 * facing[1])
    if extras.beard in ("full", "goatee"):
        reach = (0.6 if extras.beard == "full" else 0.25) * width * max(facing[2], 0.4)
        pen.oval((middle[0], middle[1] + 0.72), reach, 0.26, face.hair, PART_IDS["head"])
    if extras.beard in ("full", "moustache"):
        reach = 0.42 * max(facing[2], 0.3)
        pen.line(
            (middle[0] - reach, middle[1] + 0.33),
            (middle[0] + reach, middle[1] + 0.33),
            0.16,
            face.hair,
            PART_IDS["head"],
        )
    if extras.glasses != "none":
        eyes = [(middle[0] + sign * face.eye_gap * facing[2], middle[1]) for sign in (-1.0, 1.0)]
        pen.line((-0.9 * width, middle[1]), (0.9 * width, middle[1]), 0.07, extras.glasses_color, PART_IDS["head"])
        for eye in eyes:
            _draw_lens(pen, character, eye)


def _draw_lens(pen: Pen, character: Character, eye: tuple[float, float]) -> None:
    extras, size = character.extras, 1.75 * character.face.eye_size
    if extras.glasses == "shades":
        pen.oval(eye, 1.15 * size, size, extras.glasses_color, PART_IDS["head"])
        return
    corners = [
        (eye[0] + u * size, eye[1] + v * size) for u, v in ((-1, -0.9), (1, -0.9), (1, 0.9), (-1, 0.9), (-1, -0.9))
    ]
    if extras.glasses == "round":
        turns = np.linspace(0.0, 2.0 * np.pi, 17)
        corners = [(eye[0] + size * np.cos(turn), eye[1] + size * np.sin(turn)) for turn in turns]
    pen.polyline(corners, 0.09, extras.glasses_color, PART_IDS["head"])


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


def _brim_hat(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    part = PART_IDS["head"]
    pen.sector((0.0, -0.42), (0.8 * width, 0.85), 180.0, 180.0, color, part)
    pen.oval((0.0, -0.45), 1.7 * width, 0.2, shade(color, 0.85), part)
    pen.line((-0.75 * width, -0.58), (0.75 * width, -0.58), 0.14, shade(color, 0.5))


def _crown(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    side = 0.8 * width
    tips = [(-side, -0.55), (-side, -1.35), (-0.45 * side, -0.95), (0.0, -1.45), (0.45 * side, -0.95), (side, -1.35)]
    pen.polygon([*tips, (side, -0.55)], (246, 200, 60), PART_IDS["head"])
    pen.oval((0.5 * facing[0], -0.75), 0.12, 0.12, color)


def _helmet(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    part = PART_IDS["head"]
    pen.sector((0.0, -0.1), (1.15 * width, 1.05), 180.0, 180.0, color, part)
    pen.line((0.35 * facing[0], -1.1), (0.9 * facing[0], -0.2), 0.16, shade(color, 1.4), part)


def _headband(pen: Pen, color: Color, facing: np.ndarray, width: float) -> None:
    pen.line((-0.88 * width, -0.45), (0.88 * width, -0.45), 0.24, color, PART_IDS["head"])


HATS: dict[str, Callable[[Pen, Color, np.ndarray, float], None]] = {
    "cap": _cap,
    "beanie": _beanie,
    "top": _top_hat,
    "cone": _cone_hat,
    "brim": _brim_hat,
    "crown": _crown,
    "helmet": _helmet,
    "headband": _headband,
}
