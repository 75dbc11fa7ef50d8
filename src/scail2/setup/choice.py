"""Which files for how much GPU memory, and how they have to be loaded there.

The needs are arithmetic on public numbers, not measurements of this program: 16.4 billion parameters in two bytes each,
and what an A100 was reported to hold beside them for 81 frames of 512x896 (40.1 GB in all, the encoders not counted).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from scail2.setup.public_files import DEFAULT_MODEL, ModelSet, model_set

# GiB on the GPU.
TRANSFORMER, ENCODERS, WORKING = 30.5, 12.3, 8.0
_BLOCKS_ON_GPU = 2.5


class Placement(Enum):
    """How a pipeline is laid out. Values: GiB of GPU memory it needs, what it is, and the lines of Python that do it."""

    WHOLE = (
        TRANSFORMER + ENCODERS + WORKING,
        "everything stays on the GPU",
        ('pipe = load_pipeline("{model}", device="cuda")',),
    )
    BY_MODEL = (
        TRANSFORMER + WORKING,
        "one network at a time on the GPU, from Python: the command line keeps everything there",
        ('pipe = load_pipeline("{model}")', "pipe.enable_model_cpu_offload()"),
    )
    BY_BLOCK = (
        _BLOCKS_ON_GPU + WORKING,
        "the transformer's blocks visit the GPU in turn, from Python: the command line keeps everything there",
        (
            'pipe = load_pipeline("{model}")',
            'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=True)',
        ),
    )

    @property
    def need(self) -> int:
        """GiB of GPU memory, rounded up."""
        return math.ceil(self.value[0])

    @property
    def meaning(self) -> str:
        """In words."""
        return self.value[1]

    def code(self, model: str) -> tuple[str, ...]:
        """The lines of Python that load a model this way."""
        return tuple(line.format(model=model) for line in self.value[2])


@dataclass(frozen=True, slots=True)
class Choice:
    """What to fetch for some memory; ``placement`` is None where the 14B does not fit by these numbers."""

    files: ModelSet
    placement: Placement | None


def placement_for(gpu_memory: float | None) -> Placement | None:
    """The least divided layout that so many GiB allow; None where none does, or without a GPU."""
    return next((each for each in Placement if gpu_memory is not None and gpu_memory >= each.need), None)


def choose(gpu_memory: float | None) -> Choice:
    """The set of files for so many GiB of GPU memory, None for no GPU.

    From where the 16-bit weights fit whole, they are taken; below, the float8 file: half the download, and what is
    computed is 16 bit all the same.
    """
    placement = placement_for(gpu_memory)
    exact = placement in (Placement.WHOLE, Placement.BY_MODEL)
    return Choice(model_set(f"{DEFAULT_MODEL}-{'fp16' if exact else 'fp8'}"), placement)
