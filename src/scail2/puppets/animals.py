"""Draws a four-legged animal."""

from functools import partial

import numpy as np

from scail2.puppets.characters import Character, Coat, Color
from scail2.puppets.drawing import Pen, Point, mix, shade
from scail2.puppets.figure import LIMB_SHADE, Figure, Layer, draw_layers, head_frame
from scail2.puppets.skeleton import PART_IDS, SIDES


def draw_animal(pen: Pen, character: Character, figure: Figure) -> None:
    """Draws the whole animal, far legs first."""
    trunk = figure.near("pelvis", "chest")
    layers: list[Layer] = [
        (trunk, lambda: _draw_trunk(pen, character, figure)),
        (
            figure.near("pelvis") + (0.02 if figure.pelvis[2, 2] < 0.0 else -0.12),
            lambda: _draw_tail(pen, character, figure),
        ),
        (figure.near("head") + 0.1, lambda: _draw_head(pen, character, figure)),
    ]
    for side in SIDES:
        layers += _leg_layers(pen, character, figure, side, trunk)
    draw_layers(layers)


def _coat(character: Character) -> Coat:
    if character.coat is None:
        raise ValueError(f"a {character.kind} has no coat: it cannot be drawn as an animal")
    return character.coat


def _leg_layers(pen: Pen, character: Character, figure: Figure, side: str, trunk: float) -> list[Layer]:
    layers: list[Layer] = []
    for root, joints, parts in (
        ("hip", ("hip", "knee", "ankle", "toe"), ("thigh", "shin", "foot")),
        ("shoulder", ("shoulder", "elbow", "wrist", "palm"), ("upper_arm", "forearm", "hand")),
    ):
        other = f"{root}_{SIDES[1 - SIDES.index(side)]}"
        near = figure.near(f"{root}_{side}") > figure.near(other)
        depth = trunk + 0.04 if near else trunk - 0.2 + 0.1 * figure.near(f"{root}_{side}")
        layers.append((depth, partial(_draw_leg, pen, character, figure, side, joints, parts)))
    return layers


def _draw_leg(
    pen: Pen, character: Character, figure: Figure, side: str, joints: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    coat = _coat(character)
    width = character.body.leg_width * figure.scale
    tone = LIMB_SHADE[side]
    points = [figure.at(f"{joint}_{side}") for joint in joints]
    ids = [PART_IDS[f"{part}_{side}"] for part in parts]
    sock = coat.accent if coat.pattern == "socks" else coat.fur
    pen.line(points[1], points[2], 0.85 * width, shade(sock, tone), ids[1])
    pen.line(points[0], points[1], 1.35 * width, shade(coat.fur, tone), ids[0])
    pen.line(points[2], points[3], 0.95 * width, shade(coat.paw, tone), ids[2])


def _draw_trunk(pen: Pen, character: Character, figure: Figure) -> None:
    coat, body, unit = _coat(character), character.body, figure.scale
    part = PART_IDS["torso"]
    rump, chest = figure.at("pelvis"), figure.at("chest")
    pen.line(
        figure.at("neck"), mix(figure.at("neck"), figure.at("head"), 0.9), 0.62 * body.depth * unit, coat.fur, part
    )
    pen.line(rump, chest, body.depth * unit, coat.fur, part)
    belly = [(x, y + 0.28 * body.depth * unit) for x, y in (mix(rump, chest, 0.1), mix(rump, chest, 0.9))]
    pen.line(belly[0], belly[1], 0.4 * body.depth * unit, coat.belly, part)
    if coat.pattern == "stripes":
        for share in (0.1, 0.35, 0.6, 0.85):
            x, y = mix(rump, chest, share)
            pen.line((x, y - 0.42 * body.depth * unit), (x, y), 0.035 * unit, coat.accent, part)
    elif coat.pattern == "spots":
        for share, rise in ((0.05, 0.2), (0.3, 0.02), (0.55, 0.25), (0.9, 0.1)):
            x, y = mix(rump, chest, share)
            pen.oval((x, y - rise * body.depth * unit), 0.045 * unit, 0.04 * unit, coat.accent, part)


def _draw_tail(pen: Pen, character: Character, figure: Figure) -> None:
    coat, body = _coat(character), character.body
    root = figure.offset("pelvis", figure.pelvis, 0.0, 0.25 * body.depth, -0.35 * body.depth)
    wag = 1.2 * float(figure.head[0, 1])
    length = coat.tail
    bend = figure.offset("pelvis", figure.pelvis, 0.3 * wag * length, 0.45 * length, -0.3 - 0.5 * length)
    tip = figure.offset("pelvis", figure.pelvis, wag * length, 1.2 * length, -0.3 - 0.6 * length)
    points: list[Point] = [root, bend, tip]
    pen.polyline(
        points, (0.11 if coat.species == "horse" else 0.05) * figure.scale, shade(coat.tuft, 0.9), PART_IDS["torso"]
    )


def _draw_head(pen: Pen, character: Character, figure: Figure) -> None:
    coat, part = _coat(character), PART_IDS["head"]
    matrix, facing = head_frame(figure, character.body.head)
    pen.push(matrix)
    EARS[coat.ears](pen, coat.fur, coat.accent, facing)
    pen.oval((0.0, 0.0), 0.95, 0.95, coat.fur, part)
    if coat.species == "horse":
        pen.line((-0.5 * facing[0], -0.85), (-0.75 * facing[0], 0.5), 0.5, coat.tuft, part)
    muzzle = (0.95 * facing[0] * coat.muzzle, 0.4 + 0.5 * facing[1])
    pen.oval(muzzle, 0.34 + 0.3 * coat.muzzle, 0.42, coat.belly, part)
    if facing[2] > -0.3:
        nose = (muzzle[0] + 0.42 * facing[0] * coat.muzzle, muzzle[1] - 0.14)
        pen.oval(nose, 0.2, 0.15, (36, 26, 30), part)
        for sign in (-1.0, 1.0):
            x = 0.6 * facing[0] + sign * 0.42 * max(facing[2], 0.3)
            pen.oval((x, -0.22), 0.2, 0.24, (255, 255, 255), part)
            pen.oval((x + 0.05 * facing[0], -0.2), 0.12, 0.17, (20, 18, 26), part)
    pen.pop()


def _pointed_ears(pen: Pen, fur: Color, inner: Color, facing: np.ndarray) -> None:
    for sign in (-1.0, 1.0):
        x = sign * 0.6 * max(abs(facing[2]), 0.45) - 0.15 * facing[0]
        pen.polygon([(x - 0.36, -0.55), (x + 0.36, -0.55), (x + 0.16 * sign, -1.45)], shade(fur, 0.9), PART_IDS["head"])
        pen.polygon([(x - 0.16, -0.7), (x + 0.16, -0.7), (x + 0.12 * sign, -1.2)], inner, PART_IDS["head"])


def _round_ears(pen: Pen, fur: Color, inner: Color, facing: np.ndarray) -> None:
    for sign in (-1.0, 1.0):
        x = sign * 0.75 * max(abs(facing[2]), 0.45) - 0.15 * facing[0]
        pen.oval((x, -0.8), 0.38, 0.38, shade(fur, 0.9), PART_IDS["head"])
        pen.oval((x, -0.8), 0.2, 0.2, inner, PART_IDS["head"])


def _hanging_ears(pen: Pen, fur: Color, inner: Color, facing: np.ndarray) -> None:
    for sign in (-1.0, 1.0):
        x = sign * 0.95 * max(abs(facing[2]), 0.5) - 0.2 * facing[0]
        pen.oval((x, 0.05), 0.3, 0.72, shade(fur, 0.7), PART_IDS["head"])


EARS = {"pointed": _pointed_ears, "round": _round_ears, "hanging": _hanging_ears}
