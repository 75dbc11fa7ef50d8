"""What the stages of a work did, in numbers: throughput, queues, cost; added up over processes, kept in a file."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from scail2.files.documents import Between, load_json
from scail2.files.storage import write_json

FORMAT = 1
_COUNT = Between(0, 2**53)
_AMOUNT = Between(0, 1e15)


class Resource(StrEnum):
    """What a stage keeps busy."""

    GPU = "gpu"
    ENDPOINT = "endpoint"
    CPU = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFigures:
    """One stage, since its process began.

    Attributes:
        visits: times that it was done; several for one item where an item comes back.
        busy, waited: seconds at work and in the queue, summed over visits.
        working, waiting: items in it and in its queue now; `most_waiting`: the longest queue so far.
        failed: visits that ended with an error.
        cost: money, in the currency of the endpoint's prices.
    """

    name: str
    resource: Resource
    visits: Annotated[int, _COUNT] = 0
    busy: Annotated[float, _AMOUNT] = 0.0
    waited: Annotated[float, _AMOUNT] = 0.0
    working: Annotated[int, _COUNT] = 0
    waiting: Annotated[int, _COUNT] = 0
    most_waiting: Annotated[int, _COUNT] = 0
    failed: Annotated[int, _COUNT] = 0
    cost: Annotated[float, _AMOUNT] = 0.0

    def __add__(self, other: "StageFigures") -> "StageFigures":
        """Of two processes."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        most = max(self.most_waiting, other.most_waiting)
        return StageFigures(name=self.name, resource=self.resource, most_waiting=most, **sums)


_SUMS = ("visits", "busy", "waited", "working", "waiting", "failed", "cost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """All stages of a work, of one process or of several.

    Attributes:
        seconds: since the first of them began.
        done: items that came to a good end; discarded: those that did not, by reason.
        places: items that each resource works on at once, in all processes.
        source: where the numbers come from, in words.
    """

    seconds: Annotated[float, _AMOUNT]
    done: Annotated[int, _COUNT]
    discarded: dict[str, int] = field(default_factory=dict)
    places: dict[Resource, int] = field(default_factory=dict)
    stages: tuple[StageFigures, ...] = ()
    source: str = ""
    format: Annotated[int, Between(FORMAT, FORMAT)] = FORMAT

    def to_json(self) -> dict[str, Any]:
        """As plain values; `read_figures` reads them again."""
        return asdict(self)


def added(all_figures: Iterable[Figures]) -> Figures:
    """Of several processes that work at the same time, in the order in which stages are first named."""
    stages: dict[str, StageFigures] = {}
    total = Figures(seconds=0.0, done=0)
    for each in all_figures:
        for stage in each.stages:
            stages[stage.name] = stages[stage.name] + stage if stage.name in stages else stage
        total = Figures(
            seconds=max(total.seconds, each.seconds),
            done=total.done + each.done,
            discarded=_summed(total.discarded, each.discarded),
            places=_summed(total.places, each.places),
            stages=tuple(stages.values()),
            source=each.source,
        )
    return total


def _summed(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in (*one, *(each for each in other if each not in one))}


def write_figures(path: Path, figures: Figures) -> None:
    """Replaces a JSON file."""
    write_json(path, figures.to_json())


def read_figures(path: str | Path) -> Figures:
    """Figures from a JSON file.

    Raises:
        DocumentError: it holds something else.
    """
    return load_json(path, Figures)
