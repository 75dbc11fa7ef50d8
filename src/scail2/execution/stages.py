"""Stages that several items pass at once: what needs a GPU and what waits for an endpoint overlap, nothing piles up.

Each resource has so many places; whoever comes waits for one, those first whose item began first. Items in progress are
bounded (`overlapped`), and so are the queues before every stage.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from scail2.execution.figures import Figures, Resource, StageFigures

_PAUSE = 0.5  # seconds between reports


@dataclass(slots=True)
class Visit:
    """An item's stay at a stage: what it cost and whether it failed is set by who was there, its seconds when it is over."""

    cost: float = 0.0
    failed: bool = False
    seconds: float = 0.0


@dataclass(slots=True)
class _Place:
    """What a stage did so far."""

    resource: Resource
    visits: int = 0
    busy: float = 0.0
    waited: float = 0.0
    working: int = 0
    waiting: int = 0
    most_waiting: int = 0
    failed: int = 0
    cost: float = 0.0


@dataclass(slots=True)
class _Queue:
    """Those who wait for a resource: (order of the item, ticket)."""

    free: int
    waiting: list[tuple[int, int]] = field(default_factory=list)


class StageBoard:
    """Gives out the places at stages and keeps count; used by any number of threads.

    Args:
        stages: name -> resource, in the order in which they are shown.
        places: items that a resource works on at once, 1 where it is not named.
        listen: hears the figures, at most every half second.
    """

    def __init__(
        self,
        stages: Mapping[str, Resource],
        places: Mapping[Resource, int] | None = None,
        listen: Callable[[Figures], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = {name: _Place(resource) for name, resource in stages.items()}
        self._widths = {each: (places or {}).get(each, 1) for each in dict.fromkeys(stages.values())}
        self._queues = {resource: _Queue(width) for resource, width in self._widths.items()}
        self._changed, self._clock, self._began = Condition(), clock, clock()
        self._tickets, self._told = 0, float("-inf")
        self._done, self._discarded = 0, Counter[str]()
        self.listen = listen

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it begins anew."""
        return StageBoard, ({name: stage.resource for name, stage in self._stages.items()}, self._widths)

    @contextmanager
    def at(self, name: str, order: int = 0) -> Iterator[Visit]:
        """Waits for a place at a stage and holds it in the block; yields the visit.

        Args:
            order: of the item: the smaller comes first, so that what was begun is finished.
        """
        stage, visit = self._stages[name], Visit()
        begun = self._enter(stage, order)
        try:
            yield visit
        except Exception as error:
            visit.failed = True
            self._leave(stage, begun, visit)
            error.add_note(f"{_AT}{name}")
            raise
        except BaseException:
            self._leave(stage, begun, visit)
            raise
        self._leave(stage, begun, visit)

    def count(self, discarded: str | None = None) -> None:
        """An item came to its end: a good one, or discarded for this reason."""
        with self._changed:
            if discarded is None:
                self._done += 1
            else:
                self._discarded[discarded] += 1
        self._tell(at_once=False)

    def figures(self) -> Figures:
        """How it stands."""
        with self._changed:
            stages = tuple(
                StageFigures(name=name, **{each: getattr(stage, each) for each in _Place.__slots__})
                for name, stage in self._stages.items()
            )
            return Figures(
                seconds=self._clock() - self._began,
                done=self._done,
                discarded=dict(sorted(self._discarded.items())),
                places=dict(self._widths),
                stages=stages,
            )

    def report(self) -> None:
        """Tells the listener now."""
        self._tell(at_once=True)

    def _enter(self, stage: _Place, order: int) -> float:
        came = self._clock()
        with self._changed:
            queue = self._queues[stage.resource]
            self._tickets += 1
            mine = (order, self._tickets)
            heapq.heappush(queue.waiting, mine)
            stage.waiting += 1
            if not (queue.free and queue.waiting[0] == mine):
                stage.most_waiting = max(stage.most_waiting, stage.waiting)
            try:
                self._changed.wait_for(lambda: queue.free > 0 and queue.waiting[0] == mine)
            except BaseException:
                queue.waiting.remove(mine)
                heapq.heapify(queue.waiting)
                stage.waiting -= 1
                self._changed.notify_all()
                raise
            heapq.heappop(queue.waiting)
            queue.free -= 1
            stage.waiting -= 1
            stage.working += 1
            begun = self._clock()
            stage.waited += begun - came
            self._changed.notify_all()
        return begun

    def _leave(self, stage: _Place, begun: float, visit: Visit) -> None:
        with self._changed:
            visit.seconds = self._clock() - begun
            stage.busy += visit.seconds
            stage.working -= 1
            stage.visits += 1
            stage.failed += visit.failed
            stage.cost += visit.cost
            self._queues[stage.resource].free += 1
            self._changed.notify_all()
        self._tell(at_once=False)

    def _tell(self, *, at_once: bool) -> None:
        if self.listen is None:
            return
        with self._changed:
            now = self._clock()
            if not at_once and now - self._told < _PAUSE:
                return
            self._told = now
        self.listen(self.figures())


_AT = "at the stage "


def stage_of(error: BaseException) -> str | None:
    """The stage at which an error was raised, where it was raised at one."""
    notes: Iterable[str] = getattr(error, "__notes__", ())
    return next((each.removeprefix(_AT) for each in notes if each.startswith(_AT)), None)
