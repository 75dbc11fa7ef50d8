"""The loop's journal: one line for everything that happened to a pair in the making, and back from lines to states.

Lines are only ever added. Where something that was made is lost, a `rewound` line takes a pair back to before it was made.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between, DocumentError, decode
from scail2.runs.journal import Journal
from scail2.synthesis.events import Event, Phase
from scail2.synthesis.machine import Budget, State, advance, begin


def event_name(kind: type) -> str:
    """How an event is called in a journal: `PictureJudged` is ``picture_judged``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


EVENTS: Mapping[str, type] = {event_name(kind): kind for kind in get_args(Event)}
_BEGUN, _REWOUND = "begun", "rewound"


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """How an event came about.

    Attributes:
        seed: that the role or generator was given.
        prompt, answer: of roles that use words.
        tokens, cost: of an endpoint.
        seconds: that it took.
    """

    seed: int = 0
    prompt: str = ""
    answer: str = ""
    tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """An event of a journal."""

    phase: Phase
    event: Event
    how: Circumstances


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """All that happened to one attempt at a pair, and the state that this leads to."""

    pair: str
    number: int
    kind: SampleKind
    happenings: tuple[Happening, ...]
    state: State

    def __post_init__(self) -> None:
        assert self.state.events == len(self.happenings)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What every line holds; the fields of the event are its own."""

    event: str
    pair: str
    attempt: Annotated[int, Between(0, 10**6)]
    time: str = ""
    kind: SampleKind | None = None
    to: Annotated[int, Between(0, 10**9)] = 0
    phase: Phase | None = None
    what: dict[str, Any] = field(default_factory=dict)
    how: Circumstances = field(default_factory=Circumstances)


class PairJournal:
    """The journal of the pairs of one shard.

    Args:
        budget: with which states follow from events; a journal is read with the one it was written with.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path, self._budget = path, budget
        self._file = Journal(path)

    def begin(self, pair: str, attempt: int, kind: SampleKind) -> None:
        """An attempt at a pair begins."""
        self._file.emit(_BEGUN, pair=pair, attempt=attempt, kind=kind.value)

    def note(self, pair: str, attempt: int, phase: Phase, event: Event, how: Circumstances) -> None:
        """Something happened."""
        told = {name: value for name, value in dataclasses.asdict(how).items() if value}
        self._file.emit(
            event_name(type(event)), pair=pair, attempt=attempt, phase=phase.value, what=_plain(event), how=told
        )

    def rewind(self, pair: str, attempt: int, to: int) -> None:
        """What came after the first `to` events does not count: what it made is lost."""
        self._file.emit(_REWOUND, pair=pair, attempt=attempt, to=to)

    def attempts(self) -> dict[str, list[Attempt]]:
        """All attempts by pair, in order.

        Raises:
            InputError: a line that this loop cannot have written.
        """
        return read_attempts(self._file.entries(), self.path, self._budget)


def read_attempts(entries: list[dict[str, Any]], where: Path, budget: Budget) -> dict[str, list[Attempt]]:
    """Journal lines as attempts by pair.

    Raises:
        InputError: a line that does not follow from those before it.
    """
    kinds: dict[tuple[str, int], SampleKind] = {}
    happened: dict[tuple[str, int], list[Happening]] = {}
    for line in (decode(entry, _Line, where) for entry in entries):
        key = line.pair, line.attempt
        if line.event == _BEGUN and line.kind is not None:
            kinds[key], happened[key] = line.kind, []
        elif line.event == _REWOUND and key in happened:
            del happened[key][line.to :]
        elif line.event in EVENTS and key in happened and line.phase is not None:
            event: Event = decode(line.what, EVENTS[line.event], where, line.event)
            happened[key].append(Happening(phase=line.phase, event=event, how=line.how))
        else:
            raise DocumentError(f"{where} cannot be used: its {line.event!r} of pair {line.pair} follows from nothing.")
    found: dict[str, list[Attempt]] = {}
    for (pair, number), happenings in happened.items():
        kind = kinds[pair, number]
        attempt = Attempt(
            pair=pair, number=number, kind=kind, happenings=tuple(happenings),
            state=replayed(kind, happenings, budget, f"{where}, pair {pair}"),
        )  # fmt: skip
        found.setdefault(pair, []).append(attempt)
    return found


def replayed(
    kind: SampleKind, happenings: list[Happening] | tuple[Happening, ...], budget: Budget, where: str
) -> State:
    """The state that events lead to.

    Raises:
        InputError: one of them cannot have happened then.
    """
    return [begin(kind), *states(kind, happenings, budget, where)][-1]


def states(
    kind: SampleKind, happenings: list[Happening] | tuple[Happening, ...], budget: Budget, where: str
) -> Iterator[State]:
    """The states after each event, in order; errors as for `replayed`."""
    state = begin(kind)
    for happening in happenings:
        if happening.phase is not state.phase:
            raise InputError(
                f"{where}: the journal says that its event {state.events} happened in the phase {happening.phase.value}, but the "
                f"events before it lead to {state.phase.value}. It was changed, or written with another budget."
            )
        try:
            state = advance(state, happening.event, budget)
        except ValueError as error:
            raise InputError(f"{where}: the journal does not add up: {error}.") from None
        yield state


def _plain(event: Event) -> dict[str, Any]:
    return dataclasses.asdict(event)
