"""Muon on sharded matrices: momentum stays sharded, what is made orthogonal is gathered first.

Newton and Schulz's iteration multiplies a matrix by itself, so it needs the whole of it. Every process makes the same update
and keeps its part; the numbers are those of one process.
"""

import torch
from torch.distributed.tensor import DTensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from scail2.devices import without_gradients
from scail2.training.distributed.tensors import own_part, sharded_like


class GatheringMuon(torch.optim.Muon):
    """`torch.optim.Muon` whose parameters may be sharded; states and settings are the same."""

    @without_gradients
    def step(self, closure: None = None) -> None:
        """One step; closures are not taken."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum, slope = own_part(state["momentum_buffer"]), own_part(gradient)
        momentum.lerp_(slope, 1 - group["momentum"])
        update = slope.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        if isinstance(parameter, DTensor):
            shape = {"shape": parameter.shape, "stride": parameter.stride()}
            update = DTensor.from_local(update, parameter.device_mesh, parameter.placements, run_check=False, **shape)
            update = update.full_tensor()
        update = _zeropower_via_newtonschulz(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape)
        weights = own_part(parameter)
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.add_(own_part(sharded_like(update, parameter)), alpha=-rate)
