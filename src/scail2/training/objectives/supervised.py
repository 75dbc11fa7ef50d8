"""What is minimised: the supervised flow-matching objective over cached latents.

The trainer knows only the protocol; preference optimisation is another objective of the same form.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from scail2.conditions import SegmentConditions
from scail2.data.samples import LatentBatch
from scail2.errors import InputError
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.training.batches import TrainingBatch
from scail2.training.config import TrainConfig
from scail2.training.objectives.flow_matching import add_noise, flow_matching_loss, sample_timesteps
from scail2.training.objectives.parts import HiddenStateTap, PartAlignment, coverage_tokens

Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""A scalar to make smaller, and detached numbers for the log; both add up over the parts of a micro-batch."""


class Objective(Protocol):
    """Turns one micro-batch, or this process's rows of it, into losses; may own parameters that are trained and thrown away."""

    auxiliary: nn.Module

    def losses(self, batch: TrainingBatch, generator: torch.Generator) -> Iterator[Loss]:
        """Losses whose gradients add up to the objective's. Each is differentiated before the next is asked for, so that one
        graph is alive at a time."""

    def concern(self, terms: dict[str, float]) -> str | None:
        """Told the logged numbers of every step; a sentence ends the run."""


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


@dataclass(frozen=True, slots=True)
class NoiseDraw:
    """What was drawn for a micro-batch: noise levels ``(B,)``, noise, which latent frames stay clean, and the other inputs."""

    t: torch.Tensor
    noise: torch.Tensor  # (B, C, T, h, w)
    history: torch.Tensor  # (B, 1, T, h, w), one on frames that stay clean
    inputs: dict[str, Any]

    def only(self, rows: slice) -> "NoiseDraw":
        """What was drawn for some of the samples."""
        inputs = {
            name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in self.inputs.items()
        }
        return NoiseDraw(self.t[rows], self.noise[rows], self.history[rows], inputs)


class FlowMatchingObjective:
    """Flow matching with clean history, weighted characters and optional part supervision.

    Args:
        transformer: the network (called as in inference).
        config: the run's configuration.
        part_channels: channels of the cached part coverage; 0 when the samples carry none.
        empty_prompt: ``(512, text_dim)``, stands in for dropped captions; needed where samples carry prompts.
        whole_tokens: makes hidden states of all tokens out of those that this process has.
    """

    def __init__(
        self,
        transformer: nn.Module,
        config: TrainConfig,
        part_channels: int = 0,
        empty_prompt: torch.Tensor | None = None,
        whole_tokens: Callable[[torch.Tensor], torch.Tensor] = lambda tokens: tokens,
    ) -> None:
        self.transformer = transformer
        self.config = config
        self.empty_prompt = empty_prompt
        self._whole_tokens = whole_tokens
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

    def losses(self, batch: TrainingBatch, generator: torch.Generator) -> Iterator[Loss]:
        """See :class:`Objective`."""
        yield self.loss(batch, generator)

    def concern(self, terms: dict[str, float]) -> str | None:
        """See :class:`Objective`: none."""

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Loss:
        """The one loss. All draws come from ``generator`` (on the CPU)."""
        latents, draw, rows = batch.latents, self.draw(batch, generator), batch.rows
        velocity = self.velocity(latents.target[rows], draw.only(rows))
        matching = self.matching(velocity, latents, draw, rows)
        terms = {"matching": matching.detach()}
        total = matching
        if self._tap is not None:
            own = latents.only(rows)
            alignment = self._alignment(own, self._tap) * (len(own.keys) / len(latents.keys))
            terms["alignment"] = alignment.detach()
            total = total + self.config.loss.alignment_weight * alignment
        return total, terms

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> NoiseDraw:
        """Everything random about a micro-batch, and the inputs that go with it."""
        target = batch.latents.target
        count, _, _, height, width = target.shape
        patch = self.transformer.config.patch_size
        tokens_per_frame = (height // patch[1]) * (width // patch[2])
        t = sample_timesteps(count, self.config.timesteps, tokens_per_frame, generator)
        noise = torch.randn(target.shape, generator=generator).to(target.device)
        history = self._history_mask(batch, generator)
        return NoiseDraw(t.to(target.device), noise, history, self._inputs(batch, generator))

    def velocity(self, target: torch.Tensor, draw: NoiseDraw) -> torch.Tensor:
        """The network's velocity ``(B, C, T, h, w)`` for clean latents of that shape, noised and kept as drawn."""
        noisy = torch.where(draw.history > 0, target, add_noise(target, draw.noise, draw.t))
        history = draw.history if draw.history.any() else None
        return self.transformer(
            hidden_states=noisy,
            timestep=draw.t * NUM_TRAIN_TIMESTEPS,
            **draw.inputs | {"history_mask": history},
            return_dict=False,
        )[0]

    def matching(self, velocity: torch.Tensor, latents: LatentBatch, draw: NoiseDraw, rows: slice) -> torch.Tensor:
        """The flow-matching loss of a velocity for the targets of the batch's ``rows``, a scalar: their part of the batch's."""
        weight = self._weight(latents) * (1 - draw.history)
        target = draw.noise[rows] - latents.target[rows]
        return flow_matching_loss(velocity, target, draw.t[rows], weight, self.config.loss, rows)

    def _weight(self, latents: LatentBatch) -> torch.Tensor:
        """``(B, 1, T, h, w)``: more on characters and regions, nothing in cells touched by an excluded one (burned-in text)."""
        weight = 1 + self.config.loss.character_weight * latents.character.mean(1, keepdim=True)
        if self.config.loss.regions:
            # Times, not plus: within a box around a hand the hand keeps its lead over what is behind it.
            weight = weight * (1 + latents.region_weight(self.config.loss.regions))
        return weight if latents.excluded is None else weight * (latents.excluded.amax(1, keepdim=True) == 0)

    def _inputs(self, batch: TrainingBatch, generator: torch.Generator) -> dict[str, Any]:
        data, prompt = self.config.data, batch.latents.prompt_embeds
        if prompt is not None and data.caption_dropout > 0:
            if self.empty_prompt is None:
                raise ValueError("captions cannot be dropped without the empty prompt's embeddings")
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

    def _alignment(self, latents: LatentBatch, tap: HiddenStateTap) -> torch.Tensor:
        # In the order of the tokens. A pose render has no parts: then its tokens, the last ones, are not supervised.
        parts = [latents.parts_reference, latents.parts_target, latents.parts_driving]
        known = parts if parts[2] is not None else parts[:2]
        patch = tuple(self.transformer.config.patch_size)
        coverage = torch.cat([coverage_tokens(part, patch) for part in known], dim=1)
        return self.auxiliary["parts"](self._whole_tokens(tap.take())[:, : coverage.shape[1]], coverage)
