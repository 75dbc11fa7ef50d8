"""Where it happens: flat backgrounds from plain to busy."""

from dataclasses import dataclass

from scail2.puppets.characters import Color, vivid
from scail2.puppets.domain import PuppetDomain
from scail2.puppets.drawing import shade
from scail2.puppets.seeds import Draws, Split, seed_of

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
    dark = draws.chance("night", domain.night_chance)
    dim = 0.35 if dark else 1.0
    wall = shade(vivid(draws, "wall", (0.12, 0.5), (0.62, 1.0)), dim)
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
    if style in ("city", "trees", "hills", "street", "park") and draws.chance("sun", 0.5):
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


def _street_thing(draws: Draws, horizon: float) -> SceneItem:
    kind = draws.choice("thing", ("building", "building", "tree", "post", "cloud"))
    if kind == "building":
        return _building(draws, horizon)
    if kind == "tree":
        return _tree(draws, horizon)
    if kind == "cloud":
        return _item(draws, "cloud", draws.uniform("y", 0.12, 0.35), (0.2, 0.4), (0.06, 0.1))
    return _item(draws, "post", horizon + 0.05, (0.08, 0.12), (0.4, 0.55))


def _park_thing(draws: Draws, horizon: float) -> SceneItem:
    kind = draws.choice("thing", ("hill", "tree", "tree", "bush", "cloud", "fence"))
    if kind == "hill":
        return _hill(draws, horizon)
    if kind == "tree":
        return _tree(draws, horizon)
    if kind == "cloud":
        return _item(draws, "cloud", draws.uniform("y", 0.12, 0.35), (0.2, 0.4), (0.06, 0.1))
    if kind == "fence":
        return _item(draws, "fence", horizon + 0.04, (0.3, 0.6), (0.1, 0.15))
    return _item(draws, "bush", horizon + 0.05, (0.15, 0.35), (0.1, 0.18))


def _stage_thing(draws: Draws, horizon: float) -> SceneItem:
    kind = draws.choice("thing", ("curtain", "curtain", "star", "disc"))
    if kind == "curtain":
        return _item(draws, "curtain", horizon, (0.16, 0.4), (0.9, 1.0))
    return _item(draws, kind, draws.uniform("y", 0.15, 0.6), (0.08, 0.2), (0.08, 0.2))


def _pattern_thing(draws: Draws, horizon: float) -> SceneItem:
    """Wallpaper: large panels of small repeated marks."""
    kind = draws.choice("thing", ("dots", "stripes", "checks"))
    return _item(draws, kind, horizon, (0.35, 0.9), (0.5, 1.0))


ITEM_MAKERS = {
    "shapes": _shape,
    "city": _building,
    "trees": _tree,
    "hills": _hill,
    "room": _furniture,
    "street": _street_thing,
    "park": _park_thing,
    "stage": _stage_thing,
    "pattern": _pattern_thing,
}
