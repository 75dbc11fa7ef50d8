"""Which part of every step a process does, so that several do together what one would. Imports no torch."""

import math
from dataclasses import dataclass, field

from scail2.errors import InputError


@dataclass(frozen=True, slots=True)
class StepShare:
    """A process's part of every step's micro-batches: number ``first``, then each ``stride``-th, and of those the ``rows``."""

    first: int = 0
    stride: int = 1
    rows: slice = field(default_factory=lambda: slice(None))


def share_of_step(number: int, processes: int, accumulation: int, batch_size: int) -> StepShare:
    """What process ``number`` of ``processes`` does of steps of ``accumulation`` micro-batches of ``batch_size`` samples.

    Whole micro-batches are dealt out as far as they go round; where there are more processes, several share one, a sample more
    or less each.

    Raises:
        InputError: a process would have nothing to do.
    """
    dealt = math.gcd(accumulation, processes)
    sharing = processes // dealt
    if sharing > batch_size:
        fitting = [n for n in range(1, processes) if n // math.gcd(accumulation, n) <= batch_size]
        raise InputError(
            f"{processes} processes cannot share a step of {accumulation} x {batch_size} samples (micro-batches x batch size): "
            f"take {' or '.join(map(str, fitting[-2:]))}, or a --batch-size of {sharing} or more."
        )
    first, place = divmod(number, sharing)
    if sharing == 1:
        return StepShare(first, dealt)
    return StepShare(first, dealt, slice(place * batch_size // sharing, (place + 1) * batch_size // sharing))
