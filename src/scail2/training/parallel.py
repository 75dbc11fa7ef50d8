"""Where a training run lives: the device, the processes, the precision. The seam for sharded training.

Here one process trains on one device. Everything that differs with several is asked of the context: how a model is placed, which
samples a process takes, what its losses are worth, what all agree on, and how a checkpoint is written. For several it is
`scail2.training.distributed.context.ShardedContext`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from scail2.devices import Precision, default_device, find_device, has_native_bf16
from scail2.errors import InputError
from scail2.training.config import TrainConfig
from scail2.training.ema import WeightAverage
from scail2.training.optimizers import OptimizerSet
from scail2.training.run_folder import training_folder
from scail2.training.sharing import StepShare, share_of_step
from scail2.training.state import Counts, prune_states, save_state


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

    @property
    def speaks(self) -> bool:
        """Whether this process writes the log and tells the user."""
        return self.rank == 0

    @property
    def told(self) -> str:
        """Where it trains, in words."""
        return str(self.device)

    def precision(self, wanted: Precision | None) -> Precision:
        """A recipe's number format; without one bfloat16 where the device multiplies it natively."""
        native = Precision.BFLOAT16 if has_native_bf16(self.device) else Precision.FLOAT32
        return native if wanted is None else wanted

    def autocast(self, precision: Precision | None) -> AbstractContextManager:
        """The forward pass's context for a number format, or for `precision`'s choice."""
        chosen = self.precision(precision)
        if chosen == Precision.FLOAT32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=chosen.torch_dtype)

    def place(self, transformer: nn.Module, auxiliary: nn.Module, precision: Precision | None) -> None:
        """Puts what is trained where it is trained; before its optimisers are made."""
        del precision  # autocast casts weights as they are used
        self.wrap(transformer)
        self.wrap(auxiliary)

    def in_turn(self) -> AbstractContextManager:
        """A block that processes of one machine pass one after another: each needs as much main memory as the whole model."""
        return contextlib.nullcontext()

    def whole_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states ``(B, L, D)`` of all tokens, from those that this process has of them."""
        return tokens

    def share(self, accumulation: int, batch_size: int) -> StepShare:
        """This process's part of each step.

        Raises:
            InputError: a process would have nothing to do, or several would do the same.
        """
        if self.world_size > 1:
            raise InputError(
                "Each of these processes would train the same: use scail2 train, with --nproc or under torchrun, or give "
                "build_trainer a ShardedContext."
            )
        return share_of_step(0, 1, accumulation, batch_size)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a loss's gradients; the processes' losses add up."""
        loss.backward()

    def agree(self, terms: Mapping[str, torch.Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        """A step's numbers, added up over the processes, and whether any of them wants to stop: the same everywhere."""
        return {name: float(value) for name, value in terms.items()}, stop

    def save(
        self,
        config: TrainConfig,
        directory: Path,
        counts: Counts,
        model: nn.Module,
        optimizers: OptimizerSet,
        average: WeightAverage | None,
    ) -> Path:
        """Writes a checkpoint into ``directory`` and drops old ones; it is there for sure after `settle`."""
        path = save_state(directory, counts, model, optimizers, average)
        prune_states(directory, config.keep_checkpoints)
        return path

    def settle(self) -> None:
        """Waits until everything that was saved is written, by all processes."""

    @contextmanager
    def folder(self, output: Path, config: TrainConfig, start_from: Path | None) -> Iterator[Path]:
        """Holds the run's folder, see `training_folder`."""
        with training_folder(output, config, start_from) as folder:
            yield folder

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
