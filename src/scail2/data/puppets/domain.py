"""The variety knobs of the puppet world, and its two named settings."""

from dataclasses import dataclass


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
