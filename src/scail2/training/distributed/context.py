"""The context of a training that several processes do together: what `ParallelContext` is for one."""

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from scail2.devices import Precision
from scail2.errors import InputError
from scail2.files.staging import Staging
from scail2.training.config import TrainConfig
from scail2.training.distributed.files import begin_writing, complete
from scail2.training.distributed.layout import Layout, Place
from scail2.training.distributed.sequence import SequenceSplit, sequence_groups
from scail2.training.distributed.sharding import shard_model
from scail2.training.ema import WeightAverage
from scail2.training.optimizers import OptimizerSet
from scail2.training.parallel import ParallelContext
from scail2.training.sharing import StepShare, share_of_step
from scail2.training.state import Counts, named_state, prune_states, replace_state, state_path

logger = logging.getLogger(__name__)


@dataclass
class _Together:
    """What changes: the split of sequences, and a checkpoint that is being written."""

    split: SequenceSplit | None = None
    writing: Future | None = None


@dataclass(frozen=True, slots=True)
class ShardedContext(ParallelContext):
    """One of several processes; torch.distributed must be initialised with a backend for the device and gloo for the CPU.

    Weights are sharded over all processes. Neighbours of ``layout.sequence`` share sequences, groups of them share samples.
    """

    layout: Layout = field(default_factory=lambda: Layout(1))
    local_rank: int = 0
    on_machine: int = 1
    _groups: Any = None
    _all: Any = None
    _writers: Any = None
    _state: _Together = field(default_factory=_Together)

    @classmethod
    def create(cls, device: torch.device, layout: Layout, place: Place) -> "ShardedContext":
        """Lays the processes out; all of them call it."""
        count, degree = layout.processes, layout.sequence
        groups = sequence_groups(layout.groups, degree, place.rank, device) if degree > 1 else None
        everybody = init_device_mesh(device.type, (count,), mesh_dim_names=("all",))
        writers = dist.new_group(backend="gloo")  # checkpoints are written while others compute and speak
        places = (place.local_rank, place.on_machine)
        return cls(device, place.rank, count, layout, *places, groups, everybody, writers)

    @property
    def told(self) -> str:
        """See `ParallelContext`."""
        shared = f", {self.layout.sequence} to a sequence" if self.layout.sequence > 1 else ""
        return f"{self.layout.processes} processes ({self.device.type}{shared})"

    def place(self, transformer: nn.Module, auxiliary: nn.Module, precision: Precision | None) -> None:
        """See `ParallelContext`."""
        if self._groups is not None:
            self._state.split = SequenceSplit(transformer, self._groups)
        shard_model(transformer, auxiliary, self._all, self.precision(precision))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """See `ParallelContext`."""
        for number in range(self.on_machine):
            if number == self.local_rank:
                yield
            dist.barrier(self._writers)

    def whole_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `ParallelContext`."""
        return tokens if self._state.split is None else self._state.split.whole(tokens)

    def share(self, accumulation: int, batch_size: int) -> StepShare:
        """See `ParallelContext`."""
        return share_of_step(self.rank // self.layout.sequence, self.layout.groups, accumulation, batch_size)

    def backward(self, loss: torch.Tensor) -> None:
        """See `ParallelContext`."""
        # Sharding takes the mean over all processes; of those that share a sequence, `SequenceSplit` makes it the sum.
        (loss * self.layout.groups).backward()

    def agree(self, terms: Mapping[str, torch.Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        """See `ParallelContext`."""
        numbers = torch.tensor([*(float(value) for value in terms.values()), float(stop)], dtype=torch.float64)
        dist.all_reduce(numbers)
        *sums, stops = numbers.tolist()
        return {name: value / self.layout.sequence for name, value in zip(terms, sums, strict=True)}, stops > 0

    def save(
        self,
        config: TrainConfig,
        directory: Path,
        counts: Counts,
        model: nn.Module,
        optimizers: OptimizerSet,
        average: WeightAverage | None,
    ) -> Path:
        """See `ParallelContext`; everybody writes its part, in the background."""
        self.settle()
        final = state_path(directory, counts.step)
        staging = Staging(final) if self.speaks else None
        if staging is not None:
            staging.place.mkdir()
        place = [None if staging is None else str(staging.place)]
        dist.broadcast_object_list(place, src=0)
        writing = begin_writing(Path(str(place[0])), named_state(model, optimizers, average), self._writers)
        promise = self._state.writing = Future()
        numbers = {"step": counts.step, "samples": counts.samples, "skipped": counts.skipped}
        numbers["average_updates"] = average.updates if average else 0

        def finish(written: Future) -> None:
            try:
                written.result()
                if staging is not None:
                    complete(staging.place, numbers, self.world_size)
                    replace_state(staging)
                    prune_states(directory, config.keep_checkpoints)
            except BaseException as error:
                promise.set_exception(error)
            else:
                promise.set_result(None)
            finally:
                if staging is not None:
                    staging.close()

        writing.add_done_callback(finish)
        return final

    def settle(self) -> None:
        """See `ParallelContext`."""
        writing, self._state.writing = self._state.writing, None
        if writing is not None:
            writing.result()
            dist.barrier(self._writers)

    @contextmanager
    def folder(self, output: Path, config: TrainConfig, start_from: Path | None) -> Iterator[Path]:
        """See `ParallelContext`; the first process holds it for all."""
        with ExitStack() as held:
            told: list[str | None] = [None]
            if self.speaks:
                try:
                    held.enter_context(ParallelContext.folder(self, output, config, start_from))
                except InputError as error:
                    told = [str(error)]
            dist.broadcast_object_list(told, src=0)
            if told[0] is not None:
                raise InputError(told[0])
            yield Path(output)
