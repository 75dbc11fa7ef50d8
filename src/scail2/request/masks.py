"""Characters pointed out by hand: points and boxes, and how they are written in one word."""

from dataclasses import dataclass
from typing import Any

from scail2.errors import InputError


def _numbers(text: str, count: int, what: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or any(value != value for value in values):
        raise InputError(f"cannot read {what} {text!r}: it needs {count} numbers with commas between them.")
    return values


def _placed(text: str, still: bool, form: str) -> tuple[int, int, list[str]]:
    parts = text.split(":")
    head = parts[: 1 if still else 2]
    if len(parts) < len(head) + 1 or not all(part.isdigit() for part in head):
        raise InputError(f"cannot read {text!r}: write it as {form}.")
    frame = 0 if still else int(head[0])
    return frame, int(head[-1]), parts[len(head) :]


def parse_point(text: str, *, still: bool = False) -> Any:
    """``FRAME:CHARACTER:X,Y`` or ``…:out`` (without FRAME for pictures) → `PointPrompt`."""

    frame, character, rest = _placed(text, still, "CHARACTER:X,Y[:out]" if still else "FRAME:CHARACTER:X,Y[:out]")
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in ("in", "out")):
        raise InputError(f"cannot read the point {text!r}: after the place comes nothing, in or out.")
    x, y = _numbers(rest[0], 2, "the point")
    return PointPrompt(frame=frame, character=character, x=x, y=y, inside=len(rest) < 2 or rest[1] == "in")


def parse_box(text: str, *, still: bool = False) -> Any:
    """``FRAME:CHARACTER:X0,Y0,X1,Y1`` (without FRAME for pictures) → `BoxPrompt`."""

    frame, character, rest = _placed(text, still, "CHARACTER:X0,Y0,X1,Y1" if still else "FRAME:CHARACTER:X0,Y0,X1,Y1")
    if len(rest) != 1:
        raise InputError(f"cannot read the box {text!r}: it needs four numbers after the last colon.")
    return BoxPrompt(frame=frame, character=character, box=tuple(_numbers(rest[0], 4, "the box")))


@dataclass(frozen=True, kw_only=True)
class PointPrompt:
    """A click: `character` (counted from 1) is, or with ``inside=False`` is not, at pixel (x, y) of `frame`."""

    frame: int
    character: int
    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True, kw_only=True)
class BoxPrompt:
    """A box around `character` (counted from 1) in `frame`: x0, y0, x1, y1 in pixels."""

    frame: int
    character: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What the user says about the characters. Points and boxes at later frames are corrections from there on.

    Attributes:
        text: what to look for, e.g. ("person",); each match becomes a character of its own.
        points, boxes: clicks and boxes, in pixels of the frames given to the segmenter.
        characters: how many characters to expect; None leaves it to the segmenter.
    """

    text: tuple[str, ...] = ()
    points: tuple[PointPrompt, ...] = ()
    boxes: tuple[BoxPrompt, ...] = ()
    characters: int | None = None

    @property
    def placed(self) -> bool:
        """Whether any point or box was given."""
        return bool(self.points or self.boxes)
