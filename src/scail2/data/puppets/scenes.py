"""Where it happens: flat backgrounds from plain to busy."""

from dataclasses import dataclass

import skia

from scail2.data.puppets.characters import Color, vivid
from scail2.data.puppets.domain import PuppetDomain
from scail2.data.puppets.seeds import Draws, Split, seed_of

REACH = 2.0
"""Scenery covers this many frame heights to both sides of the middle, enough for any wide frame and pan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneItem:
    """One flat thing: middle of its foot at (x, y) in frame heights from the upper middle of the frame."""

    shape: str
    x: float
    y: float
    width: float
    height: float
    color: Color
    accent: Color


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A background. Its seed names its split."""

    seed: int
    style: str
    wall: Color
    wall_low: Color
    """Colour at the horizon; equal to `wall` for a flat wall."""
    floor: Color
    horizon: float
    """Height of the horizon below the upper edge, as a fraction of the frame height."""
    items: tuple[SceneItem, ...]


def sample_scene(split: str | Split, index: int, domain: PuppetDomain, salt: str = "") -> Scene:
    """Scene `index` of a split; the same arguments always give the same scene."""
    draws = Draws(seed_of(split, "scene", index, domain.name, salt))
    style = draws.choice("style", domain.scenery)
    horizon = draws.uniform("horizon", 0.68, 0.86)
    wall = vivid(draws, "wall", (0.12, 0.5), (0.62, 1.0))
    gradient = draws.chance("gradient", 0.4)
    return Scene(
        seed=draws.seed,
        style=style,
        wall=wall,
        wall_low=vivid(draws, "wall_low", (0.1, 0.4), (0.75, 1.0)) if gradient else wall,
        floor=vivid(draws, "floor", (0.2, 0.55), (0.4, 0.82)),
        horizon=horizon,
        items=_draw_items(draws.child("items"), style, horizon, domain),
    )


def _draw_items(draws: Draws, style: str, horizon: float, domain: PuppetDomain) -> tuple[SceneItem, ...]:
    if style == "plain":
        return ()
    count = draws.integer("count", *domain.scenery_items)
    items = [ITEM_MAKERS[style](draws.child(str(number)), horizon) for number in range(round(count * 2.0 * REACH))]
    if style in ("city", "trees", "hills") and draws.chance("sun", 0.5):
        glow = vivid(draws, "sun", (0.2, 0.6), (0.85, 1.0))
        size = draws.uniform("sun_size", 0.12, 0.2)
        x, y = draws.uniform("sun_x", -0.4, 0.4), draws.uniform("sun_y", 0.16, 0.3)
        items.insert(0, SceneItem(shape="disc", x=x, y=y, width=size, height=size, color=glow, accent=glow))
    return tuple(items)


def _item(draws: Draws, shape: str, y: float, width: tuple[float, float], height: tuple[float, float]) -> SceneItem:
    return SceneItem(
        shape=shape,
        x=draws.uniform("x", -REACH, REACH),
        y=y,
        width=draws.uniform("width", *width),
        height=draws.uniform("height", *height),
        color=vivid(draws, "color", (0.25, 0.65), (0.45, 0.95)),
        accent=vivid(draws, "accent", (0.2, 0.65), (0.5, 0.98)),
    )


def _shape(draws: Draws, horizon: float) -> SceneItem:
    kind = draws.choice("kind", ("disc", "box", "triangle"))
    return _item(draws, kind, draws.uniform("y", 0.2, horizon), (0.1, 0.28), (0.1, 0.28))


def _building(draws: Draws, horizon: float) -> SceneItem:
    return _item(draws, "building", horizon, (0.14, 0.26), (0.25, 0.6))


def _tree(draws: Draws, horizon: float) -> SceneItem:
    return _item(draws, draws.choice("kind", ("tree", "tree", "fir")), horizon + 0.015, (0.16, 0.28), (0.3, 0.5))


def _hill(draws: Draws, horizon: float) -> SceneItem:
    return _item(draws, "hill", horizon, (0.5, 1.1), (0.12, 0.35))


def _furniture(draws: Draws, horizon: float) -> SceneItem:
    kind = draws.choice("kind", ("window", "picture", "lamp", "cupboard"))
    if kind in ("window", "picture"):
        return _item(draws, kind, draws.uniform("y", 0.35, horizon - 0.12), (0.14, 0.26), (0.16, 0.28))
    return _item(draws, kind, horizon + 0.02, (0.12, 0.22), (0.35, 0.55))


ITEM_MAKERS = {"shapes": _shape, "city": _building, "trees": _tree, "hills": _hill, "room": _furniture}


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
        if item.shape == "hill":
            ITEM_PAINTERS[item.shape](canvas, item)
    canvas.drawRect(skia.Rect(-far, scene.horizon, far, far), _paint(scene.floor))
    for item in scene.items:
        if item.shape != "hill":
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
}
