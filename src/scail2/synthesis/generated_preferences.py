"""Preference pairs from any generator that is driven by poses: one motion, generated from good poses and twice from bad ones.

As published: p = P(y), r = G(p, R), s = G(p, S), r⁻ = G(P″(G(P′(y), R)), R); s drives, a frame of r is the reference.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scail2.data.own_preferences import found_boxes
from scail2.data.pairs import Array, Still, frames_of_all
from scail2.data.preferences import PreferencePair
from scail2.data.puppet_preferences import hand_error
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.synthesis.estimators import Estimator
from scail2.synthesis.generators.protocol import Character, Clip, Generator, Motion, Style
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.performers import found, found_again
from scail2.video import ArrayFrames, VideoReader, read_image

ANIMATION = AnimationMode.ANIMATION
_SEEDS = 8  # of each pair: two generations of r's kind, two of r⁻, three estimates


class Material(Protocol):
    """Motions and characters by number."""

    def motion(self, index: int) -> Motion:
        """The motion of a pair."""

    def characters(self, index: int, generator: np.random.Generator) -> tuple[Character, Character]:
        """Who is preferred (R), and who drives (S): two different ones."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that fix what is given."""


@dataclass(frozen=True, kw_only=True)
class DrawnMaterial:
    """Puppets: every number is another motion and two other characters."""

    frames: int = 17
    height: int = 128
    width: int = 128
    fps: float = 16.0
    domain: str = "nano"
    split: str = "train"
    salt: str = ""

    def motion(self, index: int) -> Motion:
        """See `Material`."""
        take = PuppetTake(index=index, domain=self.domain, split=self.split, salt=self.salt)
        return take.motion(frames=self.frames, height=self.height, width=self.width, fps=self.fps)

    def characters(self, index: int, generator: np.random.Generator) -> tuple[Character, Character]:
        """See `Material`; nothing is drawn."""
        world = {"domain": self.domain, "split": self.split, "salt": self.salt}
        one, other = (PuppetCharacter(index=2 * index + side, **world) for side in (0, 1))
        return one.picture(height=self.height, width=self.width), other.picture(height=self.height, width=self.width)

    def describe(self) -> dict[str, Any]:
        """All settings."""
        return {"drawn": dataclasses.asdict(self)}


@dataclass(frozen=True)
class FolderMaterial:
    """Clips and pictures of one's own: pair n has clip n, counted around, and two of the pictures.

    Attributes:
        motions, pictures: folders of videos, and of pictures of one character each.
        frames: the beginning of each clip, at most so many of them, 4k+1.
        size: height and width; None is each clip's own.
        fps: None is each clip's own.
    """

    motions: Path
    pictures: Path
    frames: int = 81
    size: tuple[int, int] | None = None
    fps: float | None = None

    @cached_property
    def _clips(self) -> list[Path]:
        return _files(self.motions, 1, "motion")

    @cached_property
    def _pictures(self) -> list[Path]:
        return _files(self.pictures, 2, "character")

    def motion(self, index: int) -> Motion:
        """See `Material`."""
        path = self._clips[index % len(self._clips)]
        film = VideoReader(path, size=self.size, fps=self.fps)
        count = min(len(film), self.frames)
        count -= (count - 1) % 4
        return Motion(name=path.name, clip=Clip(frames=film.frames(0, count), fps=float(film.fps)), source=path.name)

    def characters(self, index: int, generator: np.random.Generator) -> tuple[Character, Character]:
        """See `Material`."""
        drawn = generator.choice(len(self._pictures), 2, replace=False)
        one, other = (
            Character(name=path.name, style=Style.REAL, image=read_image(path)[..., :3], source=path.name)
            for path in (self._pictures[int(each)] for each in drawn)
        )
        return one, other

    def describe(self) -> dict[str, Any]:
        """Names and sizes of the files, and all settings."""
        files = {kind: [[each.name, each.stat().st_size] for each in paths] for kind, paths in self._named.items()}
        return {"folders": files, "frames": self.frames, "size": self.size, "fps": self.fps}

    @property
    def _named(self) -> dict[str, list[Path]]:
        return {"motions": self._clips, "pictures": self._pictures}


def _files(folder: Path, least: int, what: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    files = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    if len(files) < least:
        raise InputError(f"{folder} holds {len(files)} files: at least {least} are needed, one for each {what}.")
    return files


@dataclass(frozen=True, kw_only=True)
class GeneratedPreferences:
    """Pairs of the published construction.

    Attributes:
        material: where motions y and characters R and S come from.
        generator: G, driven by poses.
        estimator: P, whose errors the preferred and the driving video repeat.
        weaker: P′ and P″, which the rejected video went through one after the other.
    """

    material: Material
    generator: Generator
    estimator: Estimator
    weaker: Estimator

    def __post_init__(self) -> None:
        if not self.generator.facts.driven_by_poses:
            raise InputError(
                f"The generator {self.generator.facts.name} is not driven by poses, so it repeats no estimator's error: "
                "preference pairs are made by puppets, wan-animate, or own with skeletons."
            )

    def describe(self) -> dict[str, Any]:
        """What all of them say of themselves."""
        return {
            "generated preferences": self.generator.describe(),
            "material": self.material.describe(),
            "estimators": [self.estimator.describe(), self.weaker.describe()],
        }

    def preference(self, index: int, generator: np.random.Generator) -> PreferencePair:
        """Pair `index`; `generator` draws the characters and which frame is the reference.

        Raises:
            InputError: nobody is found in a clip, or no frame of the preferred one shows the character.
        """
        seeds = [_SEEDS * index + number for number in range(_SEEDS)]
        motion = self.material.motion(index)
        who, driver = self.material.characters(index, generator)
        posed = self.estimator.estimate(motion, seeds[0])
        preferred, driving = self._made(who, posed, seeds[1]), self._made(driver, posed, seeds[2])
        rejected = self._rejected(who, motion, seeds[3:])
        tracks = [self._track(each, motion) for each in (driving, preferred)]
        usable = frames_of_all(tracks[1])
        if not len(usable):
            raise InputError(f"{who.name} is seen in no frame of what was generated of {motion.name}.")
        frame = int(usable[generator.integers(len(usable))])
        boxes = self._boxes(preferred, rejected, motion)
        return PreferencePair(
            mode=ANIMATION,
            driving=driving.frames,
            driving_tracks=tracks[0],
            reference=Still(frame=preferred.frames[frame], tracks=tracks[1][:, frame]),
            preferred=preferred.frames,
            rejected=rejected.frames,
            preferred_boxes=boxes[0],
            rejected_boxes=boxes[1],
            preferred_tracks=tracks[1],
            caption=who.caption,
            meta={
                "source": "generated",
                "generator": self.generator.facts.name,
                "motion": motion.name,
                "characters": [who.name, driver.name],
                "index": index,
                "frame": frame,
            }
            | preferred.errors(rejected, motion, who),
        )

    def _rejected(self, who: Character, motion: Motion, seeds: list[int]) -> "_Generated":
        """r⁻: once more through the weaker estimator, which now looks at its own first repetition."""
        once = self.weaker.estimate(motion, seeds[0])
        first = self._made(who, once, seeds[1])
        repeated = dataclasses.replace(
            once, clip=Clip(frames=first.frames, fps=motion.clip.fps), masks=None, joints=None
        )
        return self._made(who, self.weaker.estimate(repeated, seeds[2]), seeds[3])

    def _made(self, who: Character, motion: Motion, seed: int) -> "_Generated":
        if isinstance(self.generator, PuppetGenerator):
            shot = self.generator.shot(who, motion, ANIMATION, None, seed)
            return _Generated(frames=shot.frames, shot=shot)
        return _Generated(frames=self.generator.generate(who, motion, ANIMATION, None, seed).frames)

    def _track(self, made: "_Generated", motion: Motion) -> Array:
        """Where the one character is, bool (1, T, H, W)."""
        if made.shot is not None:
            return made.shot.masks
        tracks = found_again(made.frames, motion.clip.frames)
        if not len(tracks) or not tracks.any():
            tracks = found(made.frames)
        return tracks[[int(tracks.sum(axis=(1, 2, 3)).argmax())]]

    def _boxes(self, preferred: "_Generated", rejected: "_Generated", motion: Motion) -> tuple[dict[str, Array], ...]:
        both = []
        for name, made in (("preferred", preferred), ("rejected", rejected)):
            if made.shot is not None:
                boxes = {"hands": made.shot.hand_boxes.transpose(0, 2, 1, 3).reshape(-1, len(made.frames), 4)}
            else:
                boxes = found_boxes(ArrayFrames(made.frames))
            if not boxes:
                raise InputError(f"Nobody's hands were found in the {name} video of {motion.name}.")
            both.append(boxes)
        return both[0], both[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Generated:
    """Frames uint8 (T, H, W, 3), and what the renderer knows of them where it drew them."""

    frames: Array
    shot: Any = None

    def errors(self, rejected: "_Generated", motion: Motion, who: Character) -> dict[str, float]:
        """How far the hands of both are from the true motion, in hand sizes; nothing where nobody knows it."""
        if self.shot is None or rejected.shot is None:
            return {}
        truth = PuppetGenerator().shot(who, motion, ANIMATION, None, 0)
        return {
            "preferred_error": round(hand_error(self.shot, truth), 4),
            "rejected_error": round(hand_error(rejected.shot, truth), 4),
        }
