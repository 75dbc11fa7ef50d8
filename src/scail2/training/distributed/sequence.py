"""Sequence parallelism (Ulysses): each of some processes has a part of the tokens, and in attention all tokens of some heads.

The splitting, the exchange and the gathering are diffusers'. What is added here is what training needs beside them: token counts
that do not divide are padded, with the padding kept out of attention; and gradients have the size that they have in one process.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.hooks.context_parallel import EquipartitionSharder, apply_context_parallel
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from diffusers.models.attention import AttentionModuleMixin
from torch import nn
from torch.distributed.device_mesh import init_device_mesh


def sequence_groups(groups: int, degree: int, rank: int, device: torch.device) -> ContextParallelConfig:
    """Lays ``groups`` times ``degree`` processes out, so that neighbours share a sequence; all of them call it together."""
    mesh = init_device_mesh(device.type, (groups, 1, degree), mesh_dim_names=("dp", "ring", "ulysses"))
    config = ContextParallelConfig(ulysses_degree=degree, mesh=mesh)
    config.setup(rank, groups * degree, device, mesh)
    return config


class SequenceSplit:
    """Splits a transformer's token sequence over the processes of a group, for every later call.

    A process's gradients are those of its own tokens; they are `degree` times as large as that, so that their mean over the
    processes is the gradient.

    Args:
        transformer: changed in place.
        config: of `sequence_groups`.
    """

    def __init__(self, transformer: nn.Module, config: ContextParallelConfig) -> None:
        self.degree = config.ulysses_degree
        self._total = 0
        self._config = config
        # What `enable_parallelism` does, which counts accelerators and finds none on a CPU.
        transformer._parallel_config = ParallelConfig(context_parallel_config=config)
        for module in transformer.modules():
            if isinstance(module, AttentionModuleMixin):
                module.processor._parallel_config = transformer._parallel_config
        transformer.rope.forward = partial(self._padded_factors, transformer.rope.forward)
        transformer.blocks[0].register_forward_pre_hook(self._pad_tokens)
        for block in transformer.blocks:
            block.attn1.register_forward_pre_hook(self._mask_padding)
        apply_context_parallel(transformer, config, transformer._cp_plan)
        transformer.proj_out.register_forward_hook(lambda _module, _inputs, output: _Scaled.apply(output, self.degree))

    def whole(self, tokens: torch.Tensor) -> torch.Tensor:
        """``(B, L / degree, D)`` of this process -> ``(B, L, D)``, without padding."""
        gathered = EquipartitionSharder.unshard(tokens, 1, self._config._flattened_mesh)
        return _Scaled.apply(gathered, self.degree)[:, : self._total]

    @property
    def _missing(self) -> int:
        return -self._total % self.degree

    def _padded_factors(self, build: Any, layout: Any, device: torch.device) -> tuple[torch.Tensor, ...]:
        self._total = layout.total
        return tuple(F.pad(factors, (0, 0, 0, 0, 0, self._missing)) for factors in build(layout, device))

    def _pad_tokens(self, _block: nn.Module, inputs: tuple) -> tuple:
        return F.pad(inputs[0], (0, 0, 0, self._missing)), *inputs[1:]

    def _mask_padding(self, _attention: nn.Module, inputs: tuple) -> tuple | None:
        """Hands self-attention this process's part of a mask, which it gathers; none where nothing was padded."""
        if not self._missing:
            return None
        tokens, context, _, *others = inputs
        own = tokens.shape[1]
        places = torch.arange(own, device=tokens.device) + own * self._config._ulysses_local_rank
        return tokens, context, (places < self._total).view(1, 1, 1, own), *others


class _Scaled(torch.autograd.Function):
    """The same values, gradients times a factor."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, factor: int) -> torch.Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * ctx.factor, None
