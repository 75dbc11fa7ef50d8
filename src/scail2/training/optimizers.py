"""Optimisers: AdamW, or Muon on the blocks' matrices and convolutions beside AdamW on everything else; the rate's curve."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from scail2.training.config import OptimizerConfig
from scail2.training.distributed.muon import Muon
from scail2.training.distributed.tensors import is_sharded


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Share of the full learning rate at ``step`` of ``steps``: warm-up, flat, decay.

    The cosine is the published annealing: it counts steps from 1 and begins when the warm-up ends.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    start = config.decay_from * steps
    if step < start or steps <= start:
        return 1.0
    done = step if config.decay == "linear" else step + 1 - config.warmup
    progress = min(max(done - start, 0.0) / (steps - start), 1.0)
    falling = 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * falling


class OptimizerSet:
    """One or two torch optimisers stepped together.

    Args:
        named_parameters: those that need gradients are trained.
        config: the recipe's.
        processes: how many step the same parameters with the same gradients; they share Muon's work.
        rank: which of them this is.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        *,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        self.config = config
        trained = [(name, p) for name, p in named_parameters if p.requires_grad]
        names = {id(p): name for name, p in trained}
        hidden = [p for name, p in trained if config.muon_learning_rate and _is_hidden_weight(name, p)]
        chosen = {id(p) for p in hidden}
        # Muon takes matrices: a convolution's weights are looked at as one, in the same memory.
        matrices = [p if p.ndim == 2 else nn.Parameter(p.detach().view(len(p), -1)) for p in hidden]
        self._views = [(p, matrix) for p, matrix in zip(hidden, matrices, strict=True) if p is not matrix]
        names |= {id(matrix): names[id(p)] for p, matrix in self._views}
        rest = [p for _, p in trained if id(p) not in chosen]
        self.parameters = [p for _, p in trained]
        self.optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            rate = config.muon_learning_rate
            self.optimizers.append(Muon(matrices, lr=rate, weight_decay=0.0, processes=processes, rank=rank))
        if rest:
            self.optimizers.append(
                torch.optim.AdamW(_decay_groups(rest, config.weight_decay), lr=config.learning_rate, betas=config.betas)
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self.names = [[names[id(p)] for p in _parameters(optimizer)] for optimizer in self.optimizers]

    def step(self, factor: float) -> float:
        """Clips, steps with the learning rates times ``factor``, clears gradients; returns the norm before clipping.

        A norm that is not finite changes nothing but the gradients, which are dropped.
        """
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        norm = norm.full_tensor() if is_sharded(norm) else norm
        if not math.isfinite(norm):
            self.drop_gradients()
            return float(norm)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm or math.inf, norm)
        for convolution, matrix in self._views:
            matrix.grad, convolution.grad = convolution.grad.view_as(matrix), None
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def drop_gradients(self) -> None:
        """Forgets what was accumulated."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict]:
        """States in the order of the optimisers."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        """Restores moments from :meth:`state_dict`, made of tensors like its own; settings stay those of this run's recipe.

        Raises:
            ValueError: the states are of other optimisers or other parameters.
        """
        if len(states) != len(self.optimizers):
            raise ValueError(f"{len(states)} optimisers were saved, this recipe has {len(self.optimizers)}")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, own in zip(optimizer.param_groups, settings, strict=True):
                group.update(own)

    def named_parameters(self) -> list[dict[str, nn.Parameter]]:
        """What each optimiser trains, by name and in the order of its states; convolutions as the matrices they are to Muon."""
        return [
            dict(zip(names, _parameters(o), strict=True)) for names, o in zip(self.names, self.optimizers, strict=True)
        ]


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases and scales of norms, which are vectors, without. One group where there is none."""
    if not weight_decay:
        return [{"params": parameters, "weight_decay": 0.0}]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = ({"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _is_hidden_weight(name: str, parameter: nn.Parameter) -> bool:
    # Muon orthogonalises updates of hidden layers; embeddings and the head keep AdamW (its authors' advice).
    return parameter.ndim in (2, 4) and "blocks." in name
