"""Bias-Aware DPO: of two videos of one motion the better one is to become likelier where they differ, against the same network
without its adapters.

Δ_M(x0) = ‖M ⊙ (v_θ(x_t, t) − v)‖² − ‖M ⊙ (v_ref(x_t, t) − v)‖² with the same noise and t for both videos, and

    L = L_SFT(x⁺) + λ · L_M,    L_M = −log σ(z),    z = −β/2 · (Δ_M(x⁺) − Δ_M(x⁻)).

‖·‖² is a mean over the cells of M: a sum over a latent video makes z so large at once that its sigmoid has no gradient.
"""

from collections import deque
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from scail2.errors import InputError
from scail2.training.batches import TrainingBatch
from scail2.training.config import LossConfig, PreferenceConfig, TrainConfig
from scail2.training.objectives.flow_matching import squared_error
from scail2.training.objectives.supervised import FlowMatchingObjective, Loss, NoiseDraw

# Beyond this |z| less than a fiftieth of the gradient is left.
_SATURATED = 4.0


def region_error(
    velocity: torch.Tensor,
    target: torch.Tensor,
    t: torch.Tensor,
    region: torch.Tensor,
    loss: LossConfig,
    mean_over: str = "region",
) -> torch.Tensor:
    """‖M ⊙ (v̂ − v)‖² of each sample, ``(B,)``.

    Args:
        velocity, target: ``(B, C, T, h, w)``.
        t: ``(B,)``, used where ``loss.space`` is "sample".
        region: M, weights ``(B, 1, T, h, w)``; a sample without any has no error.
        mean_over: "region" divides by the sum of the weights, "all" by the number of all cells.
    """
    error = (squared_error(velocity, target, t, loss) * region).flatten(1)
    if mean_over == "all":
        return error.mean(dim=1)
    return error.sum(dim=1) / region.flatten(1).sum(dim=1).clamp(min=1e-6)


def bias_aware_dpo_loss(
    preferred: torch.Tensor, rejected: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """L_M of each sample and its z, both ``(B,)``, from the two videos' Δ_M ``(B,)``.

    z is above 0 where the preferred video gained more than the rejected one.
    """
    logit = -0.5 * beta * (preferred - rejected)
    return -F.logsigmoid(logit), logit


class PreferenceObjective(FlowMatchingObjective):
    """Supervised flow matching on the preferred video plus λ times the preference loss in the regions.

    The gradient is taken in two passes, so that one graph is alive at a time: the rejected video's error, without its gradient,
    gives the weight w = β/2 · σ(−z), then +w times the preferred error and −w times the rejected one are differentiated one
    after the other. That is the gradient of the joint loss.

    Args:
        transformer: with adapters; without them it is the reference.
        config: has `preference`.
        empty_prompt: as in `FlowMatchingObjective`.
    """

    def __init__(self, transformer: nn.Module, config: TrainConfig, empty_prompt: torch.Tensor | None = None) -> None:
        if config.preference is None or config.lora is None:
            raise InputError(
                "Preference training compares adapters with the network without them: the recipe needs LoRA."
            )
        super().__init__(transformer, config, 0, empty_prompt)
        self.preference: PreferenceConfig = config.preference
        self._recent: deque[tuple[float, float]] = deque(maxlen=self.preference.patience)

    def losses(self, batch: TrainingBatch, generator: torch.Generator) -> Iterator[Loss]:
        """See :class:`Objective`: the preferred video's loss, then the rejected one's."""
        latents, settings = batch.latents, self.preference
        if latents.rejected is None:
            raise InputError(
                "The recipe trains on preference pairs, but the cached samples hold none: make them with scail2 preferences and "
                "cache those shards."
            )
        whole, rows = self.draw(batch, generator), batch.rows
        draw, own, worse = whole.only(rows), latents.only(rows), latents.rejected[rows]
        region = latents.region_weight(settings.regions) * (1 - whole.history)
        if latents.excluded is not None:
            region = region * (latents.excluded.amax(1, keepdim=True) == 0)
        seen = (region.flatten(1).sum(dim=1) > 0).float()
        region, shown = region[rows], seen[rows] / seen.sum().clamp(min=1)
        # No pass runs under no_grad, where the network takes other kernels: in bfloat16 their rounding alone, times β, would be
        # a preference. Without adapters nothing is trainable, so no graph is built; the rejected video's is let go at once.
        reference = [self._reference_error(video, draw, region) for video in (own.target, worse)]
        rejected = self._error(self.velocity(worse, draw), worse, draw, region).detach()
        velocity = self.velocity(own.target, draw)
        preferred = self._error(velocity, own.target, draw, region)
        differences = preferred.detach() - reference[0], rejected - reference[1]
        loss, logit = bias_aware_dpo_loss(*differences, settings.beta)
        sft = self.matching(velocity, latents, whole, rows)
        # d(mean −log σ(z)) / d(Δ of each sample), for the preferred video; the rejected one's is its negative.
        pull = 0.5 * settings.beta * torch.sigmoid(-logit) / len(seen)
        terms = {
            "sft": sft.detach(),
            "preference": loss.sum() / len(seen),
            "reference_error": (reference[0] * shown).sum(),
        }
        terms |= _terms(differences, logit, shown)
        yield sft + settings.weight * (pull * preferred).sum(), terms
        del velocity, preferred, sft
        again = self._error(self.velocity(worse, draw), worse, draw, region)
        yield -settings.weight * (pull * again).sum(), {}

    def concern(self, terms: dict[str, float]) -> str | None:
        """See :class:`Objective`: both errors may fall apart together while their difference improves; that is no gain."""
        settings, recent = self.preference, self._recent
        recent.append((terms["delta_preferred"], terms["reference_error"]))
        worse, scale = (sum(values) for values in zip(*recent, strict=True))
        if len(recent) < settings.patience or worse <= settings.most_worse * scale:
            return None
        return (
            f"the winner worsens: over the last {settings.patience} steps the preferred videos' error was {worse / scale:.1%} "
            f"above that of the network without adapters, {settings.most_worse:.1%} are allowed. Begin again with a lower "
            "--rate, or with a smaller weight or beta of the preference loss."
        )

    def _error(
        self, velocity: torch.Tensor, video: torch.Tensor, draw: NoiseDraw, region: torch.Tensor
    ) -> torch.Tensor:
        return region_error(velocity, draw.noise - video, draw.t, region, self.config.loss, self.preference.mean_over)

    def _reference_error(self, video: torch.Tensor, draw: NoiseDraw, region: torch.Tensor) -> torch.Tensor:
        self.transformer.disable_adapters()
        try:
            return self._error(self.velocity(video, draw), video, draw, region).detach()
        finally:
            self.transformer.enable_adapters()


def _terms(
    differences: tuple[torch.Tensor, torch.Tensor], logit: torch.Tensor, shown: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Numbers for the log: means over the batch's samples that show the region, each of which counts ``shown``."""
    right = (logit > 0).float() + 0.5 * (logit == 0).float()
    return {
        "delta_preferred": (differences[0] * shown).sum(),
        "delta_rejected": (differences[1] * shown).sum(),
        "logit": (logit * shown).sum(),
        "implicit_accuracy": (right * shown).sum(),
        "saturation": ((logit.abs() > _SATURATED).float() * shown).sum(),
    }
