"""Pools of drawn puppets: any number of motions and characters, all truth known."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any

import numpy as np

from scail2 import puppets
from scail2.data import pairs
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between
from scail2.synthesis.generators.protocol import Character, Style
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake
from scail2.synthesis.pools.protocol import STYLE_SHARES, PoolMotion

_MANY = Between(1, 10**7)
_STARTS = 8.0  # seconds of a performance in which clips begin
_CHARACTER = "puppet-"


@dataclass(frozen=True, kw_only=True)
class DrawnMotions:
    """So many motions of puppets.

    Attributes:
        performers: of motions with several.
        poses: whether pose renders come with every motion.
    """

    size: Annotated[int, _MANY] = 1000
    domain: str = "nano"
    split: str = "train"
    salt: str = ""
    frames: Annotated[int, Between(1, 1000)] = 17
    height: Annotated[int, Between(16, 4096)] = 128
    width: Annotated[int, Between(16, 4096)] = 128
    fps: Annotated[float, Between(1, 240)] = 16.0
    performers: Annotated[int, Between(2, 6)] = 2
    poses: bool = True

    def __post_init__(self) -> None:
        if self.frames % 4 != 1:
            raise InputError(f"Clips have 4k+1 frames, not {self.frames}.")
        pairs.check_sides(self.height, self.width)
        puppets.Split.parse(self.split)
        puppets.domain_named(self.domain)

    def draw(self, kind: SampleKind, seed: int) -> str:
        """See `MotionPool`."""
        random = np.random.default_rng([seed, 1])
        index = int(random.integers(self.size))
        start = float(np.random.default_rng([index, 2]).uniform(0.0, _STARTS))
        count = self.performers if kind.is_multi else 1
        return str(
            PuppetTake(
                index=index,
                domain=self.domain,
                split=self.split,
                salt=self.salt,
                characters=count,
                start=round(start, 4),
            )
        )

    def motion(self, name: str) -> PoolMotion:
        """See `MotionPool`."""
        return _drawn_motion(self, name)

    @property
    def num_parts(self) -> int:
        """Part classes of the clips' part maps."""
        return len(puppets.PART_NAMES)

    def describe(self) -> dict[str, Any]:
        """All settings."""
        return {"pool": "puppets", **dataclasses.asdict(self)}


@lru_cache(maxsize=4)
def _drawn_motion(pool: DrawnMotions, name: str) -> PoolMotion:
    take = PuppetTake.parse(name)
    motion = take.motion(frames=pool.frames, height=pool.height, width=pool.width, fps=pool.fps)
    shot = take.shot(motion.clip)
    pose, pose_tracks = (
        puppets.draw_poses(shot.joints, height=pool.height, width=pool.width) if pool.poses else (None, None)
    )
    real = pairs.Clip(
        frames=shot.frames,
        tracks=shot.masks,
        parts=shot.parts,
        hand_boxes=shot.hand_boxes,
        pose=pose,
        pose_tracks=pose_tracks,
        pose_joints=shot.joints if pool.poses else None,
        caption=described_take(take),
    )
    meta = {"start": take.start, "split": take.split, "salt": take.salt, "licence": "Apache-2.0"}
    meta["fps"] = str(Fraction(pool.fps).limit_denominator(1001))
    return PoolMotion(motion=motion, real=real, meta=meta)


def described_take(take: PuppetTake) -> str:
    """A drawn clip in words."""
    who = " and ".join(f"a {each.character.kind} who does {each.motion.program}" for each in take.cast())
    return f"A flat-shaded drawing of {who}."


@dataclass(frozen=True, kw_only=True)
class DrawnCharacters:
    """So many puppets, labelled with the three styles in the published proportions (they are all drawn alike)."""

    size: Annotated[int, _MANY] = 1000
    domain: str = "nano"
    split: str = "train"
    salt: str = ""
    height: Annotated[int, Between(16, 4096)] = 128
    width: Annotated[int, Between(16, 4096)] = 128

    def __post_init__(self) -> None:
        pairs.check_sides(self.height, self.width)

    def draw(self, count: int, seed: int, without: Collection[str]) -> list[str]:
        """See `CharacterPool`."""
        wanted = min(self.size, count + len(without))
        order = np.random.default_rng([seed, 3]).choice(self.size, wanted, replace=False)
        names = (f"{_CHARACTER}{index}" for index in order)
        return [name for name in names if name not in without][:count]

    def character(self, name: str) -> Character:
        """See `CharacterPool`."""
        return _drawn_character(self, self._index(name))

    def is_standing(self, name: str) -> bool:
        """Never: they are drawn in scenes of their own."""
        return False

    def meta(self, name: str) -> dict[str, Any]:
        """The style and the licence."""
        return {"style": _style(self._index(name)).value, "licence": "Apache-2.0"}

    def describe(self) -> dict[str, Any]:
        """All settings."""
        return {"pool": "puppets", **dataclasses.asdict(self)}

    def _index(self, name: str) -> int:
        number = name.removeprefix(_CHARACTER)
        if not (name.startswith(_CHARACTER) and number.isdecimal() and int(number) < self.size):
            raise InputError(f"{name} is no character of this pool of {self.size} puppets.")
        return int(number)


def _style(index: int) -> Style:
    """Of character `index`: evenly spread, so that any stretch of numbers has the published proportions."""
    shares = np.array(list(STYLE_SHARES.values()))
    place = (index + 0.5) * (5**0.5 - 1) / 2 % 1.0  # the golden ratio's multiples fill [0, 1) evenly
    return Style(list(STYLE_SHARES)[int(np.searchsorted(np.cumsum(shares) / shares.sum(), place, side="right"))])


@lru_cache(maxsize=64)
def _drawn_character(pool: DrawnCharacters, index: int) -> Character:
    who = PuppetCharacter(index=index, domain=pool.domain, split=pool.split, salt=pool.salt)
    character = who.picture(height=pool.height, width=pool.width, style=_style(index))
    return dataclasses.replace(character, name=f"{_CHARACTER}{index}")
