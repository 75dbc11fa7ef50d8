"""Checkpoints of which every process writes its part: safetensors by `torch.distributed.checkpoint`, and no pickles.

A folder holds `shard-*.safetensors`, a file for each process that had something to write, and `progress.json`, which comes last:
how far the training was, and the sizes of the files. They are read by any number of processes, one without torch.distributed
included: everybody takes what its tensors need.

Names of tensors: ``weights.NAME``, ``average.NAME``, and ``adamw.FIELD.NAME`` and ``muon.FIELD.NAME`` for optimiser states.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from scail2.errors import InputError
from scail2.files.documents import Between, DocumentError, load_json
from scail2.files.staging import atomic_file
from scail2.training.distributed.tensors import is_sharded

PROGRESS = "progress.json"
SHARDS = "shard-*.safetensors"
_COUNT = 2**53


@dataclass(frozen=True, kw_only=True)
class ShardedProgress:
    """What `progress.json` says: counts as in any checkpoint, the processes that wrote it, and names and sizes of their files."""

    step: Annotated[int, Between(0, _COUNT)]
    samples: Annotated[int, Between(0, _COUNT)]
    skipped: Annotated[int, Between(0, _COUNT)]
    average_updates: Annotated[int, Between(0, _COUNT)]
    processes: Annotated[int, Between(1, 2**20)]
    files: dict[str, int]


def is_sharded_checkpoint(folder: Path) -> bool:
    """Whether a folder is a whole checkpoint of this sort."""
    return (folder / PROGRESS).is_file()


def begin_writing(folder: Path, tensors: Mapping[str, torch.Tensor], group: dist.ProcessGroup) -> Any:
    """Copies the tensors and has all processes of ``group`` write their parts in the background; a future of the end.

    ``group`` must be used for nothing else meanwhile.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    return dcp.async_save(dict(tensors), storage_writer=writer, process_group=group)


def complete(folder: Path, counts: Mapping[str, int], processes: int) -> None:
    """Writes `progress.json` once all parts are there."""
    files = {path.name: path.stat().st_size for path in sorted(folder.glob(SHARDS))}
    described = {**counts, "processes": processes, "files": files}
    with atomic_file(folder / PROGRESS) as file:
        file.write((json.dumps(described, indent=1) + "\n").encode())


def read_sharded_progress(folder: Path) -> ShardedProgress:
    """How far the training was. Raises `InputError` for damaged files and missing shards."""
    try:
        progress = load_json(folder / PROGRESS, ShardedProgress)
    except DocumentError as error:
        raise damaged(folder / PROGRESS, str(error)) from None
    for name, size in progress.files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file() or file.stat().st_size != size:
            raise damaged(file, f"it does not have the {size} bytes that it was written with")
    return progress


def stored_sizes(folder: Path) -> dict[str, torch.Size]:
    """Whole sizes of the tensors in a checkpoint. Raises `InputError` where parts are missing or damaged."""
    read_sharded_progress(folder)
    stored = _guarded(folder, HuggingFaceStorageReader(str(folder)).read_metadata).state_dict_metadata
    for name, each in stored.items():
        if sum(part.sizes.numel() for part in each.chunks) != each.size.numel():
            raise damaged(folder / SHARDS, f"the parts of {name} do not make a whole")
    return {name: each.size for name, each in stored.items()}


def fill(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Reads tensors by name into those given; where some are sharded, all processes call it together."""
    reader = HuggingFaceStorageReader(str(folder))
    alone = not any(map(is_sharded, tensors.values()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # where one process is meant
        _guarded(folder, lambda: dcp.load(tensors, storage_reader=reader, no_dist=alone))


def damaged(file: Path, why: str) -> InputError:
    """What to say about a file of a checkpoint that cannot be read."""
    return InputError(
        f"{file} is damaged ({why}); delete the folder {file.parent} to go on from the checkpoint before it."
    )


def _guarded(folder: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (dcp.api.CheckpointException, SafetensorError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise damaged(folder / SHARDS, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
