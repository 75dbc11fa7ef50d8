"""What one of several training processes does."""

from collections.abc import Callable

import torch
import torch.distributed as dist

from scail2.training.distributed.context import ShardedContext
from scail2.training.distributed.layout import Layout, Place, device_kind, usable_processors
from scail2.training.job import TrainingJob, carry_out


def train_as_one_of(
    job: TrainingJob, layout: Layout, place: Place, say: Callable[[str], None], rendezvous: str = "env://"
) -> None:
    """Trains together with the processes that meet at ``rendezvous``, a URL as torch.distributed takes it."""
    device = _own_device(job.device, place)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, init_method=rendezvous, rank=place.rank, world_size=place.processes)
    carry_out(job, ShardedContext.create(device, layout, place), say)
    dist.barrier()
    # Not after a failure: the others would notice the closed connections before this process has said what went wrong.
    dist.destroy_process_group()


def _own_device(wanted: str | None, place: Place) -> torch.device:
    if device_kind(wanted) == "cpu":
        torch.set_num_threads(max(1, usable_processors() // place.on_machine))
        return torch.device("cpu")
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device
