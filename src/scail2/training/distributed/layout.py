"""How processes are laid out, and whether a recipe, a model and a machine allow it. Imports torch for GPUs only."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scail2.checkpoints.model_folder import read_config
from scail2.devices import count_devices, default_kind
from scail2.errors import InputError, short
from scail2.training.config import TrainConfig
from scail2.training.sharing import share_of_step


@dataclass(frozen=True, slots=True)
class Layout:
    """``processes`` in all; each ``sequence`` neighbours share one sequence of tokens, the groups share the samples."""

    processes: int
    sequence: int = 1

    def __post_init__(self) -> None:
        if self.sequence > self.processes or self.processes % self.sequence:
            raise InputError(
                f"--sequence-parallel {self.sequence} does not divide the number of processes, which is {self.processes}: take "
                f"a --nproc of {self.sequence * max(1, round(self.processes / self.sequence))} or another degree."
            )

    @property
    def groups(self) -> int:
        """Groups of processes that work on different samples."""
        return self.processes // self.sequence

    def check(self, config: TrainConfig) -> None:
        """Raises `InputError` where a process would have no samples, or the model's attention heads cannot be shared."""
        share_of_step(0, self.groups, config.accumulation, config.data.batch_size)
        folder = Path(config.model) / "transformer"
        if self.sequence == 1 or not folder.is_dir():
            return
        heads = read_config(folder).get("num_attention_heads", 40)
        if isinstance(heads, int) and heads % self.sequence:
            fitting = ", ".join(str(n) for n in range(2, heads + 1) if heads % n == 0)
            raise InputError(
                f"The {heads} attention heads of {config.model} cannot be shared by --sequence-parallel {self.sequence}: the "
                f"degree must divide them ({fitting})."
            )


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes this is: by number, and by number on its machine."""

    rank: int
    local_rank: int
    processes: int
    on_machine: int

    @classmethod
    def in_environment(cls, environment: Mapping[str, str] = os.environ) -> "Place | None":
        """What torchrun says; None where this process was not started by it."""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        if not all(environment.get(name, "").isdigit() for name in (*names[:3], "MASTER_PORT")):
            return None
        values = [int(environment.get(name, environment["WORLD_SIZE"])) for name in names]
        return cls(*values)


def device_kind(wanted: str | None) -> str:
    """The kind of device that each process has one of: "cuda" or "cpu".

    Raises:
        InputError: another kind, or a certain device, is asked for.
    """
    kind = default_kind() if wanted is None else wanted
    if kind not in ("cpu", "cuda"):
        raise InputError(
            f"Several processes train on cuda or cpu, each on a device of its own: --device {short(kind)} is neither."
        )
    return kind


def check_machine(processes: int, kind: str) -> None:
    """Raises `InputError` where there are fewer devices of a kind than processes; of a CPU the processors count."""
    count = usable_processors() if kind == "cpu" else count_devices(kind)
    if processes > count:
        what = (
            f"{count} processor{'s' * (count != 1)}" if kind == "cpu" else f"{count} {kind} device{'s' * (count != 1)}"
        )
        more = " (torchrun starts as many as it is told)" if kind == "cpu" else ""
        raise InputError(f"--nproc {processes} is more than this machine has: it has {what}{more}.")


def usable_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
