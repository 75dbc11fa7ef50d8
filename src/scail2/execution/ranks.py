"""Several commands that fill one folder together: which of them is which, and who begins with what."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scail2.errors import InputError, short

_ID, _COUNT, _FIRST, _STEP = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "STEP"))


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `count` commands that share a work.

    Attributes:
        number: 0 … count - 1.
        own_only: ends when its own pieces are done, instead of taking what nobody else makes: for folders that are not shared.
    """

    number: int = 0
    count: int = 1
    own_only: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.number < self.count:
            raise InputError(
                f"A rank is one of 0 … {self.count - 1} where there are {self.count}, not {self.number}: give --rank and --ranks."
            )

    def order(self, numbers: Sequence[int]) -> list[int]:
        """Its own pieces, in order; then the others', from the end, since their ranks begin at the beginning."""
        own = [number for number in numbers if number % self.count == self.number]
        others = [number for number in numbers if number % self.count != self.number]
        return own if self.own_only else own + others[::-1]


def given_rank(
    number: int | None, count: int | None, *, own_only: bool = False, environment: Mapping[str, str] = os.environ
) -> Rank:
    """The rank that was asked for; without one that of a Slurm array's task; without that the only one.

    Raises:
        InputError: a number without a count or the other way round, or numbers that are none.
    """
    if (number is None) != (count is None):
        raise InputError("--rank and --ranks belong together: rank R of N is --rank R --ranks N, with R from 0.")
    if number is not None and count is not None:
        return Rank(number, count, own_only)
    if _ID not in environment:
        if own_only:
            raise InputError("--own-only is for one of several ranks: give --rank and --ranks, or run a Slurm array.")
        return Rank()
    task, tasks = _integer(environment, _ID), _integer(environment, _COUNT, 1)
    first, step = _integer(environment, _FIRST, 0), _integer(environment, _STEP, 1)
    place, beyond = divmod(task - first, max(step, 1))
    if not beyond and 0 <= place < tasks:
        return Rank(place, tasks, own_only)
    if own_only:  # --array=3,7: what the tasks' numbers mean is known to whoever wrote them
        raise InputError("With --own-only, a Slurm array has to count evenly; give --rank and --ranks instead.")
    return Rank(task % max(tasks, 1), max(tasks, 1))


def _integer(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{name} is {short(text)}, not a number: outside Slurm, unset it or give --rank and --ranks.")
    return int(text)
