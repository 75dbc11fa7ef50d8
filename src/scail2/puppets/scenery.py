"""Paints scenes."""

import math

import skia

from scail2.puppets.characters import Color
from scail2.puppets.drawing import shade
from scail2.puppets.scenes import REACH, Scene, SceneItem

BEHIND_FLOOR = ("hill",)
"""Shapes whose lower half the floor covers."""


def paint_scene(canvas: skia.Canvas, scene: Scene) -> None:
    """Draws the scene in units of the frame height, origin at the upper middle of the frame."""
    far = 3.0 * REACH
    # Every pixel opaque from the start: the soft edge at the horizon must not let older pixels through.
    canvas.clear(skia.Color(*scene.floor))
    wall = skia.Paint(AntiAlias=True, Color=skia.Color(*scene.wall))
    if scene.wall_low != scene.wall:
        ends = [skia.Color(*scene.wall), skia.Color(*scene.wall_low)]
        wall.setShader(skia.GradientShader.MakeLinear(points=[(0, 0), (0, scene.horizon)], colors=ends))
    canvas.drawRect(skia.Rect(-far, -far, far, scene.horizon), wall)
    for item in scene.items:
        if item.shape in BEHIND_FLOOR:
            ITEM_PAINTERS[item.shape](canvas, item)
    canvas.drawRect(skia.Rect(-far, scene.horizon, far, far), _paint(scene.floor))
    for item in scene.items:
        if item.shape not in BEHIND_FLOOR:
            ITEM_PAINTERS[item.shape](canvas, item)


def _paint(color: Color) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Color=skia.Color(*color))


def _box(item: SceneItem, left: float, top: float, right: float, bottom: float) -> skia.Rect:
    """A rectangle inside an item; 0 and 1 are its left and right, upper and lower edge."""
    x, y = item.x - 0.5 * item.width, item.y - item.height
    return skia.Rect(x + left * item.width, y + top * item.height, x + right * item.width, y + bottom * item.height)


def _paint_disc(canvas: skia.Canvas, item: SceneItem) -> None:
    canvas.drawOval(_box(item, 0, 0, 1, 1), _paint(item.color))


def _paint_box(canvas: skia.Canvas, item: SceneItem) -> None:
    canvas.drawRect(_box(item, 0, 0, 1, 1), _paint(item.color))


def _paint_triangle(canvas: skia.Canvas, item: SceneItem) -> None:
    _polygon(canvas, item, ((0.5, 0), (1, 1), (0, 1)), item.color)


def _polygon(canvas: skia.Canvas, item: SceneItem, corners: tuple[tuple[float, float], ...], color: Color) -> None:
    x, y = item.x - 0.5 * item.width, item.y - item.height
    points = [skia.Point(x + u * item.width, y + v * item.height) for u, v in corners]
    canvas.drawPath(skia.Path.Polygon(points, True), _paint(color))


def _paint_building(canvas: skia.Canvas, item: SceneItem) -> None:
    _paint_box(canvas, item)
    rows = max(2, round(item.height / 0.12))
    for row in range(rows):
        for left in (0.18, 0.58):
            top = (row + 0.3) / rows
            canvas.drawRect(_box(item, left, top, left + 0.24, top + 0.4 / rows), _paint(item.accent))


def _paint_tree(canvas: skia.Canvas, item: SceneItem) -> None:
    canvas.drawRect(_box(item, 0.42, 0.4, 0.58, 1), _paint((104, 70, 44)))
    canvas.drawOval(_box(item, 0, 0, 1, 0.66), _paint(item.color))


def _paint_fir(canvas: skia.Canvas, item: SceneItem) -> None:
    canvas.drawRect(_box(item, 0.43, 0.7, 0.57, 1), _paint((92, 62, 42)))
    _polygon(canvas, item, ((0.5, 0), (0.9, 0.5), (0.1, 0.5)), item.color)
    _polygon(canvas, item, ((0.5, 0.2), (1, 0.82), (0, 0.82)), item.color)


def _paint_hill(canvas: skia.Canvas, item: SceneItem) -> None:
    canvas.drawOval(_box(item, 0, 0, 1, 2), _paint(item.color))


def _paint_window(canvas: skia.Canvas, item: SceneItem) -> None:
    _paint_box(canvas, item)
    for left, top in ((0.08, 0.08), (0.54, 0.08), (0.08, 0.54), (0.54, 0.54)):
        canvas.drawRect(_box(item, left, top, left + 0.38, top + 0.38), _paint(item.accent))


def _paint_picture(canvas: skia.Canvas, item: SceneItem) -> None:
    _paint_box(canvas, item)
    canvas.drawRect(_box(item, 0.12, 0.12, 0.88, 0.88), _paint(item.accent))
    canvas.drawOval(_box(item, 0.3, 0.35, 0.7, 0.75), _paint(item.color))


def _paint_lamp(canvas: skia.Canvas, item: SceneItem) -> None:
    canvas.drawRect(_box(item, 0.44, 0.2, 0.56, 1), _paint(item.color))
    _polygon(canvas, item, ((0.3, 0), (0.7, 0), (1, 0.3), (0, 0.3)), item.accent)


def _paint_cupboard(canvas: skia.Canvas, item: SceneItem) -> None:
    _paint_box(canvas, item)
    for top in (0.06, 0.53):
        canvas.drawRect(_box(item, 0.08, top, 0.92, top + 0.41), _paint(item.accent))


def _paint_cloud(canvas: skia.Canvas, item: SceneItem) -> None:
    for left, top, right, bottom in ((0, 0.4, 0.5, 1), (0.25, 0, 0.75, 1), (0.5, 0.35, 1, 1)):
        canvas.drawOval(_box(item, left, top, right, bottom), _paint((246, 248, 252)))


def _paint_bush(canvas: skia.Canvas, item: SceneItem) -> None:
    for left, top, right in ((0, 0.25, 0.55), (0.22, 0, 0.78), (0.5, 0.2, 1)):
        canvas.drawOval(_box(item, left, top, right, 1.1), _paint(item.color))


def _paint_post(canvas: skia.Canvas, item: SceneItem) -> None:
    canvas.drawRect(_box(item, 0.42, 0.1, 0.58, 1), _paint((70, 72, 84)))
    canvas.drawOval(_box(item, 0, 0, 1, 0.2), _paint((255, 236, 160)))


def _paint_fence(canvas: skia.Canvas, item: SceneItem) -> None:
    for number in range(8):
        canvas.drawRect(_box(item, number / 8 + 0.03, 0, number / 8 + 0.08, 1), _paint(item.color))
    for top in (0.2, 0.65):
        canvas.drawRect(_box(item, 0, top, 1, top + 0.14), _paint(item.color))


def _paint_star(canvas: skia.Canvas, item: SceneItem) -> None:
    corners = []
    for number in range(10):
        angle, reach = math.pi * number / 5.0, 0.5 if number % 2 == 0 else 0.22
        corners.append((0.5 + reach * math.sin(angle), 0.5 - reach * math.cos(angle)))
    _polygon(canvas, item, tuple(corners), item.accent)


def _paint_curtain(canvas: skia.Canvas, item: SceneItem) -> None:
    for number in range(6):
        canvas.drawRect(
            _box(item, number / 6, 0, (number + 1.05) / 6, 1), _paint(shade(item.color, 1.0 - 0.22 * (number % 2)))
        )


def _paint_dots(canvas: skia.Canvas, item: SceneItem) -> None:
    _paint_box(canvas, item)
    for row in range(8):
        for column in range(6):
            left, top = (column + 0.3) / 6, (row + 0.3) / 8
            canvas.drawOval(_box(item, left, top, left + 0.4 / 6, top + 0.4 / 8), _paint(item.accent))


def _paint_stripes(canvas: skia.Canvas, item: SceneItem) -> None:
    _paint_box(canvas, item)
    for number in range(7):
        canvas.drawRect(_box(item, number / 7, 0, (number + 0.5) / 7, 1), _paint(item.accent))


def _paint_checks(canvas: skia.Canvas, item: SceneItem) -> None:
    _paint_box(canvas, item)
    for row in range(8):
        for column in range(row % 2, 6, 2):
            canvas.drawRect(_box(item, column / 6, row / 8, (column + 1) / 6, (row + 1) / 8), _paint(item.accent))


ITEM_PAINTERS = {
    "disc": _paint_disc,
    "box": _paint_box,
    "triangle": _paint_triangle,
    "building": _paint_building,
    "tree": _paint_tree,
    "fir": _paint_fir,
    "hill": _paint_hill,
    "window": _paint_window,
    "picture": _paint_picture,
    "lamp": _paint_lamp,
    "cupboard": _paint_cupboard,
    "cloud": _paint_cloud,
    "bush": _paint_bush,
    "post": _paint_post,
    "fence": _paint_fence,
    "star": _paint_star,
    "curtain": _paint_curtain,
    "dots": _paint_dots,
    "stripes": _paint_stripes,
    "checks": _paint_checks,
}
