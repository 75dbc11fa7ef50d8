"""Motion pairs drawn by the puppet renderer: both clips are exact, and any pair number exists."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scail2 import puppets
from scail2.data.pairs import Clip, MotionPair, Still, check_sides
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.puppets import Camera, Performance, PuppetClip, Scene, Split
from scail2.puppets.pose_error import MILD, STRONG

# Indices of everything drawn for pair n lie in [n·STRIDE, (n+1)·STRIDE), so no two pairs share a character or scene.
STRIDE = 16
_SCENES = 4
# References are taken from this span of seconds of a motion of their own.
_STILL_TIMES = 8.0
_STILL_ATTEMPTS = 8
_STILL_ORDER = 3  # part of the seed of who stands where


POSE_ERRORS = {"none": None, "mild": MILD, "strong": STRONG}
"""Strengths of simulated pose estimation error, by name."""


@dataclass(frozen=True, kw_only=True)
class PuppetSource:
    """Pairs of puppets: y and ỹ show the same motion, in the same placements, by different characters.

    Animation kinds have a scene each; replacement kinds share one, and its clip ỹ is made by replacing y's characters
    one after the other. Each clip comes with a still of its characters in an unrelated pose, in a scene of their own
    (their clip's scene for animation).

    Attributes:
        characters: number of characters in multi kinds.
        with_poses: pose renders are added to every clip (pose kinds always have them).
        generator_error: `mild` or `strong` makes ỹ what a pose-driven generator would give: the motion with an
            estimator's errors. Reverse driving must not let them into the output.
        estimator_error: the same for pose renders.
        shuffle_stills: the characters of a still stand in each other's places at random, so that only binding slots say who
            is who. (Otherwise they stand where they do in the clip.)
    """

    domain: str = "nano"
    split: str = "train"
    salt: str = ""
    frames: int = 17
    height: int = 128
    width: int = 128
    fps: float = 16.0
    characters: int = 2
    with_poses: bool = False
    generator_error: str = "none"
    estimator_error: str = "none"
    shuffle_stills: bool = False

    def __post_init__(self) -> None:
        Split.parse(self.split)
        puppets.domain_named(self.domain)
        for error in (self.generator_error, self.estimator_error):
            if error not in POSE_ERRORS:
                raise InputError(f"unknown pose error {error!r}: choose one of {', '.join(POSE_ERRORS)}")
        if self.frames % 4 != 1:
            raise InputError(f"clips have 4k+1 frames, not {self.frames}")
        check_sides(self.height, self.width)

    @property
    def num_parts(self) -> int:
        """Part classes of the part maps."""
        return len(puppets.PART_NAMES)

    @property
    def kinds(self) -> None:
        """See `PairSource`: they are drawn."""

    @property
    def counts_by_kind(self) -> bool:
        """Every number is another pair, of whatever kind."""
        return False

    def describe(self) -> dict[str, Any]:
        """All settings, and the renderer's version of the world."""
        settings = dataclasses.asdict(self)
        for name in ("generator_error", "estimator_error"):
            if settings[name] == "none":
                del settings[name]
        if not self.shuffle_stills:
            del settings["shuffle_stills"]
        return {"puppets": settings, "world": dataclasses.asdict(puppets.domain_named(self.domain))}

    def pair(self, kind: SampleKind, index: int, generator: np.random.Generator) -> MotionPair:
        """Pair `index` of a kind; `generator` draws times only, everything else follows from the index."""
        kind = SampleKind(kind)
        count = self.characters if kind.is_multi else 1
        casts = [self.performances(index, side, count) for side in (0, 1)]
        # Replacement: one scene for both clips (number 0), and one for each side's stills.
        shared = kind.mode is AnimationMode.REPLACEMENT
        scenes = [self.scene(index, number) for number in ((0, 0) if shared else (0, 1))]
        still_scenes = [self.scene(index, 2 + side) for side in (0, 1)] if shared else scenes
        start = round(float(generator.uniform(0.0, _STILL_TIMES)), 4)
        order = list(generator.permutation(count))
        synthetic_cast = replaced_one_by_one(casts[1], casts[0], order) if shared else casts[0]
        # Stills show no generator's errors: they are the characters' own pictures.
        stills = [
            self.still(cast, index, side, still_scenes[side], generator)
            for side, cast in enumerate((synthetic_cast, casts[1]))
        ]
        with_pose = kind.is_pose or self.with_poses
        clips = [
            self._clip(cast, scenes[side], index, start, stills[side], with_pose)
            for side, cast in enumerate((self._as_generated(synthetic_cast, index), casts[1]))
        ]
        meta = {"source": "puppets", "index": index, "split": self.split, "salt": self.salt, "start": start}
        if shared:
            meta["replaced"] = [int(number) for number in order]
        return MotionPair(synthetic=clips[0], real=clips[1], construction=kind.construction, meta=meta)

    def plate(self, kind: SampleKind, index: int, start: float, *, of_synthetic: bool = False) -> np.ndarray:
        """A clip's scene without characters, uint8 `(T, H, W, 3)`; `start` as in the pair's `meta`."""
        shared = kind.mode is AnimationMode.REPLACEMENT
        scene = self.scene(index, 0 if shared or of_synthetic else 1)
        camera = self.camera(index)
        if camera.still:
            still = puppets.render_still([], scene, height=self.height, width=self.width)
            return np.repeat(still.frames, self.frames, axis=0)
        return self._shot([], scene, start, camera).frames

    def still_plate(self, kind: SampleKind, index: int, *, of_synthetic: bool = False) -> np.ndarray:
        """The scene of a clip's still without characters, held for the clip's length, uint8 `(T, H, W, 3)`."""
        side = 0 if of_synthetic else 1
        scene = self.scene(index, 2 + side if kind.mode is AnimationMode.REPLACEMENT else side)
        still = puppets.render_still([], scene, height=self.height, width=self.width)
        return np.repeat(still.frames, self.frames, axis=0)

    def exchanged(self, kind: SampleKind, index: int, start: float, *, of_synthetic: bool = False) -> np.ndarray:
        """A clip in which every character performs the next one's motion in its place, uint8 `(T, H, W, 3)`; see `plate`."""
        shared = kind.mode is AnimationMode.REPLACEMENT
        cast = self.performances(index, 0 if of_synthetic else 1, self.characters if kind.is_multi else 1)
        swapped = [dataclasses.replace(each, character=cast[n - 1].character) for n, each in enumerate(cast)]
        scene = self.scene(index, 0 if shared or of_synthetic else 1)
        return self._shot(swapped, scene, start, self.camera(index)).frames

    def _shot(self, cast: list[Performance], scene: Scene, start: float, camera: Camera) -> PuppetClip:
        return puppets.render(
            cast,
            scene,
            frames=self.frames,
            height=self.height,
            width=self.width,
            fps=self.fps,
            start=start,
            camera=camera,
        )

    def camera(self, index: int) -> Camera:
        """One camera for both clips of a pair: its movement is part of the driving video."""
        return puppets.sample_camera(self.split, index, puppets.domain_named(self.domain), self.salt)

    def _as_generated(self, cast: list[Performance], index: int) -> list[Performance]:
        return repeated(cast, self.generator_error, [STRIDE * index + number for number in range(len(cast))])

    def performances(self, index: int, side: int, count: int) -> list[Performance]:
        """The cast of pair `index`: side 0 performs in ỹ, side 1 in y; both have the same motions and placements."""
        world = puppets.domain_named(self.domain)
        placements = puppets.sample_placements(self.split, index, world, self.salt, count=count)
        performances = []
        for number in range(count):
            character = puppets.sample_character(
                self.split, index * STRIDE + side * (STRIDE // 2) + number, world, self.salt
            )
            motion = puppets.sample_motion(self.split, index * STRIDE + number, world, self.salt)
            performances.append(Performance(character=character, motion=motion, placement=placements[number]))
        return performances

    def scene(self, index: int, number: int) -> Scene:
        """One of the four scenes of pair `index`."""
        return puppets.sample_scene(self.split, index * _SCENES + number, puppets.domain_named(self.domain), self.salt)

    def still(
        self, cast: list[Performance], index: int, side: int, scene: Scene, generator: np.random.Generator
    ) -> Still:
        """The cast in motions of their own, at a moment that shows every one of them."""
        world = puppets.domain_named(self.domain)
        order = np.arange(len(cast))
        if self.shuffle_stills:
            order = np.random.default_rng([index, side, _STILL_ORDER]).permutation(order)
        unrelated = []
        for number, performance in enumerate(cast):
            own = index * STRIDE + STRIDE // 2 + side * (STRIDE // 4) + number
            motion = puppets.sample_motion(self.split, own, world, self.salt)
            place = cast[order[number]].placement
            unrelated.append(dataclasses.replace(performance, motion=motion, placement=place))
        shots = []
        for _ in range(_STILL_ATTEMPTS):
            time = float(generator.uniform(0.0, _STILL_TIMES))
            shot = puppets.render_still(unrelated, scene, height=self.height, width=self.width, time=time)
            areas = shot.masks.sum(axis=(1, 2, 3))
            shots.append((int(areas.min()), shot))
            if 2 * areas.min() >= areas.max():
                break
        best = max(shots, key=lambda each: each[0])[1]  # the first of equal ones
        return Still(frame=best.frames[0], tracks=best.masks[:, 0], parts=best.parts[0])

    def _clip(
        self, cast: list[Performance], scene: Scene, index: int, start: float, still: Still, with_pose: bool
    ) -> Clip:
        shot = self._shot(cast, scene, start, self.camera(index))
        joints = self._estimated_joints(shot, index) if with_pose else None
        pose, pose_tracks = (
            (None, None) if joints is None else puppets.draw_poses(joints, height=self.height, width=self.width)
        )
        return Clip(
            frames=shot.frames,
            tracks=shot.masks,
            parts=shot.parts,
            pose=pose,
            pose_tracks=pose_tracks,
            pose_joints=joints,
            hand_boxes=shot.hand_boxes,
            still=still,
            caption=_caption(cast, scene),
        )

    def _estimated_joints(self, shot: PuppetClip, index: int) -> np.ndarray:
        """Joints `(S, T, J, 2)` as the pose estimator sees them."""
        error = POSE_ERRORS[self.estimator_error]
        if error is None:
            return shot.joints
        body = 0.8 * self.height
        return puppets.corrupt_joints(shot.joints, error, STRIDE * index, fps=self.fps, body_pixels=body)


def pose_error_named(name: str) -> puppets.PoseError:
    """The strengths of a pose error; raises InputError for a name that stands for none."""
    error = POSE_ERRORS.get(name)
    if error is None:
        known = ", ".join(each for each, strength in POSE_ERRORS.items() if strength is not None)
        raise InputError(f"There is no pose error {name!r}: choose one of {known}.")
    return error


def repeated(cast: Sequence[Performance], error: str, seeds: Sequence[int]) -> list[Performance]:
    """The cast as a pose-driven generator would repeat it: each one's motion with an estimator's error, by name and own seed."""
    strength = POSE_ERRORS[error]
    if strength is None:
        return list(cast)
    return [
        dataclasses.replace(each, motion=puppets.DistortedMotion(each.motion, strength, seed))
        for each, seed in zip(cast, seeds, strict=True)
    ]


def replaced_one_by_one(cast: list[Performance], others: list[Performance], order: list[int]) -> list[Performance]:
    """The cast after replacing its members by `others`, one after the other, each taking over motion and placement."""
    replaced = list(cast)
    for number in order:
        replaced[number] = dataclasses.replace(replaced[number], character=others[number].character)
    return replaced


def _caption(cast: list[Performance], scene: Scene) -> str:
    kinds = [performance.character.kind for performance in cast]
    who = " and ".join(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in kinds)
    what = ", ".join(sorted({performance.motion.program for performance in cast}))
    return f"A flat-shaded drawing of {who} ({what}) before {scene.style} scenery."
