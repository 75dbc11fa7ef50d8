"""What a larger work will take, from what a smaller one took at each stage."""

from dataclasses import dataclass
from typing import Annotated

from scail2.errors import InputError
from scail2.execution.figures import Figures, Resource
from scail2.files.documents import Between

UTILISATION = 0.9
"""Of the resource that everything waits for: an assumption; the rest is start-up, and stages that do not meet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """What there is to work with.

    Attributes:
        gpus, cores: cards and processor cores, of all machines.
        requests: that the endpoint answers at once.
        price: of an hour of one card.
    """

    gpus: Annotated[int, Between(1, 10**6)] = 1
    requests: Annotated[int, Between(1, 10**6)] = 8
    cores: Annotated[int, Between(1, 10**7)] = 8
    price: Annotated[float, Between(0, 1e6)] = 0.0

    def places(self, resource: Resource) -> int:
        """Of a resource."""
        return {Resource.GPU: self.gpus, Resource.ENDPOINT: self.requests, Resource.CPU: self.cores}[resource]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageForecast:
    """One stage: per item that comes to a good end, repetitions and discarded items included."""

    name: str
    resource: Resource
    visits: float
    seconds: float
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A work predicted.

    Attributes:
        hours: by resource, all stages that need it, at full use; `bottleneck` is the one with most of them.
        total_hours: of the bottleneck at the assumed utilisation: other stages run beside it.
        gpu_money, endpoint_money: cards for all these hours, busy or not; answers.
        discarded: share of items that came to no good end.
    """

    items: int
    stages: tuple[StageForecast, ...]
    hours: dict[Resource, float]
    bottleneck: Resource
    total_hours: float
    gpu_hours: float
    gpu_money: float
    endpoint_money: float
    discarded: float


def forecast(figures: Figures, items: int, machines: Machines) -> Forecast:
    """What so many good items take on these machines, when each takes what it took in `figures`.

    Raises:
        InputError: nothing was finished in them.
    """
    if not figures.done or not any(stage.busy for stage in figures.stages):
        raise InputError(
            "These figures are of a work in which nothing was finished: a plan needs stage times of at least one item."
        )
    stages = tuple(
        StageForecast(
            name=stage.name,
            resource=stage.resource,
            visits=stage.visits / figures.done,
            seconds=stage.busy / figures.done,
            cost=stage.cost / figures.done,
        )
        for stage in figures.stages
        if stage.visits
    )
    hours = {
        resource: items * sum(each.seconds for each in stages if each.resource is resource)
        / machines.places(resource) / 3600
        for resource in dict.fromkeys(each.resource for each in stages)
    }  # fmt: skip
    bottleneck = max(hours, key=lambda each: hours[each])
    total = hours[bottleneck] / UTILISATION
    uses_gpus = Resource.GPU in hours
    gone = sum(figures.discarded.values())
    return Forecast(
        items=items,
        stages=stages,
        hours=hours,
        bottleneck=bottleneck,
        total_hours=total,
        gpu_hours=total * machines.gpus if uses_gpus else 0.0,
        gpu_money=total * machines.gpus * machines.price if uses_gpus else 0.0,
        endpoint_money=items * sum(each.cost for each in stages),
        discarded=gone / (gone + figures.done),
    )
