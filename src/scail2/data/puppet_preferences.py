"""Preference pairs of puppets: the renderer is the generator, and estimators are wrong by a known amount."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scail2 import puppets
from scail2.data.pairs import Array, Still, frames_of_all
from scail2.data.preferences import REGIONS, PreferencePair
from scail2.data.puppet_source import STRIDE, PuppetSource, pose_error_named, repeated
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.puppets import JOINT_NAMES, PART_NAMES, Performance, PuppetClip

# Parts that make up a region, other than hands, whose boxes the renderer gives.
_PARTS = {"faces": ("head",), "feet": ("foot_left", "foot_right")}
_HAND_JOINTS = [n for n, name in enumerate(JOINT_NAMES) if name.split("_")[1:2] in (["knuckle"], ["middle"], ["tip"])]
_ESTIMATES = 3  # P, P′ and P″ are wrong independently of each other
_TIMES = 8.0  # clips begin within so many seconds of a motion


@dataclass(frozen=True, kw_only=True)
class PuppetPreferences:
    """y is a motion, S and R are puppets: the driving video and the preferred one repeat P's estimate of it, the rejected one the
    weaker estimator's estimate of its own first repetition.

    Attributes:
        puppets: the world, size and length; its own errors are not used.
        estimator: strength of P's error (`mild` or `strong`).
        weaker: of P′ and P″, which r⁻ goes through one after the other.
        characters: in each video.
        still: the reference shows the preferred video's characters in an unrelated pose, as the embedded checkpoint is used to,
            not in one of the video's own frames.
        regions: what boxes are kept around, hands among them.
    """

    puppets: PuppetSource
    estimator: str = "mild"
    weaker: str = "strong"
    characters: int = 1
    still: bool = False
    regions: tuple[str, ...] = REGIONS

    def __post_init__(self) -> None:
        for error in (self.estimator, self.weaker):
            pose_error_named(error)
        if "hands" not in self.regions or not set(self.regions) <= set(REGIONS):
            raise InputError(f"Regions are hands and what else is wanted of {', '.join(REGIONS)}.")

    def describe(self) -> dict[str, Any]:
        """All settings."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "puppets"}
        return self.puppets.describe() | {"preferences": own}

    def preference(self, index: int, generator: np.random.Generator) -> PreferencePair:
        """Pair `index`; `generator` draws when the clip begins and which frame is the reference.

        Raises:
            InputError: no frame of the preferred video shows every character.
        """
        start = round(float(generator.uniform(0.0, _TIMES)), 4)
        others, cast = (self.puppets.performances(index, side, self.characters) for side in (0, 1))
        driving = self._shot(self._estimated(others, index, (self.estimator,)), index, 0, start)
        truth = self._shot(cast, index, 1, start)
        preferred = self._shot(self._estimated(cast, index, (self.estimator,)), index, 1, start)
        rejected = self._shot(self._estimated(cast, index, ("", self.weaker, self.weaker)), index, 1, start)
        reference, frame = self._reference(cast, preferred, index, generator)
        return PreferencePair(
            mode=AnimationMode.ANIMATION,
            driving=driving.frames,
            driving_tracks=driving.masks,
            reference=reference,
            preferred=preferred.frames,
            rejected=rejected.frames,
            preferred_boxes=self._boxes(preferred),
            rejected_boxes=self._boxes(rejected),
            preferred_tracks=preferred.masks,
            meta={
                "source": "puppets",
                "index": index,
                "split": self.puppets.split,
                "salt": self.puppets.salt,
                "start": start,
                "frame": frame,
                "preferred_error": round(hand_error(preferred, truth), 4),
                "rejected_error": round(hand_error(rejected, truth), 4),
            },
        )

    def _reference(
        self, cast: Sequence[Performance], preferred: PuppetClip, index: int, generator: np.random.Generator
    ) -> tuple[Still, int | None]:
        """The reference, and which frame of the preferred video it is."""
        if self.still:
            return self.puppets.still(list(cast), index, 1, self.puppets.scene(index, 1), generator), None
        usable = frames_of_all(preferred.masks)
        if not len(usable):
            raise InputError("no frame of the preferred video shows every character: none can be the reference")
        frame = int(usable[generator.integers(len(usable))])
        return Still(frame=preferred.frames[frame], tracks=preferred.masks[:, frame]), frame

    def _estimated(self, cast: Sequence[Performance], index: int, errors: Sequence[str]) -> list[Performance]:
        """The cast repeating what estimators say of it, each of the last one's repetition; "" estimates nothing."""
        performed = list(cast)
        for estimate, name in enumerate(errors):
            if name:
                seeds = [_ESTIMATES * (STRIDE * index + number) + estimate for number in range(len(cast))]
                performed = repeated(performed, name, seeds)
        return performed

    def _shot(self, cast: Sequence[Performance], index: int, scene: int, start: float) -> PuppetClip:
        world = self.puppets
        return puppets.render(
            cast,
            world.scene(index, scene),
            frames=world.frames,
            height=world.height,
            width=world.width,
            fps=world.fps,
            start=start,
            camera=world.camera(index),
        )

    def _boxes(self, shot: PuppetClip) -> dict[str, Array]:
        boxes = {"hands": shot.hand_boxes.transpose(0, 2, 1, 3).reshape(-1, len(shot.frames), 4)}
        for name, parts in _PARTS.items():
            numbers = [1 + PART_NAMES.index(part) for part in parts]
            boxes[name] = np.stack([box_around(mask & (shot.parts == n)) for mask in shot.masks for n in numbers])
        return {name: boxes[name] for name in self.regions}


def box_around(pixels: Array) -> Array:
    """float32 (T, 4): the smallest box around the pixels of each frame of bool (T, H, W), zeros where there are none."""
    boxes = np.zeros((len(pixels), 4), np.float32)
    for frame, found in enumerate(pixels):
        rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            boxes[frame] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def hand_error(shot: PuppetClip, truth: PuppetClip) -> float:
    """Mean distance of the fingers' joints from where they should be, in hand sizes (longer side of the true boxes, median)."""
    distance = np.linalg.norm(shot.joints[:, :, _HAND_JOINTS] - truth.joints[:, :, _HAND_JOINTS], axis=-1).mean()
    boxes = truth.hand_boxes
    sides = np.maximum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
    seen = sides[sides > 0]
    return float(distance / np.median(seen)) if len(seen) else float("inf")
