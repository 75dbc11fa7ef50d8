"""An exponential moving average of the trained weights."""

import torch
from torch import nn

from scail2.devices import without_gradients
from scail2.training.distributed.tensors import own_part


class WeightAverage:
    """Keeps decay·average + (1 − decay)·weights of every trained parameter, in fp32; of sharded ones, sharded alike.

    Early on the effective decay is (1 + n) / (10 + n) after n updates, so that the average forgets the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {n: p.detach().float().clone() for n, p in model.named_parameters() if p.requires_grad}

    @without_gradients
    def update(self, model: nn.Module) -> None:
        """Takes in the model's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(model.named_parameters())
        names = list(self.average)
        averages = [own_part(self.average[n]) for n in names]
        torch._foreach_lerp_(averages, [own_part(parameters[n].detach()).float() for n in names], 1 - decay)

    @without_gradients
    def copy_to(self, model: nn.Module) -> None:
        """Writes the averages into ``model``."""
        parameters = dict(model.named_parameters())
        for name, value in self.average.items():
            parameters[name].copy_(value)
