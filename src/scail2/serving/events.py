"""A run's events as server-sent events: its journal from wherever the client left off, and what passes in between."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from scail2.serving.sentences import for_clients

# How often a journal is looked at, and how often an idle connection is kept alive, in seconds.
_LOOK, _ALIVE = 0.5, 15.0


async def event_stream(
    journal: Path, root: Path, *, after: int, progress: Callable[[], dict[str, Any]], active: Callable[[], bool]
) -> AsyncIterator[str]:
    """Yields server-sent events until the run has no unfinished job and all its journal was told.

    The id of an event is its line in the journal: a client that comes back sends it as ``Last-Event-ID``.
    """
    position = line = 0
    last_passing: dict[str, Any] = {}
    silent = 0.0
    while True:
        going = await asyncio.to_thread(active)
        lines, position = await asyncio.to_thread(_read, journal, position)
        for each in lines:
            line += 1
            told = _event(each, root)
            if line > after and told is not None:
                silent = 0.0
                yield f"id: {line}\nevent: {told.get('event', 'event')}\ndata: {json.dumps(told)}\n\n"
        passing = progress()
        if passing and passing != last_passing:
            last_passing, silent = passing, 0.0
            yield f"event: {passing.get('event', 'progress')}\ndata: {json.dumps(passing)}\n\n"
        if not going:
            yield "event: end\ndata: {}\n\n"
            return
        if silent >= _ALIVE:
            silent = 0.0
            yield ": alive\n\n"
        await asyncio.sleep(_LOOK)
        silent += _LOOK


def _read(journal: Path, position: int) -> tuple[list[bytes], int]:
    """Whole lines from ``position`` on, and where they end."""
    try:
        with journal.open("rb") as file:
            file.seek(position)
            content = file.read()
    except FileNotFoundError:
        return [], position
    whole = content.rfind(b"\n") + 1
    return content[:whole].splitlines(), position + whole


def _event(line: bytes, root: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(for_clients(line.decode(errors="replace"), root))
    except json.JSONDecodeError:
        return None  # cut short by a crash
    if not isinstance(told, dict):
        return None
    return {name: value for name, value in told.items() if name not in ("run", "output")}
