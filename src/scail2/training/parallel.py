"""Where a training run lives: the device, the processes, the precision. The seam for sharded training.

Today one process trains on one device. The device, the precision and how a model is placed are asked of this module; what else
differs with several processes (which samples a rank draws, whose log counts) belongs here, too.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from scail2.devices import Precision, default_device, find_device, has_native_bf16


@dataclass(frozen=True, slots=True)
class ParallelContext:
    """The device of this process and its place among its peers."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def detect(cls, device: str | torch.device | None = None) -> "ParallelContext":
        """The named device, or the default one; rank and size from torch.distributed when it is initialised."""
        device = default_device() if device is None else find_device(device)
        if dist.is_available() and dist.is_initialized():
            return cls(device, dist.get_rank(), dist.get_world_size())
        return cls(device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Places a model on the device."""
        return model.to(self.device)

    def autocast(self, precision: Precision | None) -> contextlib.AbstractContextManager:
        """The forward pass's context for a number format; without one bfloat16 where the device multiplies it natively."""
        if precision is None:
            precision = Precision.BFLOAT16 if has_native_bf16(self.device) else Precision.FLOAT32
        if precision == Precision.FLOAT32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=precision.torch_dtype)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each process's gradients by their mean over all processes (every one must have the same ones)."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.world_size).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
