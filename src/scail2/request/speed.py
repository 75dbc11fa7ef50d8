"""How a model is made to compute faster: its attention kernel, compilation, and steps that are guessed instead of computed.

Pure data, without torch.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scail2.errors import InputError


class AttentionKernel(StrEnum):
    """What computes attention. ``auto`` and ``sdpa``: PyTorch's own choice. ``sage`` rounds to 8 bits, the others are exact."""

    AUTO = "auto"
    SDPA = "sdpa"
    FLASH = "flash"
    FLASH3 = "flash3"
    SAGE = "sage"
    CUDNN = "cudnn"


class StepCache(StrEnum):
    """Which steps reuse what blocks gave in earlier ones.

    None; those whose first block changed little; those in which blocks are known to change little (`Magnitudes`); or at
    intervals.
    """

    OFF = "off"
    FIRST_BLOCK = "first-block"
    MAG = "mag"
    TAYLORSEER = "taylorseer"


# TaylorSeer computes attention in every so many steps, after so many at the beginning.
TAYLOR_INTERVAL, TAYLOR_FIRST = 3, 2


def attending_steps(steps: int) -> int:
    """Steps of so many in which TaylorSeer computes attention."""
    return sum(step < TAYLOR_FIRST or (step - TAYLOR_FIRST - 1) % TAYLOR_INTERVAL == 0 for step in range(steps))


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """How large what a model's blocks add to their input is, by noise level: what `StepCache.MAG` decides with.

    MagCache (arXiv 2506.09045) is given one ratio a step, so for one number of steps. Ratios of a curve over the noise level
    fit every schedule.

    Attributes:
        timesteps: 1000 (noise) to 0, falling.
        log_norms: of each, the natural logarithm of the norm of a token's residual, averaged over tokens.
    """

    timesteps: tuple[float, ...]
    log_norms: tuple[float, ...]

    def __post_init__(self) -> None:
        falling = all(earlier > later for earlier, later in itertools.pairwise(self.timesteps))
        if len(self.timesteps) < 2 or len(self.timesteps) != len(self.log_norms) or not falling:
            raise InputError("Magnitudes need two or more falling timesteps, and as many logarithms.")

    def ratios(self, timesteps: Sequence[float]) -> list[float]:
        """Each step's residual over that of the step before, as norms; the first step's is 1."""
        levels = [self._level(each) for each in timesteps]
        return [1.0, *(math.exp(later - earlier) for earlier, later in itertools.pairwise(levels))]

    def _level(self, timestep: float) -> float:
        """Between two measured noise levels, along a line; beyond the outermost, as there."""
        after = bisect_left(self.timesteps, -timestep, key=lambda known: -known)
        if after in (0, len(self.timesteps)):
            return self.log_norms[min(after, len(self.timesteps) - 1)]
        (high, low), (first, last) = (each[after - 1 : after + 1] for each in (self.timesteps, self.log_norms))
        return first + (last - first) * (high - timestep) / (high - low)


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
