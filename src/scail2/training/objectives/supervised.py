"""What is minimised: the supervised flow-matching objective over cached latents.

The trainer knows only the protocol; preference optimisation is another objective of the same form.
"""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from scail2.conditions import SegmentConditions
from scail2.data.dataset import LatentBatch
from scail2.errors import InputError
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.training.batches import TrainingBatch
from scail2.training.config import TrainConfig
from scail2.training.objectives.flow_matching import add_noise, flow_matching_loss, sample_timesteps
from scail2.training.objectives.parts import HiddenStateTap, PartAlignment, coverage_tokens


class Objective(Protocol):
    """Turns one micro-batch into a loss; may own parameters that are trained and then thrown away."""

    auxiliary: nn.Module

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise, and detached numbers for the log."""


def segment_conditions(latents: LatentBatch) -> SegmentConditions:
    """Cached samples as the model inputs they were cached from, made by `conditions.build`; without history."""
    return SegmentConditions(
        mode=latents.mode,
        reference_latents=latents.reference,
        reference_masks=latents.reference_mask,
        driving_latents=latents.driving,
        driving_masks=latents.driving_mask,
        prompt_embeds=latents.prompt_embeds,
        image_embeds=latents.image_embeds,
    )


class FlowMatchingObjective:
    """Flow matching with clean history, weighted characters and optional part supervision.

    Args:
        transformer: the network (called as in inference).
        config: the run's configuration.
        part_channels: channels of the cached part coverage; 0 when the samples carry none.
        empty_prompt: ``(512, text_dim)``, stands in for dropped captions; needed where samples carry prompts.
    """

    def __init__(
        self,
        transformer: nn.Module,
        config: TrainConfig,
        part_channels: int = 0,
        empty_prompt: torch.Tensor | None = None,
    ) -> None:
        self.transformer = transformer
        self.config = config
        self.empty_prompt = empty_prompt
        self.auxiliary = nn.ModuleDict()
        self._tap: HiddenStateTap | None = None
        if config.loss.alignment_weight > 0:
            if config.loss.alignment_block >= len(transformer.blocks):
                raise InputError(
                    f"alignment_block is {config.loss.alignment_block}, but the transformer has only "
                    f"{len(transformer.blocks)} blocks, counted from 0."
                )
            if not part_channels:
                raise InputError(
                    "The recipe supervises body parts (alignment_weight), but the cached samples carry none; cache them "
                    "from a source with part maps, or set alignment_weight to 0."
                )
            patch = tuple(transformer.config.patch_size)
            width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
            self.auxiliary["parts"] = PartAlignment(width, part_channels, patch)
            self._tap = HiddenStateTap(transformer.blocks[config.loss.alignment_block])

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See :class:`Objective`. All draws come from ``generator`` (on the CPU)."""
        config, latents = self.config, batch.latents
        device = latents.target.device
        count, _, _, height, width = latents.target.shape
        patch = self.transformer.config.patch_size
        tokens_per_frame = (height // patch[1]) * (width // patch[2])
        t = sample_timesteps(count, config.timesteps, tokens_per_frame, generator)
        noise = torch.randn(latents.target.shape, generator=generator).to(device)
        history = self._history_mask(batch, generator)
        t, target = t.to(device), latents.target
        noisy = add_noise(target, noise, t)
        noisy = torch.where(history > 0, target, noisy)
        velocity = self.transformer(
            hidden_states=noisy,
            timestep=t * NUM_TRAIN_TIMESTEPS,
            **self._inputs(batch, generator) | {"history_mask": history if history.any() else None},
            return_dict=False,
        )[0]
        weight = self._weight(latents) * (1 - history)
        matching = flow_matching_loss(velocity, noise - target, t, weight, config.loss)
        terms = {"matching": matching.detach()}
        total = matching
        if self._tap is not None:
            alignment = self._alignment(latents)
            terms["alignment"] = alignment.detach()
            total = total + config.loss.alignment_weight * alignment
        return total, terms

    def _weight(self, latents: LatentBatch) -> torch.Tensor:
        """``(B, 1, T, h, w)``: more on characters, nothing in cells touched by an excluded region (burned-in text)."""
        weight = 1 + self.config.loss.character_weight * latents.character.mean(1, keepdim=True)
        return weight if latents.excluded is None else weight * (latents.excluded.amax(1, keepdim=True) == 0)

    def _inputs(self, batch: TrainingBatch, generator: torch.Generator) -> dict[str, Any]:
        data, prompt = self.config.data, batch.latents.prompt_embeds
        if prompt is not None and data.caption_dropout > 0:
            kept = torch.rand(prompt.shape[0], generator=generator) >= data.caption_dropout
            prompt = torch.where(kept.to(prompt.device).view(-1, 1, 1), prompt, self.empty_prompt.to(prompt))
        inputs = replace(segment_conditions(batch.latents), prompt_embeds=prompt).model_kwargs()
        return inputs | {"frame_offset": batch.frame_offset}

    def _history_mask(self, batch: TrainingBatch, generator: torch.Generator) -> torch.Tensor:
        """``(B, 1, T, h, w)``, one on latent frames that stay clean; never the whole window."""
        data = self.config.data
        count, _, frames, height, width = batch.latents.target.shape
        mask = torch.zeros(count, 1, frames, height, width)
        clean = min(data.history_frames, frames - 1)
        probability = torch.full((count,), data.history_probability)
        probability[torch.tensor(batch.latents.from_middle)] = data.middle_history_probability
        chosen = torch.rand(count, generator=generator) < probability
        # Only a segment's first frames are ever history; a window from the middle of a clip has none.
        if clean > 0 and batch.frame_offset == 0:
            mask[chosen, :, :clean] = 1
        return mask.to(batch.latents.target.device)

    def _alignment(self, latents: LatentBatch) -> torch.Tensor:
        # In the order of the tokens. A pose render has no parts: then its tokens, the last ones, are not supervised.
        parts = [latents.parts_reference, latents.parts_target, latents.parts_driving]
        known = parts if parts[2] is not None else parts[:2]
        patch = tuple(self.transformer.config.patch_size)
        coverage = torch.cat([coverage_tokens(part, patch) for part in known], dim=1)
        return self.auxiliary["parts"](self._tap.take()[:, : coverage.shape[1]], coverage)
