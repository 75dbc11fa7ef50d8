"""Who is in the picture: bodies, faces and clothes."""

from colorsys import hsv_to_rgb
from dataclasses import dataclass

from scail2.data.puppets.domain import PuppetDomain
from scail2.data.puppets.seeds import Draws, Split, seed_of
from scail2.data.puppets.skeleton import Body

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
class Character:
    """One puppet: everything about its look, nothing about its motion. Its seed names its split."""

    kind: str
    seed: int
    body: Body
    face: Face
    outfit: Outfit
    digits: tuple[int, ...]


def sample_character(split: str | Split, index: int, domain: PuppetDomain, salt: str = "") -> Character:
    """Character `index` of a split; the same arguments always give the same character."""
    draws = Draws(seed_of(split, "character", index, domain.name, salt))
    return Character(
        kind=draws.choice("kind", domain.kinds),
        seed=draws.seed,
        body=_draw_body(draws.child("body"), domain),
        face=_draw_face(draws.child("face"), domain),
        outfit=_draw_outfit(draws.child("outfit"), domain),
        digits=domain.digits,
    )


def vivid(draws: Draws, name: str, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
    """A colour of any hue with the given saturation and brightness ranges (0 to 1)."""
    hue = draws.unit(f"{name}.hue")
    rgb = hsv_to_rgb(hue, draws.uniform(f"{name}.saturation", *saturation), draws.uniform(f"{name}.value", *value))
    return tuple(round(255 * channel) for channel in rgb)


def _draw_body(draws: Draws, domain: PuppetDomain) -> Body:
    spread = domain.proportion_spread

    def length(name: str, middle: float) -> float:
        return draws.around(name, middle, spread)

    stature = draws.around("stature", 1.0, 0.4 * spread)
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


def _draw_face(draws: Draws, domain: PuppetDomain) -> Face:
    skins = FANTASY_SKINS if draws.chance("fantasy", 0.15) else SKINS
    return Face(
        skin=draws.choice("skin", skins),
        hair_style=draws.choice("hair_style", domain.hair_styles),
        hair=draws.choice("hair", HAIRS),
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
