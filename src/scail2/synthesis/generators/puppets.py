"""The puppet renderer as a generator: exact, or with the errors of a pose estimator that drives it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from scail2.data.puppet_source import POSE_ERRORS, pose_error_named, repeated
from scail2.errors import InputError
from scail2.masks import slots_shown, split_mask
from scail2.modes import AnimationMode
from scail2.puppets import PuppetClip
from scail2.synthesis.generators.facts import PUPPETS
from scail2.synthesis.generators.protocol import Array, Character, Clip, GeneratorFacts, Motion
from scail2.synthesis.generators.puppet_world import Estimate, PuppetCharacter, PuppetTake, people_joints

# Share of a performer's pixels in a mask from which it is the one that is meant.
_MEANT = 0.5


@dataclass(frozen=True, kw_only=True)
class PuppetGenerator:
    """Performs a drawn motion with a drawn character; `error`, of `POSE_ERRORS`, is what an estimator's poses cost it."""

    error: str = "none"

    def __post_init__(self) -> None:
        if self.error not in POSE_ERRORS:
            raise InputError(f"Unknown pose error {self.error!r}: choose one of {', '.join(POSE_ERRORS)}.")

    @property
    def facts(self) -> GeneratorFacts:
        """What it is and can do."""
        return PUPPETS

    def describe(self) -> dict[str, Any]:
        """The error's strengths and the renderer's name."""
        strength = POSE_ERRORS[self.error]
        return {"generator": PUPPETS.name, "error": None if strength is None else dataclasses.asdict(strength)}

    def generate(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> Clip:
        """See `Generator`; character and motion must be drawn ones.

        Raises:
            InputError: one of them is not, or the masks show none or several of the performers.
        """
        return Clip(frames=self.shot(character, motion, mode, masks, seed).frames, fps=motion.clip.fps)

    def shot(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> PuppetClip:
        """What `generate` shows, with the truth about it: joints, masks and hands as they were drawn."""
        self.facts.check(mode)
        who, take = PuppetCharacter.parse(character.source), PuppetTake.parse(motion.source)
        cast = take.cast()
        place = self._place(motion, masks if masks is not None else motion.masks, take)
        performance = dataclasses.replace(cast[place], character=who.puppet)
        (performance,) = repeated([performance], self.error, [seed])
        if mode is AnimationMode.REPLACEMENT:
            cast[place] = performance
            return take.shot(motion.clip, cast)
        return take.shot(motion.clip, [performance], who.scene)

    def _place(self, motion: Motion, masks: Array | None, take: PuppetTake) -> int:
        """Which performer of the take the masks mean."""
        if take.characters == 1:
            return 0
        if masks is None:
            raise InputError(
                f"{motion.name} shows {take.characters} performers and comes without masks: say which is meant."
            )
        marked = np.any(list(split_mask(masks).values()), axis=0)
        true = take.shot(motion.clip).masks
        meant = [
            number
            for number, mask in enumerate(true)
            if mask.any() and np.count_nonzero(mask & marked) >= _MEANT * np.count_nonzero(mask)
        ]
        self.facts.check(AnimationMode.REPLACEMENT, len(meant))
        if not meant:
            told = ", ".join(slot.colour for slot in slots_shown(masks)) or "nothing"
            raise InputError(f"The masks given with {motion.name} show {told}, and none of its performers.")
        return meant[0]


@dataclass(frozen=True, kw_only=True)
class PuppetEstimator:
    """A pose estimator that is wrong by a known amount: what it says of a drawn motion is that motion with its error."""

    error: str = "mild"

    def __post_init__(self) -> None:
        pose_error_named(self.error)

    def describe(self) -> dict[str, Any]:
        """The error's strengths."""
        return {"estimator": "puppets", "error": dataclasses.asdict(pose_error_named(self.error))}

    def estimate(self, motion: Motion, seed: int) -> Motion:
        """The motion as this estimator sees it: its joints, and its error in `source`, where the puppet renderer finds it."""
        take = PuppetTake.parse(motion.source)
        take = dataclasses.replace(take, estimates=(*take.estimates, Estimate(error=self.error, seed=seed)))
        return dataclasses.replace(motion, joints=people_joints(take.shot(motion.clip)), source=str(take))
