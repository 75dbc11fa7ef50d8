"""Two pictures from one stroke: colours with soft edges, and part numbers without."""

from collections.abc import Sequence

import numpy as np
import skia

from scail2.puppets.characters import Color, each_channel

Point = tuple[float, float]


class Pen:
    """Draws each shape on the colour canvas (antialiased) and on the part canvas (flat part number, exact pixels).

    A part of 0 draws on the colour canvas only: details well inside a shape that is drawn already.
    """

    def __init__(self, pixels: np.ndarray, parts: np.ndarray):
        """`pixels` uint8 (H, W, 4) RGBA and `parts` uint8 (H, W), both drawn into in place."""
        height, width = parts.shape
        self._surfaces = (
            skia.Surface(pixels),
            skia.Surface.MakeRasterDirect(skia.ImageInfo.MakeA8(width, height), parts, parts.strides[0]),
        )
        self.colors, self.parts = (surface.getCanvas() for surface in self._surfaces)
        self.offset = 0
        """Added to the part numbers of the character that is being drawn."""

    def line(self, start: Point, end: Point, width: float, color: Color, part: int = 0) -> None:
        """A stroke with round ends."""
        for canvas, paint in self._targets(color, part, width):
            canvas.drawLine(start[0], start[1], end[0], end[1], paint)

    def polyline(self, points: Sequence[Point], width: float, color: Color, part: int = 0) -> None:
        """Connected strokes with round joints."""
        path = skia.Path()
        path.moveTo(*points[0])
        for point in points[1:]:
            path.lineTo(*point)
        for canvas, paint in self._targets(color, part, width):
            canvas.drawPath(path, paint)

    def polygon(self, points: Sequence[Point], color: Color, part: int = 0, *, rounding: float = 0.0) -> None:
        """A filled polygon, grown by a round border of width `rounding`."""
        path = skia.Path.Polygon([skia.Point(*point) for point in points], True)
        for canvas, paint in self._targets(color, part):
            if rounding:
                paint.setStyle(skia.Paint.kStrokeAndFill_Style)
                paint.setStrokeWidth(rounding)
                paint.setStrokeJoin(skia.Paint.kRound_Join)
            canvas.drawPath(path, paint)

    def oval(self, centre: Point, radius_x: float, radius_y: float, color: Color, part: int = 0) -> None:
        """A filled ellipse."""
        rect = skia.Rect(centre[0] - radius_x, centre[1] - radius_y, centre[0] + radius_x, centre[1] + radius_y)
        for canvas, paint in self._targets(color, part):
            canvas.drawOval(rect, paint)

    def sector(self, centre: Point, radii: Point, start: float, sweep: float, color: Color, part: int = 0) -> None:
        """A filled arc of an ellipse closed by its chord; degrees clockwise from the right."""
        rect = skia.Rect(centre[0] - radii[0], centre[1] - radii[1], centre[0] + radii[0], centre[1] + radii[1])
        for canvas, paint in self._targets(color, part):
            canvas.drawArc(rect, start, sweep, False, paint)

    def curve(self, ends: tuple[Point, Point], control: Point, width: float, color: Color, part: int = 0) -> None:
        """A thin quadratic curve."""
        path = skia.Path()
        path.moveTo(*ends[0])
        path.quadTo(*control, *ends[1])
        for canvas, paint in self._targets(color, part, width):
            canvas.drawPath(path, paint)

    def push(self, matrix: skia.Matrix) -> None:
        """Starts drawing in other coordinates."""
        for canvas in (self.colors, self.parts):
            canvas.save()
            canvas.concat(matrix)

    def pop(self) -> None:
        """Returns to the coordinates before the last `push`."""
        for canvas in (self.colors, self.parts):
            canvas.restore()

    def _targets(self, color: Color, part: int, width: float = 0.0) -> list[tuple[skia.Canvas, skia.Paint]]:
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(*color))
        if width:
            _make_stroke(paint, width)
        targets = [(self.colors, paint)]
        if part:
            number = skia.Paint(AntiAlias=False, BlendMode=skia.BlendMode.kSrc)
            number.setAlpha(part + self.offset)
            if width:
                _make_stroke(number, width)
            targets.append((self.parts, number))
        return targets


def _make_stroke(paint: skia.Paint, width: float) -> None:
    paint.setStyle(skia.Paint.kStroke_Style)
    paint.setStrokeWidth(width)
    paint.setStrokeCap(skia.Paint.kRound_Cap)
    paint.setStrokeJoin(skia.Paint.kRound_Join)


def shade(color: Color, factor: float) -> Color:
    """The colour made darker (factor below 1) or lighter."""
    return each_channel(color, lambda channel: min(255, max(0, round(channel * factor))))


def mix(first: Point, second: Point, share: float) -> Point:
    """The point `share` of the way from first to second."""
    return (first[0] + share * (second[0] - first[0]), first[1] + share * (second[1] - first[1]))
