"""This package's own model as a generator: a checkpoint that is good enough makes pairs for the next one."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.errors import InputError
from scail2.masks import BindingSlot, paint_mask
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.perception.segmenters.people.skeleton import SkeletonStyle, draw_skeletons
from scail2.synthesis.generators.facts import OWN
from scail2.synthesis.generators.protocol import Array, Character, Clip, GeneratorFacts, Motion
from scail2.synthesis.performers import performers, person, pictured, poses

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline


@dataclass(frozen=True)
class OwnModelGenerator:
    """SCAIL-2 with the weights named, loaded when they are first needed.

    Attributes:
        model: as `scail2.load_pipeline` takes it; None is the embedded checkpoint.
        device, placement: where it runs.
        preset, num_inference_steps: how it samples; None is the checkpoint's own way.
        skeletons: drive it by skeletons drawn of the motion's joints, in this style, instead of by the clip's frames.
    """

    model: str | Path | None = None
    device: str = "cpu"
    placement: str = "resident"
    preset: str | None = None
    num_inference_steps: int | None = None
    skeletons: SkeletonStyle | None = None
    loras: tuple[str, ...] = field(default=())

    @property
    def facts(self) -> GeneratorFacts:
        """What it is and can do; driven by skeletons, it repeats the joints that come with a motion."""
        return dataclasses.replace(OWN, driven_by_poses=self.skeletons is not None)

    @cached_property
    def pipeline(self) -> "SCAIL2Pipeline":
        """The loaded model."""
        from scail2.loading.by_name import load_pipeline

        with no_loading_bars():
            pipeline = load_pipeline(self.model, device=self.device, placement=self.placement, loras=self.loras)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def describe(self) -> dict[str, Any]:
        """The settings, and the fingerprint of the weights' content."""
        from scail2.loading.facts import stored_facts
        from scail2.loading.places import model_place, parse_lora

        place = model_place(self.model)
        known = stored_facts(place, name=place.name, loras=[parse_lora(each) for each in self.loras])
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("model", "loras")}
        settings["skeletons"] = None if self.skeletons is None else self.skeletons.value
        return {"generator": OWN.name, "model": place.name, "fingerprint": known.fingerprint} | settings

    def generate(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> Clip:
        """See `Generator`. Masks that are absent are found; joints, for skeletons, likewise.

        Raises:
            InputError: picture and masks show different numbers of characters, sizes do not fit the model, or something that
                is needed is neither given nor found.
        """
        import torch

        from scail2.video import to_uint8

        shown, driven = pictured(character), performers(motion, masks)
        self.facts.check(mode, len(shown))
        shown, driven = _bound(shown, driven, character, motion)
        frames = motion.clip.frames
        if self.skeletons is not None:
            frames, driven = self._skeletons(motion, driven, mode)
        traits = MODE_TRAITS[mode]
        outputs = self.pipeline.stream(
            character.image,
            frames,
            paint_mask(np.stack(list(shown.values())), list(shown), traits.reference_background),
            paint_mask(np.stack(list(driven.values())), list(driven), traits.driving_background),
            mode=mode,
            prompt=None if self.pipeline.transformer.config.text_dim is None else character.caption,
            preset=self.preset,
            num_inference_steps=self.num_inference_steps,
            generator=torch.Generator().manual_seed(seed),
        )
        return Clip(frames=np.concatenate([to_uint8(each.frames) for each in outputs]), fps=motion.clip.fps)

    def _skeletons(
        self, motion: Motion, driven: Mapping[BindingSlot, Array], mode: AnimationMode
    ) -> tuple[Array, dict[BindingSlot, Array]]:
        """The skeleton film, and where in it whoever drives is."""
        if mode is not AnimationMode.ANIMATION:
            raise InputError(
                "Skeletons show no scene to put a character into: replacement is driven by the clip itself."
            )
        if len(driven) > 1:
            raise InputError("Driven by skeletons, this generator draws one character at a time.")
        assert self.skeletons is not None
        ((slot, region),) = driven.items()
        driver = person(poses(motion), region)
        height, width = motion.clip.size
        drawn = [
            draw_skeletons(driver, self.skeletons, height=height, width=width, frame=frame)
            for frame in range(len(region))
        ]
        film = np.stack(drawn)
        return film, {slot: np.asarray(film.any(axis=-1))}


def _bound(
    shown: Mapping[BindingSlot, Array], driven: Mapping[BindingSlot, Array], character: Character, motion: Motion
) -> tuple[dict[BindingSlot, Array], dict[BindingSlot, Array]]:
    """One character and one performer are bound whatever their colours; several by theirs."""
    if len(shown) == len(driven) == 1:
        slot = BindingSlot.BLUE
        return {slot: next(iter(shown.values()))}, {slot: next(iter(driven.values()))}
    if shown.keys() != driven.keys():
        ours, theirs = (", ".join(slot.colour for slot in each) for each in (shown, driven))
        raise InputError(
            f"{character.name} shows {ours}, {motion.name} {theirs}: each performer needs a character of its colour. To replace "
            "one of several, give masks of that one."
        )
    return dict(shown), dict(driven)
