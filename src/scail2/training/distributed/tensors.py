"""Tensors of which each process holds a part."""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether other processes hold parts of it."""
    return isinstance(tensor, DTensor)


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor: all of an ordinary one. It is the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor that every process has whole, held as ``like`` is; no process asks another."""
    if not isinstance(like, DTensor):
        return whole
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
