"""How a model is made to compute faster: its attention kernel, compilation, and steps that are guessed instead of computed.

Pure data, without torch.
"""

from dataclasses import dataclass
from enum import StrEnum


class AttentionKernel(StrEnum):
    """What computes attention. ``auto`` and ``sdpa``: PyTorch's own choice. ``sage`` rounds to 8 bits, the others are exact."""

    AUTO = "auto"
    SDPA = "sdpa"
    FLASH = "flash"
    FLASH3 = "flash3"
    SAGE = "sage"
    CUDNN = "cudnn"


class StepCache(StrEnum):
    """Which steps reuse what blocks gave in earlier ones: none, those whose first block changed little, or at intervals."""

    OFF = "off"
    FIRST_BLOCK = "first-block"
    TAYLORSEER = "taylorseer"


# TaylorSeer computes attention in every so many steps, after so many at the beginning.
TAYLOR_INTERVAL, TAYLOR_FIRST = 3, 2


def attending_steps(steps: int) -> int:
    """Steps of so many in which TaylorSeer computes attention."""
    return sum(step < TAYLOR_FIRST or (step - TAYLOR_FIRST - 1) % TAYLOR_INTERVAL == 0 for step in range(steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Choices that cost precision, preparation or nothing; the default changes nothing."""

    attention: AttentionKernel = AttentionKernel.AUTO
    compile: bool = False
    cache: StepCache = StepCache.OFF

    def inexact(self) -> dict[str, str]:
        """What of it changes frames, by name: it belongs to what identifies a segment."""
        found = {"attention": str(self.attention)} if self.attention is AttentionKernel.SAGE else {}
        return found if self.cache is StepCache.OFF else found | {"cache": str(self.cache)}
