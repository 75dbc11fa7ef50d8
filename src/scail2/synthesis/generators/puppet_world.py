"""Drawn characters and motions as pools have them: pictures and clips whose `source` names what was drawn, so that whoever knows
the renderer can draw it again, as it is or performed by somebody else."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np

from scail2 import puppets
from scail2.data.pairs import paint_tracks
from scail2.data.puppet_source import PuppetSource, repeated
from scail2.errors import InputError
from scail2.files.documents import Between, parse_json
from scail2.perception.segmenters.people.joints import HANDS, Joints
from scail2.perception.segmenters.people.network import NUM_JOINTS
from scail2.puppets import JOINT_NAMES, Performance, PuppetClip, Scene
from scail2.synthesis.generators.protocol import Character, Clip, Motion, Style

_CHARACTER, _TAKE = "puppet:character:", "puppet:take:"
# Pool characters are the side of a numbered pair that a motion's own performers never are.
_OWN_SIDE, _POOL_SIDE = 1, 0
_TAKE_BOUNDS = Between(1, 6)


@dataclass(frozen=True, kw_only=True, slots=True)
class PuppetCharacter:
    """A character of the pool by its number; as text, the `source` of its picture."""

    index: int
    domain: str = "nano"
    split: str = "train"
    salt: str = ""

    def __str__(self) -> str:
        return _CHARACTER + _stated(self)

    @classmethod
    def parse(cls, source: str) -> "PuppetCharacter":
        """Of a `source`; raises InputError for one that names no puppet."""
        return parse_json(_after(source, _CHARACTER, "a drawn character"), cls, source)

    @property
    def puppet(self) -> puppets.Character:
        """Who it is."""
        return self._world.performances(self.index, _POOL_SIDE, 1)[0].character

    @property
    def scene(self) -> Scene:
        """The environment of its picture."""
        return self._world.scene(self.index, _POOL_SIDE)

    @property
    def _world(self) -> PuppetSource:
        return _world(self.domain, self.split, self.salt)

    def picture(self, *, height: int, width: int, style: Style = Style.TWO_D, seed: int = 0) -> Character:
        """The character in its scene, in a pose of its own."""
        world = dataclasses.replace(self._world, height=height, width=width)
        cast = world.performances(self.index, _POOL_SIDE, 1)
        still = world.still(cast, self.index, _POOL_SIDE, self.scene, np.random.default_rng([seed, self.index]))
        return Character(
            name=f"puppet {self.split} {self.index}",
            style=style,
            image=still.frame,
            mask=paint_tracks(still.tracks[:, None])[0],
            caption=f"A flat-shaded drawing of a {self.puppet.kind} before {self.scene.style} scenery.",
            source=str(self),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """One estimator's error that a motion has been through."""

    error: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PuppetTake:
    """A motion by its number; as text, the `source` of its clip.

    Attributes:
        start: seconds into the performance.
        replaced: who stands in for the performer of that place, in the order it happened.
        estimates: the errors that its performances have; a pose-driven generator repeats them.
    """

    index: int
    domain: str = "nano"
    split: str = "train"
    salt: str = ""
    characters: Annotated[int, _TAKE_BOUNDS] = 1
    start: float = 0.0
    replaced: tuple[tuple[int, str], ...] = ()
    estimates: tuple[Estimate, ...] = ()

    def __str__(self) -> str:
        return _TAKE + _stated(self)

    @classmethod
    def parse(cls, source: str) -> "PuppetTake":
        """Of a `source`; raises InputError for one that names no drawn motion."""
        return parse_json(_after(source, _TAKE, "a drawn motion"), cls, source)

    def cast(self) -> list[Performance]:
        """Who performs, with the errors of its estimates."""
        cast = _world(self.domain, self.split, self.salt).performances(self.index, _OWN_SIDE, self.characters)
        for place, source in self.replaced:
            if not 0 <= place < len(cast):
                raise InputError(f"{self} replaces performer {place}, of {len(cast)}.")
            cast[place] = dataclasses.replace(cast[place], character=PuppetCharacter.parse(source).puppet)
        for each in self.estimates:
            cast = repeated(cast, each.error, [each.seed + number for number in range(len(cast))])
        return cast

    def shot(self, like: Clip, cast: Sequence[Performance] | None = None, scene: Scene | None = None) -> PuppetClip:
        """The take, or another cast or scene in its place and before its camera, in a clip's length, rate and size."""
        world = _world(self.domain, self.split, self.salt)
        height, width = like.size
        return puppets.render(
            self.cast() if cast is None else cast,
            scene or world.scene(self.index, _OWN_SIDE),
            frames=len(like.frames),
            height=height,
            width=width,
            fps=like.fps,
            start=self.start,
            camera=world.camera(self.index),
        )

    def motion(self, *, frames: int, height: int, width: int, fps: float = 16.0, joints: bool = True) -> Motion:
        """The take as a clip, with its true masks and, if wanted, joints."""
        like = Clip(frames=np.zeros((frames, height, width, 3), np.uint8), fps=fps)
        shot = self.shot(like)
        return Motion(
            name=f"puppet motion {self.split} {self.index}",
            clip=Clip(frames=shot.frames, fps=fps),
            masks=paint_tracks(shot.masks),
            joints=people_joints(shot) if joints else None,
            source=str(self),
        )


def take_replaced(motion: Motion, place: int, character: Character, clip: Clip) -> Motion:
    """A drawn motion after a generator has put a drawn character in a performer's place: the input of the next replacement."""
    take = PuppetTake.parse(motion.source)
    replaced = (*take.replaced, (place, str(PuppetCharacter.parse(character.source))))
    take = dataclasses.replace(take, replaced=replaced)
    shot = take.shot(clip)
    return dataclasses.replace(
        motion, clip=clip, masks=paint_tracks(shot.masks), joints=people_joints(shot), source=str(take)
    )


_LIMB_JOINTS = {"shoulder": 11, "elbow": 13, "wrist": 15, "hip": 23, "knee": 25, "ankle": 27, "toe": 31}
_FINGERS = ("little_knuckle", "index_knuckle", "thumb_knuckle")
# Faces have no joints of their own: places by the head's middle, in half heights of the head to its left and up.
_FACE_PLACES = (
    (0.0, 0.0), (-0.15, 0.2), (-0.25, 0.2), (-0.35, 0.2), (0.15, 0.2), (0.25, 0.2), (0.35, 0.2), (-0.7, 0.05), (0.7, 0.05),
    (-0.2, -0.4), (0.2, -0.4),
)  # fmt: skip


def people_joints(shot: PuppetClip) -> Joints:
    """The joints of puppets under the names that joints of people have; the left ones are their own left."""
    characters, frames = shot.joints.shape[:2]
    number = {name: place for place, name in enumerate(JOINT_NAMES)}
    places = np.zeros((characters, frames, NUM_JOINTS, 2), np.float32)
    visibility = np.zeros(places.shape[:3], np.float32)
    for offset, side in enumerate(("left", "right")):
        names = {joint + offset: f"{name}_{side}" for name, joint in _LIMB_JOINTS.items()}
        names |= {29 + offset: f"ankle_{side}"}
        names |= {joint: f"{name}_{side}" for joint, name in zip(HANDS[side][1:], _FINGERS, strict=True)}
        for joint, name in names.items():
            places[:, :, joint] = shot.joints[:, :, number[name]]
            visibility[:, :, joint] = shot.joint_visible[:, :, number[name]]
    head = shot.joints[:, :, number["head"]]
    up = shot.joints[:, :, number["head_top"]] - head
    # Pixels count down: the left of somebody who faces the viewer is to the right of the picture.
    left = np.stack([-up[..., 1], up[..., 0]], axis=-1)
    for joint, (to_right, above) in enumerate(_FACE_PLACES):
        places[:, :, joint] = head - to_right * left + above * up
        visibility[:, :, joint] = shot.joint_visible[:, :, number["head"]]
    return Joints(places=places, visibility=visibility)


@cache
def _world(domain: str, split: str, salt: str) -> PuppetSource:
    return PuppetSource(domain=domain, split=split, salt=salt)


def _stated(value: PuppetCharacter | PuppetTake) -> str:
    """JSON of the fields that are not their defaults."""
    own = dataclasses.asdict(value)
    defaults = {each.name: each.default for each in dataclasses.fields(value)}
    return json.dumps({name: each for name, each in own.items() if each != defaults[name]}, separators=(",", ":"))


def _after(source: str, beginning: str, what: str) -> str:
    if not source.startswith(beginning):
        raise InputError(
            f"{source or 'A clip without a source'!r} names no {what.removeprefix('a ')}: it begins with no {beginning}"
        )
    return source.removeprefix(beginning)
