"""One way to have numbered work done: here, by processes of this machine, by actors of a Ray cluster, alone or beside others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scail2.errors import InputError
from scail2.execution.feed import Feed
from scail2.execution.processes import Workers
from scail2.execution.ranks import Rank
from scail2.execution.ray_actors import run_in_ray
from scail2.execution.tasks import Listen, Outcome, Settled, Tasks, Watch, claim_and_perform


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Who works.

    Attributes:
        workers: processes (or actors); 1 without Ray works in the process that asks.
        start: called first in each worker process, before the work is imported there; a function of a module.
        rank: which of several commands this is.
        ray: None, ``local`` (started and ended here) or a cluster's address as `ray.init` takes it.
        gpus: of each actor; processes and Slurm tasks see the machine's as they are.
    """

    workers: int = 1
    start: Callable[[], None] | None = None
    rank: Rank = field(default_factory=Rank)
    ray: str | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1 or self.gpus < 0:
            raise InputError(
                f"Work needs at least one worker, and no negative share of a GPU, not {self.workers}, {self.gpus}."
            )


def as_crew(workers: int | Crew) -> Crew:
    """So many processes as a crew; a crew as it is."""
    return workers if isinstance(workers, Crew) else Crew(workers=workers)


@dataclass(frozen=True, slots=True)
class RankReport:
    """What one command did: pieces it made, and those that others were still making when it ended."""

    made: list[int]
    held: list[int]


def run_for_rank(tasks: Tasks, numbers: Sequence[int], crew: Crew, listen: Listen) -> RankReport:
    """Makes what is not there of these pieces: first the rank's own, then what nobody else makes.

    A worker that dies is replaced and its piece made again, without the item at which three died. Commands that are killed
    leave whole pieces or none, and locks that end with them.

    Args:
        listen: hears, in this process, how the work goes on.

    Raises:
        InputError: workers that cannot work, Ray that is not there; and whatever a piece raises.
    """
    wanted = [number for number in crew.rank.order(numbers) if not tasks.is_done(number)]
    feed = Feed(wanted)
    if not wanted:
        return RankReport([], [])
    size = min(crew.workers, len(wanted))
    if crew.ray is not None:
        run_in_ray(tasks, feed, listen, address=crew.ray, size=size, start=crew.start, gpus=crew.gpus)
    elif size == 1:  # a process takes longer to start than most pieces take
        _work_here(tasks, feed, listen)
    else:
        with Workers(tasks, feed, listen, crew.start) as workers:
            workers.run(size)
    return RankReport(sorted(feed.made), feed.held())


def _work_here(tasks: Tasks, feed: Feed, listen: Listen) -> None:
    while not feed.is_over():
        number = feed.take()
        if number is None:
            time.sleep(0.05)  # others hold the rest
            continue
        outcome = Outcome.HELD
        try:
            outcome = claim_and_perform(tasks, number, Watch(number, listen))
        finally:
            feed.settle(number, outcome)
        listen(Settled(number, outcome))
