"""Several processes of one test, forked, since importing everything again would take each of them seconds."""

import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scail2.training.config import TrainConfig
from scail2.training.distributed.context import ShardedContext
from scail2.training.distributed.layout import Layout, Place
from scail2.training.session import build_trainer
from scail2.training.trainer import Trainer


def together(count: int, folder: Path, act: Callable[..., None], *arguments: Any, seconds: float = 900) -> None:
    """Has ``count`` processes that speak gloo with each other do ``act(rank, *arguments)``; all must succeed."""
    forked = multiprocessing.get_context("fork")
    store = folder / f"rendezvous-{act.__name__}"
    crew = [forked.Process(target=_one, args=(rank, count, store, act, arguments)) for rank in range(count)]
    gc.collect()  # a child that clears away a decoder of its parent's would wait for threads that it does not have
    gc.freeze()
    for process in crew:
        process.start()
    gc.unfreeze()
    for process in crew:
        process.join(seconds)
    for process in crew:
        process.kill()
    assert [process.exitcode for process in crew] == [0] * count


def _one(rank: int, count: int, store: Path, act: Callable[..., None], arguments: tuple) -> None:
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        act(rank, *arguments)
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def shared_context(rank: int, layout: Layout) -> ShardedContext:
    return ShardedContext.create(torch.device("cpu"), layout, Place(rank, rank, layout.processes, layout.processes))


def trainer_of(rank: int, layout: Layout, config: TrainConfig, folder: Path) -> Trainer:
    return build_trainer(config, folder, context=shared_context(rank, layout))
