"""The variety knobs of the puppet world, and its two named settings."""

from dataclasses import dataclass, replace

from scail2.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class PuppetDomain:
    """How varied the puppets, their motions and their pictures are.

    Lengths are fractions of the standing body height or of the frame height, angles degrees, speeds cycles a second.
    The name enters every seed: two domains of different names share no character, motion or scene.
    """

    name: str
    kinds: tuple[str, ...]
    """Character kinds to draw from."""
    proportion_spread: float
    """Each body length varies by this fraction around its middle."""
    limb_width: float
    """Middle width of the forearm; the other widths follow it."""
    digits: tuple[int, ...]
    """Fingers drawn on each hand, 0 is the thumb."""
    hair_styles: tuple[str, ...]
    hats: tuple[str, ...]
    hat_chance: float
    bottoms: tuple[str, ...]
    extras_chance: float
    """Chance of each extra: glasses, beard, gloves, prop."""
    programs: tuple[str, ...]
    """Motion programs to draw from."""
    speed: tuple[float, float]
    """Range of the base frequency."""
    yaw: float
    """Largest angle between the character's facing and the camera."""
    camera_spread: float
    """0: the camera stands still; 1: full pans, zooms and orbits."""
    scenery: tuple[str, ...]
    scenery_items: tuple[int, int]
    solo_height: tuple[float, float]
    """Standing height of a single character as a fraction of the frame height."""
    group_height: tuple[float, float]
    """The same for each of several characters."""
    ages: tuple[str, ...] = ("adult",)
    props: tuple[str, ...] = ()
    night_chance: float = 0.0
    """Share of dark scenes."""
    close_up_chance: float = 0.0
    """Share of clips that show the upper body only."""


NANO = PuppetDomain(
    name="nano",
    kinds=("person",),
    proportion_spread=0.12,
    limb_width=0.088,
    digits=(0, 1, 2, 4),
    hair_styles=("short", "long", "bun", "afro", "spiky", "pigtails", "bald"),
    hats=("cap", "beanie", "top", "cone"),
    hat_chance=0.4,
    bottoms=("trousers", "trousers", "shorts", "skirt"),
    extras_chance=0.0,
    programs=("curves", "curves", "wave", "squat", "sidestep", "dance", "dance", "turn", "jack", "march"),
    speed=(0.38, 0.58),
    yaw=35.0,
    camera_spread=0.0,
    scenery=("plain", "shapes", "city", "trees", "hills", "room"),
    scenery_items=(2, 6),
    solo_height=(0.80, 0.87),
    group_height=(0.62, 0.72),
)
"""What the embedded checkpoint learns: large, thick-limbed people moving slowly before a camera that stands still."""

NANO_ANIMALS = replace(NANO, name="nano-animals", kinds=("animal",))
NANO_ROBOTS = replace(NANO, name="nano-robots", kinds=("robot",))
"""The same pictures with others in them: animals that move as animals do, robots as robots do."""

FULL = PuppetDomain(
    name="full",
    kinds=("person", "person", "person", "person", "robot", "animal"),
    proportion_spread=0.25,
    limb_width=0.072,
    digits=(0, 1, 2, 3, 4),
    hair_styles=(*NANO.hair_styles, "ponytail", "bob", "mohawk"),
    hats=(*NANO.hats, "brim", "crown", "helmet", "headband"),
    hat_chance=0.45,
    bottoms=("trousers", "trousers", "shorts", "skirt", "dress"),
    extras_chance=0.3,
    programs=(
        *("curves", "wave", "squat", "sidestep", "dance", "dance", "turn", "jack", "march"),
        *("walk", "walk", "run", "jump", "hop", "sit", "sit_down", "kick", "box"),
        *("bow", "stretch", "clap", "point", "count", "spin", "free", "free"),
    ),
    speed=(0.4, 1.1),
    yaw=80.0,
    camera_spread=1.0,
    scenery=("plain", "shapes", "city", "trees", "hills", "room", "street", "park", "stage", "pattern"),
    scenery_items=(2, 10),
    solo_height=(0.55, 0.86),
    group_height=(0.45, 0.74),
    ages=("adult", "adult", "adult", "child", "elder"),
    props=("ball", "stick", "sword", "balloon", "umbrella", "cup", "flag", "phone"),
    night_chance=0.2,
    close_up_chance=0.12,
)
"""Everything the renderer can show."""

DOMAINS = {domain.name: domain for domain in (NANO, NANO_ANIMALS, NANO_ROBOTS, FULL)}


def domain_named(name: str) -> PuppetDomain:
    """The domain called `name`; raises InputError for an unknown one."""
    if name not in DOMAINS:
        raise InputError(f"Unknown puppet domain {name!r}: use one of {', '.join(DOMAINS)}.")
    return DOMAINS[name]
