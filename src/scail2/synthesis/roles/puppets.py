"""Roles played with the renderer's truth: an editor that errs at set rates, and a judge of pixels who knows what is right.

They make the loop's decisions checkable. The editor says in its pictures' `source` what they show, errors included; the judge
does not read that, but compares the picture with the one the renderer would have drawn.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import numpy as np

from scail2 import puppets
from scail2.errors import InputError
from scail2.files.documents import Between, parse_json
from scail2.puppets import Performance, PuppetClip, Scene
from scail2.puppets.pose_error import STRONG, DistortedMotion
from scail2.puppets.skeleton import DOF_NAMES
from scail2.synthesis.generators.protocol import Array, Character, Clip, Motion
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake
from scail2.synthesis.roles.protocol import Choice, Edit, Finding, Made, Picture, Ruling, Task, Told

_SOURCE = "puppet:picture:"
_RATE = Between(0.0, 1.0)
_STAND = puppets.Motion(
    seed=0,
    program="stand",
    mean=np.zeros(len(DOF_NAMES)),
    amplitude=np.zeros((len(DOF_NAMES), 3)),
    frequency=np.zeros((len(DOF_NAMES), 3)),
    phase=np.zeros((len(DOF_NAMES), 3)),
    rate=np.zeros(len(DOF_NAMES)),
    plant=1.0,
)


class Fault(StrEnum):
    """What an edit can get wrong."""

    POSE = "pose"
    ENVIRONMENT = "environment"
    CHARACTER = "character"


FAULT_SHARES = {Fault.POSE: 0.5, Fault.ENVIRONMENT: 0.3, Fault.CHARACTER: 0.2}
"""Of the edits that err."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PuppetPicture:
    """What a drawn picture shows; as text, its `source`.

    Attributes:
        character: source of whoever is shown.
        home: source of the character in whose scene; its own, where it is the right one.
        take: source of the motion whose first frame gave the posture; `performer` of it.
        stands: standing before white instead.
        pose_seed: of a wrong posture; None for the right one.
        leaked: the motion's scene, where the character's (or white) belongs.
    """

    character: str
    home: str
    take: str
    performer: int = 0
    stands: bool = False
    pose_seed: int | None = None
    leaked: bool = False

    def __str__(self) -> str:
        return _SOURCE + json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, source: str) -> "PuppetPicture":
        """Of a `source`; raises InputError for one that is no drawn picture's."""
        if not source.startswith(_SOURCE):
            raise InputError(
                f"{source or 'A picture without a source'!r} is no drawn picture's: it does not begin with {_SOURCE}"
            )
        return parse_json(source.removeprefix(_SOURCE), cls, source)

    def shot(self, like: Clip) -> PuppetClip:
        """One frame of it, in the size of a clip's."""
        take = PuppetTake.parse(self.take)
        performance = take.cast()[self.performer]
        who = PuppetCharacter.parse(self.character)
        motion = _STAND if self.stands else performance.motion
        if self.pose_seed is not None:
            motion = _wrong_motion(motion, self.pose_seed)
        performance = dataclasses.replace(performance, character=who.puppet, motion=motion)
        return _drawn(take, [performance], self._scene, like, white=self.stands and not self.leaked)

    def plate(self, like: Clip) -> Array:
        """Its scene alone, uint8 (H, W, 3)."""
        white = self.stands and not self.leaked
        return _drawn(PuppetTake.parse(self.take), [], self._scene, like, white=white).frames[0]

    @property
    def _scene(self) -> Scene | None:
        """None is the motion's own."""
        return None if self.leaked else PuppetCharacter.parse(self.home).scene


def _wrong_motion(motion: puppets.Motion | DistortedMotion, seed: int) -> DistortedMotion:
    """Far enough off for everybody to see: an estimator's strong errors, times three."""
    inner = motion.motion if isinstance(motion, DistortedMotion) else motion
    return DistortedMotion(inner, STRONG.scaled(3.0), seed)


def _drawn(
    take: PuppetTake, cast: Sequence[Performance], scene: Scene | None, like: Clip, *, white: bool = False
) -> PuppetClip:
    if not white:
        first = Clip(frames=like.frames[:1], fps=like.fps)
        return take.shot(first, cast, scene)
    height, width = like.size
    own = scene or PuppetCharacter(index=0).scene
    return puppets.render_still(cast, own, height=height, width=width, time=take.start, background="white")


@dataclass(frozen=True, kw_only=True)
class PuppetSelector:
    """Picks any of the candidates, and now and then none.

    Attributes:
        picky: share of draws in which nobody suits.
    """

    picky: Annotated[float, _RATE] = 0.1

    def select(self, motion: Motion, performer: int, candidates: Sequence[Character], seed: int) -> Told[Choice]:
        """See `Selector`."""
        random = np.random.default_rng([seed, 11])
        if random.random() < self.picky:
            return Told(value=Choice(number=None, reason="nobody suits"))
        return Told(value=Choice(number=int(random.integers(len(candidates)))))

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"selector": "puppets", **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class PuppetWeaver:
    """Fills a form."""

    def weave(self, edit: Edit, seed: int) -> Told[str]:
        """See `Weaver`."""
        scene = "white" if edit.task is Task.STAND else "the scene of its own picture"
        posture = (
            "standing"
            if edit.task is Task.STAND
            else f"in the posture of performer {edit.performer} of {edit.motion.name}"
        )
        remark = f" Mend this: {edit.remark}." if edit.remark else ""
        return Told(value=f"{edit.character.name}, {posture}, before {scene}.{remark}")

    def describe(self) -> dict[str, Any]:
        """That it has no settings."""
        return {"weaver": "puppets"}


@dataclass(frozen=True, kw_only=True)
class PuppetEditor:
    """Draws what is asked for, and errs.

    Attributes:
        error: share of edits that bring in a fault of their own, one of `FAULT_SHARES`. Whatever else was wrong in the picture
            and is not what the edit is for stays.
    """

    error: Annotated[float, _RATE] = 0.4

    def edit(self, edit: Edit, words: str, seed: int) -> Picture:
        """See `PoseEditor`."""
        random = np.random.default_rng([seed, 13])
        wanted = wanted_picture(edit)
        shows = wanted
        if edit.base.source.startswith(_SOURCE):
            base = PuppetPicture.parse(edit.base.source)
            # An edit mends what it is for; an environment's edit leaves the posture, a posture's edit the environment.
            shows = dataclasses.replace(
                base, pose_seed=base.pose_seed if edit.task is Task.ENVIRONMENT else None,
                leaked=base.leaked if edit.task is Task.POSE else False,
            )  # fmt: skip
        if random.random() < self.error:
            fault = random.choice(list(FAULT_SHARES), p=list(FAULT_SHARES.values()))
            shows = _with_fault(shows, Fault(fault), random)
        return Picture(image=shows.shot(edit.motion.clip).frames[0], source=str(shows))

    def describe(self) -> dict[str, Any]:
        """The rate."""
        return {"editor": "puppets", **dataclasses.asdict(self)}


def wanted_picture(edit: Edit) -> PuppetPicture:
    """What a faultless edit shows."""
    who = str(PuppetCharacter.parse(edit.character.source))
    return PuppetPicture(
        character=who,
        home=who,
        take=str(PuppetTake.parse(edit.motion.source)),
        performer=edit.performer,
        stands=edit.task is Task.STAND,
    )


def _with_fault(picture: PuppetPicture, fault: Fault, random: np.random.Generator) -> PuppetPicture:
    if fault is Fault.POSE:
        return dataclasses.replace(picture, pose_seed=int(random.integers(2**31)))
    if fault is Fault.ENVIRONMENT:
        return dataclasses.replace(picture, leaked=True)
    who = PuppetCharacter.parse(picture.character)
    other = dataclasses.replace(who, index=who.index + 1 + int(random.integers(1000)))
    return dataclasses.replace(picture, character=str(other))


@dataclass(frozen=True, kw_only=True)
class PuppetJudge:
    """Compares pixels with those the renderer would have drawn.

    Attributes:
        blind: share of faults that it does not see, in pictures and clips.
        changed: difference of a pixel, in levels, from which it is another.
        environment: share of pixels away from the character that may be another scene's.
        colours: share of the character's colours that must be the right ones.
        outline: share of the union that both outlines must have in common.
    """

    blind: Annotated[float, _RATE] = 0.0
    changed: Annotated[int, Between(1, 255)] = 24
    environment: Annotated[float, _RATE] = 0.2
    colours: Annotated[float, _RATE] = 0.6
    outline: Annotated[float, _RATE] = 0.93
    frames: Annotated[int, Between(1, 100)] = field(default=3)

    def judge_picture(self, picture: Picture, edit: Edit, seed: int) -> Told[Ruling]:
        """See `Judge`."""
        wanted = wanted_picture(edit)
        shot = wanted.shot(edit.motion.clip)
        seen = Seen.of(picture.image, shot.frames[0], shot.masks[0, 0], wanted.plate(edit.motion.clip), self.changed)
        return self._ruled(seen, seed)

    def judge_clip(self, made: Made, seed: int) -> Told[Ruling]:
        """See `Judge`: some frames against the renderer's, with a generator's mild errors allowed for."""
        shot, plate = true_clip(made)
        count = len(made.clip.frames)
        for frame in np.unique(np.linspace(0, count - 1, min(self.frames, count)).astype(int)):
            seen = Seen.of(
                made.clip.frames[frame], shot.frames[frame], shot.masks[made.place, frame], plate[frame], self.changed
            )
            ruling = self._ruled(seen, seed, slack=0.3)
            if ruling.value.finding is not Finding.PASS:
                return ruling
        return Told(value=Ruling(finding=Finding.PASS))

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"judge": "puppets", **dataclasses.asdict(self)}

    def _ruled(self, seen: "Seen", seed: int, slack: float = 0.0) -> Told[Ruling]:
        if np.random.default_rng([seed, 17]).random() < self.blind:
            return Told(value=Ruling(finding=Finding.PASS))
        told = json.dumps({name: round(value, 3) for name, value in dataclasses.asdict(seen).items()})
        if seen.environment > self.environment:
            ruling = Ruling(finding=Finding.ENVIRONMENT, reason="the scene is not the character's own")
        elif seen.colours < self.colours:
            ruling = Ruling(finding=Finding.FAILURE, reason="it is another character")
        elif seen.outline < self.outline - slack:
            ruling = Ruling(finding=Finding.POSE, reason="the posture is not the one of the motion")
        else:
            ruling = Ruling(finding=Finding.PASS)
        return Told(value=ruling, answer=told)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """How a picture compares with the right one, each in [0, 1]: other scenery, the right colours, a common outline."""

    environment: float
    colours: float
    outline: float

    @classmethod
    def of(cls, picture: Array, right: Array, mask: Array, plate: Array, changed: int) -> "Seen":
        """Of pictures uint8 (H, W, 3): the one to judge, the right one, its scene alone; `mask` bool (H, W) of the character."""
        if picture.shape != right.shape:
            return cls(environment=1.0, colours=0.0, outline=0.0)
        here = _differs(picture, plate, changed)
        there = _differs(right, plate, changed)
        union = np.count_nonzero(here | there)
        return cls(
            environment=float(here[~mask].mean()) if not mask.all() else 0.0,
            colours=common_colours(picture[here], right[there]),
            outline=np.count_nonzero(here & there) / union if union else 1.0,
        )


def _differs(one: Array, other: Array, changed: int) -> Array:
    return np.abs(one.astype(int) - other.astype(int)).max(axis=-1) > changed


def common_colours(some: Array, others: Array) -> float:
    """What two sets of pixels (N, 3) have in common of their distributions over 8x8x8 colours."""
    if not len(some) or not len(others):
        return float(len(some) == len(others))
    counts = [np.bincount((each // 32).astype(int) @ (64, 8, 1), minlength=512) / len(each) for each in (some, others)]
    return float(np.minimum(*counts).sum())


def true_clip(made: Made) -> tuple[PuppetClip, Array]:
    """What a generator without errors would have made, and uint8 (T, H, W, 3) the same without the character."""
    take, who = PuppetTake.parse(made.motion.source), PuppetCharacter.parse(made.character.source)
    cast = take.cast()
    performance = dataclasses.replace(cast[made.performer], character=who.puppet)
    if not made.replaces:
        return take.shot(made.clip, [performance], who.scene), take.shot(made.clip, [], who.scene).frames
    others = [each for number, each in enumerate(cast) if number != made.performer]
    cast[made.performer] = performance
    return take.shot(made.clip, cast), take.shot(made.clip, others).frames


@dataclass(frozen=True, kw_only=True)
class PuppetCaptioner:
    """Repeats what is known."""

    def caption(self, clip: Clip, subject: str, seed: int) -> Told[str]:
        """See `Captioner`."""
        height, width = clip.size
        return Told(value=f"{subject or 'A drawing.'} {len(clip.frames)} frames of {height}x{width} pixels.")

    def describe(self) -> dict[str, Any]:
        """That it has no settings."""
        return {"captioner": "puppets"}
