"""Who is in the picture: bodies, faces and clothes."""

from collections.abc import Callable
from colorsys import hsv_to_rgb
from dataclasses import dataclass

from scail2.puppets.domain import PuppetDomain
from scail2.puppets.seeds import Draws, Split, seed_of
from scail2.puppets.skeleton import Body

Color = tuple[int, int, int]

SKINS: tuple[Color, ...] = (
    (255, 224, 196),
    (247, 205, 170),
    (234, 182, 140),
    (214, 154, 108),
    (184, 122, 78),
    (148, 92, 58),
    (112, 68, 44),
    (84, 50, 34),
)
FANTASY_SKINS: tuple[Color, ...] = ((122, 196, 110), (120, 150, 235), (176, 130, 226), (236, 130, 150))
HAIRS: tuple[Color, ...] = (
    (38, 26, 22),
    (78, 46, 24),
    (140, 78, 34),
    (222, 176, 74),
    (196, 70, 32),
    (150, 150, 156),
    (232, 72, 150),
    (70, 120, 230),
    (90, 190, 90),
)
GREY_HAIRS: tuple[Color, ...] = ((236, 236, 238), (188, 188, 194), (140, 140, 148))
FURS: tuple[Color, ...] = (
    (232, 160, 82),
    (120, 84, 58),
    (64, 58, 60),
    (236, 228, 214),
    (168, 168, 176),
    (204, 120, 60),
    (244, 204, 128),
)
STATURES = {"child": 0.78, "adult": 1.0, "elder": 0.95}
"""Factor on the lengths of trunk and limbs; heads and hands keep their size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outfit:
    """Clothes and their colours."""

    shirt: Color
    accent: Color
    shirt_pattern: str
    """"plain", "stripe", "belt" or "badge"."""
    sleeves: float
    """Covered share of the arm, 0 to 1 (0.5 ends at the elbow)."""
    bottom_kind: str
    bottom: Color
    shoe: Color


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """Head and face."""

    skin: Color
    hair_style: str
    hair: Color
    hat: str
    hat_color: Color
    eye_size: float
    """Radius of an eye in skull half heights."""
    eye_gap: float
    mouth: float
    """Half width of the mouth in skull half heights."""
    smile: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Extras:
    """What not everybody wears or carries."""

    glasses: str = "none"
    glasses_color: Color = (30, 30, 36)
    beard: str = "none"
    gloves: Color | None = None
    prop: str = "none"
    prop_color: Color = (220, 60, 60)
    prop_side: str = "right"


@dataclass(frozen=True, kw_only=True, slots=True)
class Coat:
    """Fur of an animal."""

    species: str
    fur: Color
    belly: Color
    accent: Color
    paw: Color
    tuft: Color
    pattern: str
    ears: str
    muzzle: float
    """Length of the muzzle, 0 to 1."""
    tail: float
    """Length of the tail in body heights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """One puppet: everything about its look, nothing about its motion. Its seed names its split."""

    kind: str
    seed: int
    body: Body
    face: Face
    outfit: Outfit
    digits: tuple[int, ...]
    age: str = "adult"
    extras: Extras = Extras()
    coat: Coat | None = None
    """Animals only."""


def sample_character(split: str | Split, index: int, domain: PuppetDomain, salt: str = "") -> Character:
    """Character `index` of a split; the same arguments always give the same character."""
    draws = Draws(seed_of(split, "character", index, domain.name, salt))
    kind = draws.choice("kind", domain.kinds)
    age = draws.choice("age", domain.ages)
    animal = kind == "animal"
    body = _draw_animal_body(draws.child("body"), domain) if animal else _draw_body(draws.child("body"), domain, age)
    return Character(
        kind=kind,
        seed=draws.seed,
        body=body,
        face=_draw_face(draws.child("face"), domain, age),
        outfit=_draw_outfit(draws.child("outfit"), domain),
        digits=domain.digits,
        age=age,
        extras=_draw_extras(draws.child("extras"), domain),
        coat=_draw_coat(draws.child("coat")) if animal else None,
    )


def each_channel(color: tuple[float, float, float], change: Callable[[float], int]) -> Color:
    """A colour from another one, channel by channel."""
    red, green, blue = color
    return change(red), change(green), change(blue)


def vivid(draws: Draws, name: str, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
    """A colour of any hue with the given saturation and brightness ranges (0 to 1)."""
    hue = draws.unit(f"{name}.hue")
    rgb = hsv_to_rgb(hue, draws.uniform(f"{name}.saturation", *saturation), draws.uniform(f"{name}.value", *value))
    return each_channel(rgb, lambda channel: round(255 * channel))


def _draw_body(draws: Draws, domain: PuppetDomain, age: str) -> Body:
    spread = domain.proportion_spread

    def length(name: str, middle: float) -> float:
        return draws.around(name, middle, spread)

    stature = draws.around("stature", 1.0, 0.4 * spread) * STATURES[age]
    limb = domain.limb_width * draws.uniform("build", 1.0 - 0.5 * spread, 1.0 + spread)
    return Body(
        head=length("head", 0.122),
        head_width=length("head_width", 0.108),
        neck=length("neck", 0.025),
        torso=stature * length("torso", 0.285),
        shoulder=length("shoulder", 0.112),
        hip=length("hip", 0.062),
        depth=length("depth", 0.12),
        upper_arm=stature * length("upper_arm", 0.150),
        forearm=stature * length("forearm", 0.140),
        palm=length("palm", 0.062),
        finger=length("finger", 0.060),
        thigh=stature * length("thigh", 0.195),
        shin=stature * length("shin", 0.185),
        foot=length("foot", 0.085),
        arm_width=limb,
        leg_width=limb * length("leg_width", 1.22),
        finger_width=0.027,
    )


def _draw_animal_body(draws: Draws, domain: PuppetDomain) -> Body:
    spread = 0.8 * domain.proportion_spread

    def length(name: str, middle: float) -> float:
        return draws.around(name, middle, spread)

    depth, leg = length("depth", 0.25), draws.around("leg", 0.92, spread)
    return Body(
        head=length("head", 0.125),
        head_width=0.115,
        neck=length("neck", 0.12),
        torso=length("torso", 0.43),
        shoulder=0.34 * depth,
        hip=0.34 * depth,
        depth=depth,
        upper_arm=0.205 * leg,
        forearm=0.2 * leg,
        palm=0.05,
        finger=0.04,
        thigh=0.215 * leg,
        shin=0.225 * leg,
        foot=length("foot", 0.075),
        arm_width=0.075,
        leg_width=length("leg_width", 0.082),
        finger_width=0.03,
    )


def _draw_face(draws: Draws, domain: PuppetDomain, age: str) -> Face:
    skins = FANTASY_SKINS if draws.chance("fantasy", 0.15) else SKINS
    return Face(
        skin=draws.choice("skin", skins),
        hair_style=draws.choice("hair_style", domain.hair_styles),
        hair=draws.choice("hair", GREY_HAIRS if age == "elder" else HAIRS),
        hat=draws.choice("hat", domain.hats) if draws.chance("wears_hat", domain.hat_chance) else "none",
        hat_color=vivid(draws, "hat_color", (0.55, 0.95), (0.5, 0.95)),
        eye_size=draws.uniform("eye_size", 0.15, 0.2),
        eye_gap=draws.uniform("eye_gap", 0.34, 0.44),
        mouth=draws.uniform("mouth", 0.22, 0.36),
        smile=draws.uniform("smile", -0.06, 0.22),
    )


def _draw_outfit(draws: Draws, domain: PuppetDomain) -> Outfit:
    return Outfit(
        shirt=vivid(draws, "shirt", (0.6, 0.95), (0.55, 1.0)),
        accent=vivid(draws, "accent", (0.5, 0.95), (0.6, 1.0)),
        shirt_pattern=draws.choice("shirt_pattern", ("plain", "plain", "stripe", "belt", "badge")),
        sleeves=draws.choice("sleeves", (0.0, 0.28, 0.28, 0.5, 1.0, 1.0)),
        bottom_kind=draws.choice("bottom_kind", domain.bottoms),
        bottom=vivid(draws, "bottom", (0.45, 0.9), (0.3, 0.85)),
        shoe=vivid(draws, "shoe", (0.3, 0.95), (0.2, 0.95)),
    )


def _draw_extras(draws: Draws, domain: PuppetDomain) -> Extras:
    chance = domain.extras_chance

    def some(name: str, options: tuple[str, ...]) -> str:
        return draws.choice(name, options) if draws.chance(f"has_{name}", chance) else "none"

    return Extras(
        glasses=some("glasses", ("round", "square", "shades")),
        glasses_color=draws.choice("glasses_color", ((30, 30, 36), (190, 40, 50), (40, 70, 170))),
        beard=some("beard", ("full", "goatee", "moustache")),
        gloves=vivid(draws, "gloves", (0.4, 0.9), (0.5, 1.0)) if draws.chance("has_gloves", 0.5 * chance) else None,
        prop=some("prop", domain.props) if domain.props else "none",
        prop_color=vivid(draws, "prop", (0.6, 0.95), (0.6, 1.0)),
        prop_side=draws.choice("prop_side", ("left", "right")),
    )


SPECIES = {
    "cat": ("pointed", 0.25, 0.3),
    "dog": ("hanging", 0.75, 0.24),
    "bear": ("round", 0.5, 0.08),
    "horse": ("pointed", 1.0, 0.3),
    "fox": ("pointed", 0.7, 0.32),
}
"""Ears, muzzle length and tail length."""


def _draw_coat(draws: Draws) -> Coat:
    species = draws.choice("species", tuple(SPECIES))
    ears, muzzle, tail = SPECIES[species]
    fantasy = draws.chance("fantasy", 0.2)
    fur = vivid(draws, "fur", (0.35, 0.7), (0.6, 0.95)) if fantasy else draws.choice("fur", FURS)
    return Coat(
        species=species,
        fur=fur,
        belly=each_channel(fur, lambda channel: min(255, round(0.55 * channel + 112))),
        accent=vivid(draws, "accent", (0.2, 0.7), (0.3, 0.9)) if fantasy else draws.choice("accent", FURS),
        paw=each_channel(fur, lambda channel: round(0.7 * channel)),
        tuft=draws.choice("tuft", HAIRS),
        pattern=draws.choice("pattern", ("plain", "stripes", "spots", "socks")),
        ears=ears,
        muzzle=draws.around("muzzle", muzzle, 0.15),
        tail=draws.around("tail", tail, 0.2),
    )
