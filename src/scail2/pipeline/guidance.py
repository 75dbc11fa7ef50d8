"""Guidance: one forward pass per entry of a diffusers guider, combined into one velocity, and checks on step caches."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor

from scail2.conditions import SegmentConditions
from scail2.errors import InputError
from scail2.models.memory import SegmentMemory
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.pipeline.options import StreamOptions, callback_tensors

_UNCONDITIONAL, _SKIPPED = "pred_uncond", "pred_cond_skip"


def choose_guider(component: BaseGuidance | None, guidance_scale: float, *, explicit: bool) -> BaseGuidance | None:
    """The guider of a run, or ``None`` when nothing is to be guided. It is copied for every segment, never used itself.

    Args:
        component: the pipeline's guider.
        guidance_scale: classifier-free guidance scale when there is no component; 1 means none.
        explicit: the caller named ``guidance_scale``; it then replaces the component's own.
    """
    if component is None:
        return None if guidance_scale == 1.0 else ClassifierFreeGuidance(guidance_scale=guidance_scale)
    if explicit and "guidance_scale" in component.config:
        return component.new(guidance_scale=guidance_scale)
    return component


def needs_negative(guider: BaseGuidance | None) -> bool:
    """Whether the guider runs an unconditional pass, and so needs negative prompt embeddings.

    Raises:
        InputError: a layer-skipping guider without classifier-free guidance. diffusers hooks the skipped layers on the
            third pass only; with two passes nothing is skipped, and the second one gets the negative prompt.
    """
    if guider is None:
        return False
    batches = copy.deepcopy(guider).prepare_inputs({"encoder_hidden_states": (None, None)})
    passes = {getattr(batch, guider._identifier_key) for batch in batches}
    if _SKIPPED in passes and _UNCONDITIONAL not in passes:
        raise InputError(
            f"{type(guider).__name__} skips nothing without classifier-free guidance: "
            "give it a guidance_scale other than 1, or leave the guider away."
        )
    return _UNCONDITIONAL in passes


@dataclass(frozen=True, kw_only=True, slots=True)
class VelocityPredictor:
    """The transformer with everything that stays the same over one segment's steps.

    Attributes:
        conditions: already on the transformer's device and in its dtype.
        negative_prompt_embeds: (B, 512, text_dim), for guiders with an unconditional pass.
        memory: what the segment's passes have in common; fresh for every segment.
    """

    transformer: torch.nn.Module
    conditions: SegmentConditions
    guider: BaseGuidance | None
    negative_prompt_embeds: Tensor | None
    num_steps: int
    attention_kwargs: dict[str, Any] | None = None
    memory: SegmentMemory = field(default_factory=SegmentMemory)

    def __post_init__(self):
        self.memory.shares_steps = self.guider is not None

    def __call__(self, latents: Tensor, timestep: Tensor, step: int, sigma: float) -> Tensor:
        """Guided velocity (B, C, T, h, w), float32.

        Args:
            latents: x_t. timestep: the scheduler's, a scalar tensor from 0 to 1000. sigma: its noise level, 0 to 1.
        """
        where = {"step_index": step, "num_inference_steps": self.num_steps, "sigma": sigma}
        if self.transformer.config.prediction_type == "sample":
            # Turning x0 into a velocity and back must use one noise level; multistep timesteps are rounded to integers.
            timestep = torch.full_like(timestep, sigma * NUM_TRAIN_TIMESTEPS, dtype=torch.float32)
        if self.guider is None:
            return self._forward("cond", latents, timestep, self.conditions.prompt_embeds, where)
        guider = self.guider
        guider.set_state(step=step, num_inference_steps=self.num_steps, timestep=timestep)
        embeds = (self.conditions.prompt_embeds, self.negative_prompt_embeds)
        batches = guider.prepare_inputs({"encoder_hidden_states": embeds})
        for batch in batches:
            guider.prepare_models(self.transformer)
            try:
                name = getattr(batch, guider._identifier_key)
                batch.noise_pred = self._forward(name, latents, timestep, batch.encoder_hidden_states, where)
            finally:
                guider.cleanup_models(self.transformer)
        return guider(batches)[0]

    def _forward(
        self, context: str, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor | None, where: dict[str, Any]
    ) -> Tensor:
        inputs = self.conditions.model_kwargs() | {"encoder_hidden_states": prompt_embeds}
        # The context's name keeps the caches of the conditional and the unconditional pass apart.
        with self.transformer.cache_context(context, **where):
            return self.transformer(
                hidden_states=latents,
                timestep=timestep.expand(latents.shape[0]),
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
                memory=self.memory,
                **inputs,
            )[0].float()


def call_back(
    pipe: Any, options: StreamOptions, at: tuple[int, Tensor], latents: Tensor, predict: VelocityPredictor
) -> tuple[Tensor, VelocityPredictor]:
    """Show the step callback the tensors it asked for, and take over those it gives back.

    ``at`` is the step's number and timestep. As in diffusers it may also set ``pipe._guidance_scale``: at 1 and below
    nothing is guided from then on (`SDCFGCutoffCallback`).
    """
    before = pipe._guidance_scale = 1.0 if predict.guider is None else getattr(predict.guider, "guidance_scale", None)
    tensors = {
        "latents": latents,
        "prompt_embeds": predict.conditions.prompt_embeds,
        "negative_prompt_embeds": predict.negative_prompt_embeds,
    }
    shown = {name: tensors[name] for name in callback_tensors(options)}
    changed = options.callback_on_step_end(pipe, *at, shown) if options.callback_on_step_end is not None else None
    tensors |= _given_back(changed, tensors)
    if tensors["prompt_embeds"] is not predict.conditions.prompt_embeds:
        predict = replace(predict, conditions=replace(predict.conditions, prompt_embeds=tensors["prompt_embeds"]))
    predict = replace(predict, negative_prompt_embeds=tensors["negative_prompt_embeds"])
    if pipe._guidance_scale != before:
        predict = replace(predict, guider=_rescaled(predict.guider, _scale(pipe._guidance_scale)))
    return tensors["latents"], predict


def _given_back(changed: Any, tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """What a step callback gave back, as the tensors it takes the place of are kept; nothing for ``None``.

    Raises:
        InputError: no dictionary, a name that is none of theirs, no tensor, or one of another shape.
    """
    if changed is None:
        return {}
    if not isinstance(changed, Mapping):
        raise InputError(
            f"callback_on_step_end returned {type(changed).__name__}; it returns None or a dictionary with any of "
            f"{', '.join(tensors)}."
        )
    unknown = [str(name) for name in changed if name not in tensors]
    if unknown:
        raise InputError(f"callback_on_step_end returned {', '.join(unknown)}; it may return {', '.join(tensors)}.")
    return {name: _in_place_of(tensors[name], value, name, tensors) for name, value in changed.items()}


def _in_place_of(before: Tensor | None, value: Any, name: str, tensors: Mapping[str, Tensor | None]) -> Tensor | None:
    if value is before:
        return before
    # What is guided away from has the shape of the prompt; without guidance there is none yet.
    like = tensors["prompt_embeds"] if before is None and name == "negative_prompt_embeds" else before
    if like is None:
        raise InputError(f"callback_on_step_end returned {name}, which this model has none of.")
    if not isinstance(value, Tensor) or value.shape != like.shape:
        got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"callback_on_step_end returned {name} as {got}; it must be a tensor of the shape {tuple(like.shape)}."
        )
    return value.to(like)


def _scale(given: Any) -> float:
    try:
        scale = float(given)
    except (TypeError, ValueError):
        scale = math.nan
    if not math.isfinite(scale):
        raise InputError(f"a step callback set the guidance scale to {given!r}; it must be a number.")
    return scale


def _rescaled(guider: BaseGuidance | None, scale: float) -> BaseGuidance | None:
    """The guider with another scale; none at 1 and below."""
    if scale <= 1.0:
        return None
    if guider is None:
        raise InputError("a step callback cannot begin to guide: call with guidance_scale above 1, and lower it then.")
    return guider.new(guidance_scale=scale)
