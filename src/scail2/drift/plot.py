"""The drift of a run as one picture: five small panels over the segments."""

import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from scail2.drift.measure import DriftReport, SegmentDrift
from scail2.errors import InputError
from scail2.files.storage import write_bytes

Series = dict[str, Callable[[SegmentDrift], float | None]]

_PANELS: list[tuple[str, str, Series, float]] = [
    ("drift", "score against segment 0", {"score": lambda s: s.score}, 0.0),
    (
        "colour",
        "CIE 1976",
        {
            "character, from segment 0": lambda s: s.to_first.colour_inside,
            "surroundings, from segment 0": lambda s: s.to_first.colour_outside,
            "whole, from segment 0": lambda s: s.to_first.colour_whole,
            "whole, from reference": lambda s: s.to_reference.colour_whole if s.to_reference else None,
        },
        0.0,
    ),
    (
        "contrast and sharpness",
        "log2 of ratio to segment 0",
        {"contrast": lambda s: s.to_first.contrast, "sharpness": lambda s: s.to_first.sharpness},
        0.0,
    ),
    (
        "identity",
        "distance 0 … 1",
        {
            "from segment 0": lambda s: s.to_first.identity,
            "from reference": lambda s: s.to_reference.identity if s.to_reference else None,
        },
        0.0,
    ),
    ("seams", "join / usual difference", {"seam energy": lambda s: s.seam_energy}, 1.0),
]


# Pixels of the finished picture; it is drawn larger and made smaller, which smooths lines.
_WIDTH, _HEIGHT, _FINER = 900, 1200, 2
_LEFT, _RIGHT, _TOP, _PITCH, _PLOT = 66, 880, 46, 230, 172
_DOT, _LINE = 4.0, 2.0
_TITLE, _TEXT = 16, 12
_INK, _GREY, _PALE = (20, 20, 20), (110, 110, 110), (205, 205, 205)
_SERIES = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40))
_LIMIT, _FROZEN = (214, 39, 40), (255, 217, 183)
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # between ticks, times a power of ten
_FLAT = 0.05  # half the range shown of values that are all alike


def plot(report: DriftReport, path: str | os.PathLike, *, limit: float | None = None) -> None:
    """Draws the report as PNG (900 × 1200 pixels), beside and then renamed.

    Raises:
        InputError: the report is empty.
    """
    if not report.segments:
        raise InputError("the drift report holds no segments yet; render one first")
    image = Image.new("RGB", (_WIDTH * _FINER, _HEIGHT * _FINER), "white")
    draw = ImageDraw.Draw(image)
    numbers = [segment.index for segment in report.segments]
    for row, (title, unit, series, neutral) in enumerate(_PANELS):
        lines = {name: list(_points(report, value)) for name, value in series.items()}
        special = [neutral] if limit is None or row else [neutral, limit]
        values = [value for line in lines.values() for _, value in line] + special
        panel = _Panel(
            draw, _TOP + row * _PITCH, _widened(min(numbers), max(numbers)), _widened(min(values), max(values))
        )
        panel.title(title, unit, [name for name, line in lines.items() if line])
        if row == len(_PANELS) - 1:
            panel.shade(segment.index for segment in report.segments if segment.is_frozen)
        panel.level(neutral, _PALE)
        panel.frame(numbered=row == len(_PANELS) - 1)
        if len(special) > 1:
            panel.level(special[1], _LIMIT, dash=6)
        for (_, line), colour in zip(lines.items(), _SERIES, strict=False):
            panel.line(line, colour)
    _text(draw, ((_LEFT + _RIGHT) / 2, _HEIGHT - 22), "segment (orange: frozen frames)", _TEXT, _INK, "ma")
    picture = io.BytesIO()
    image.reduce(_FINER).save(picture, format="png")
    write_bytes(Path(path), picture.getvalue())


def _points(report: DriftReport, value: Callable[[SegmentDrift], float | None]) -> Iterator[tuple[int, float]]:
    for segment in report.segments:
        found = value(segment)
        if found is not None and math.isfinite(found):
            yield segment.index, found


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range that is shown of values between two."""
    margin = 0.05 * (high - low) or _FLAT
    return low - margin, high + margin


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """At most ``most`` round numbers within a range, evenly apart; whole ones if asked for."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in _STEPS if each * power >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _FINER)


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: tuple, anchor: str
) -> float:
    """Writes a text and returns its width."""
    draw.text((place[0] * _FINER, place[1] * _FINER), text, fill=colour, font=_font(size), anchor=anchor)
    return draw.textlength(text, font=_font(size)) / _FINER


@dataclass(frozen=True, slots=True)
class _Panel:
    """One diagram: where it lies and which values it shows.

    Attributes:
        top: of the diagram itself, below its title, in pixels.
        across, up: the ranges of segments and of values.
    """

    draw: ImageDraw.ImageDraw
    top: float
    across: tuple[float, float]
    up: tuple[float, float]

    def _x(self, number: float) -> float:
        low, high = self.across
        return (_LEFT + (number - low) / (high - low) * (_RIGHT - _LEFT)) * _FINER

    def _y(self, value: float) -> float:
        low, high = self.up
        return (self.top + (high - value) / (high - low) * _PLOT) * _FINER

    def title(self, title: str, unit: str, names: list[str]) -> None:
        """What is shown, left, and the lines' names with their colours, right."""
        base = self.top - 8
        end = _LEFT + _text(self.draw, (_LEFT, base), title, _TITLE, _INK, "ls") + 10
        _text(self.draw, (end, base), unit, _TEXT, _GREY, "ls")
        if len(names) < 2:
            return
        lengths = [self.draw.textlength(name, font=_font(_TEXT)) / _FINER for name in names]
        place = _RIGHT - sum(lengths) - 26 * len(names) + 10
        for name, length, colour in zip(names, lengths, _SERIES, strict=False):
            self._dot((place + 5) * _FINER, (base - 4) * _FINER, colour, _DOT)
            _text(self.draw, (place + 13, base), name, _TEXT, _INK, "ls")
            place += length + 26

    def shade(self, numbers: Iterator[int]) -> None:
        """Marks segments."""
        edges = _LEFT * _FINER, _RIGHT * _FINER
        for number in numbers:
            left, right = (min(max(self._x(number + side), edges[0]), edges[1]) for side in (-0.4, 0.4))
            self.draw.rectangle((left, self.top * _FINER, right, (self.top + _PLOT) * _FINER), fill=_FROZEN)

    def frame(self, *, numbered: bool) -> None:
        """The box, ticks and their numbers."""
        box = tuple(each * _FINER for each in (_LEFT, self.top, _RIGHT, self.top + _PLOT))
        self.draw.rectangle(box, outline=_GREY, width=_FINER)
        rising = ticks(*self.up, most=5)
        near = (self.up[1] - self.up[0]) * 1e-6
        decimals = next(each for each in range(99) if all(abs(round(one, each) - one) < near for one in rising))
        for value in rising:
            self.draw.line((box[0] - 4 * _FINER, self._y(value), box[0], self._y(value)), _GREY, _FINER)
            _text(self.draw, (_LEFT - 8, self._y(value) / _FINER), f"{value + 0.0:.{decimals}f}", _TEXT, _INK, "rm")
        for number in ticks(*self.across, most=10, whole=True):
            self.draw.line((self._x(number), box[3], self._x(number), box[3] + 4 * _FINER), _GREY, _FINER)
            if numbered:
                _text(self.draw, (self._x(number) / _FINER, self.top + _PLOT + 8), f"{number:.0f}", _TEXT, _INK, "ma")

    def level(self, value: float, colour: tuple, dash: int | None = None) -> None:
        """A line across, in pieces of ``dash`` pixels if given."""
        left, right = _LEFT * _FINER, _RIGHT * _FINER
        top = round(self._y(value) / _FINER) * _FINER  # whole pixels of the finished picture
        piece = (dash or _RIGHT) * _FINER
        for start in range(left, right, 2 * piece):
            self.draw.rectangle((start, top, min(start + piece, right) - 1, top + _FINER - 1), fill=colour)

    def line(self, points: list[tuple[int, float]], colour: tuple) -> None:
        """Points, and lines between them; dots are smaller where they would touch."""
        places = [(self._x(number), self._y(value)) for number, value in points]
        self.draw.line(places, colour, round(_LINE * _FINER), joint="curve")
        apart = (self._x(1) - self._x(0)) / _FINER
        for x, y in places:
            self._dot(x, y, colour, min(_DOT, max(0.5, apart / 3)))

    def _dot(self, x: float, y: float, colour: tuple, radius: float) -> None:
        reach = radius * _FINER
        self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
