"""Muon with its iteration in numbers that the device multiplies, on whole or sharded matrices, alone or in equal processes.

Newton and Schulz's iteration multiplies a matrix by itself, so it needs the whole of it. Where parameters are sharded, momentum
stays sharded, what is made orthogonal is gathered first, and every process makes the same update and keeps its part. Where
processes hold the same parameters and gradients, each makes some of the updates for all of them. The numbers are those of
one process either way.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from scail2.devices import has_native_bf16, without_gradients
from scail2.training.distributed.tensors import is_sharded, own_part, sharded_like


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` whose parameters may be sharded; states and settings are the same.

    PyTorch's iterates in bfloat16 everywhere, which takes 30 times as long as float32 where it is emulated.

    Args:
        parameters: matrices, all sharded or none.
        lr: learning rate.
        weight_decay: as in `torch.optim.Muon`.
        processes: how many have the same parameters and, at each step, the same gradients, and share the work; 1 where they
            are sharded.
        rank: which of them this is.
    """

    def __init__(
        self, parameters: Iterable[torch.Tensor], lr: float, weight_decay: float, *, processes: int = 1, rank: int = 0
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self._processes, self._rank = processes, rank

    @without_gradients
    def step(self, closure: None = None) -> None:
        """One step; closures are not taken."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            alone = self._processes == 1 or any(map(is_sharded, moved))
            for parameter, update in self._updates(moved, group) if alone else self._shared_updates(moved, group):
                rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape)
                weights = own_part(parameter)
                weights.mul_(1 - group["lr"] * group["weight_decay"])
                weights.add_(own_part(sharded_like(update, parameter)), alpha=-rate)

    def _updates(self, parameters: list[torch.Tensor], group: dict) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        for parameter in parameters:
            yield parameter, orthogonal(self._momentum(parameter, group), group)

    def _shared_updates(
        self, parameters: list[torch.Tensor], group: dict
    ) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """The same; each process makes those that are its own, all of them get the sum of what is zero elsewhere."""
        own = set(work_parts([each.shape for each in parameters], self._processes)[self._rank])
        slopes = [self._momentum(parameter, group) for parameter in parameters]
        made = [orthogonal(s, group) if i in own else torch.zeros_like(s) for i, s in enumerate(slopes)]
        flat = torch.cat([update.to(slope).flatten() for update, slope in zip(made, slopes, strict=True)])
        dist.all_reduce(flat)
        updates = flat.split([each.numel() for each in parameters])
        return [(each, update.view_as(each)) for each, update in zip(parameters, updates, strict=True)]

    def _momentum(self, parameter: torch.Tensor, group: dict) -> torch.Tensor:
        """The step's direction before it is made orthogonal, whole."""
        state, gradient = self.state[parameter], parameter.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum, slope = own_part(state["momentum_buffer"]), own_part(gradient)
        momentum.lerp_(slope, 1 - group["momentum"])
        update = slope.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        if isinstance(parameter, DTensor):
            shape = {"shape": parameter.shape, "stride": parameter.stride()}
            update = DTensor.from_local(update, parameter.device_mesh, parameter.placements, run_check=False, **shape)
            return update.full_tensor()
        return update


def orthogonal(matrix: torch.Tensor, group: dict) -> torch.Tensor:
    """Newton and Schulz's iteration from ``matrix``, in bfloat16 where its device multiplies that natively, else in float32."""
    if has_native_bf16(matrix.device):
        return _zeropower_via_newtonschulz(matrix, group["ns_coefficients"], group["ns_steps"], group["eps"])
    a, b, c = group["ns_coefficients"]
    wide = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().T
    wide = wide / wide.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def work_parts(shapes: list[torch.Size], processes: int) -> list[list[int]]:
    """Numbers of the matrices that each process makes orthogonal, about the same work for all.

    The dearest are given out first, each to the process that has least.
    """
    work = {number: min(shape) ** 2 * (2 * max(shape) + min(shape)) for number, shape in enumerate(shapes)}
    parts: list[list[int]] = [[] for _ in range(processes)]
    for number in sorted(work, key=lambda each: -work[each]):
        min(parts, key=lambda part: sum(work[each] for each in part)).append(number)
    return parts
