"""Which files for how much GPU memory, and how they have to be loaded there.

The needs are arithmetic on public numbers, not measurements of this program: 16.4 billion parameters in two bytes each,
and what an A100 was reported to hold beside them for 81 frames of 512x896 (40.1 GB in all, the encoders not counted).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from scail2.files.public.catalogue import DEFAULT_MODEL, ModelSet, model_set

# GiB on the GPU.
TRANSFORMER, ENCODERS, WORKING = 30.5, 12.3, 8.0
# With blocks in turn, tokens a few at a time and the autoencoder in tiles, as `scail2 plan` reckons (docs/hardware.md).
_BLOCKS_IN_TURN = 7.4


class Layout(StrEnum):
    """The placements of a model, named as for ``--placement``, whose needs are known: from the largest to the smallest."""

    RESIDENT = "resident"
    ENCODERS_FIRST = "encoders-first"
    BLOCK_OFFLOAD = "block-offload"

    @property
    def need(self) -> int:
        """GiB of GPU memory for 81 frames of 512x896, rounded up."""
        on_gpu = {
            Layout.RESIDENT: TRANSFORMER + ENCODERS + WORKING,
            Layout.ENCODERS_FIRST: TRANSFORMER + WORKING,
            Layout.BLOCK_OFFLOAD: _BLOCKS_IN_TURN,
        }
        return math.ceil(on_gpu[self])

    @property
    def least(self) -> float:
        """GiB that a GPU must report: cards of 8 GB report a little less."""
        return _BLOCKS_IN_TURN if self is Layout.BLOCK_OFFLOAD else self.need

    @property
    def meaning(self) -> str:
        """In words."""
        return {
            Layout.RESIDENT: "everything stays on the GPU",
            Layout.ENCODERS_FIRST: "the encoders leave the GPU before the transformer comes (--placement encoders-first)",
            Layout.BLOCK_OFFLOAD: "blocks of the transformer visit the GPU in turn (--placement block-offload)",
        }[self]


@dataclass(frozen=True, slots=True)
class Choice:
    """What to fetch for some memory; ``layout`` is None where the 14B does not fit by these numbers."""

    files: ModelSet
    layout: Layout | None


def layout_for(gpu_memory: float | None) -> Layout | None:
    """The largest layout that so many GiB allow; None where none does, or without a GPU."""
    return next((each for each in Layout if gpu_memory is not None and gpu_memory >= each.least), None)


def choose(gpu_memory: float | None) -> Choice:
    """The set of files for so many GiB of GPU memory, None for no GPU.

    From where the 16-bit weights fit whole, they are taken; below, the float8 file: half the download, and what is
    computed is 16 bit all the same.
    """
    layout = layout_for(gpu_memory)
    exact = layout in (Layout.RESIDENT, Layout.ENCODERS_FIRST)
    return Choice(model_set(f"{DEFAULT_MODEL}-{'fp16' if exact else 'fp8'}"), layout)
