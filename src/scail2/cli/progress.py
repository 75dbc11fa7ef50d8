"""How a run shows itself: a progress bar with step, segment and time left for people, JSON lines for programs."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scail2.cli.terminal import Terminal, visible
from scail2.runs.journal import RunEvent


@contextmanager
def run_events(as_json: bool) -> Iterator[Callable[[RunEvent], None]]:
    """A listener for `RunDirectory`: JSON lines on stdout, or a live display on stderr."""
    if as_json:
        yield print_event
        return
    with RunDisplay(Terminal(stderr=True)) as display:
        yield display.show


def print_event(event: RunEvent) -> None:
    """One event as one line on stdout, flushed at once."""
    sys.stdout.write(json.dumps(event.to_json()) + "\n")
    sys.stdout.flush()


class RunDisplay:
    """The live display: one bar over all steps of all segments to render, and a line for everything worth keeping."""

    def __init__(self, console: Terminal, clock: Callable[[], float] = time.monotonic):
        self._console = console
        self._clock = clock
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("preparing", total=None, left="")
        self._left = TimeLeft(clock)
        self._handlers = {
            "segment_started": self._segment_started,
            "step": self._step,
            "segment_finished": self._segment_finished,
            "segment_skipped": self._segment_skipped,
            "masks_progress": lambda facts: self._count("masks", facts),
            "output_progress": lambda facts: self._count("writing the video", facts),
            "finding": self._finding,
            "budget": self._budget,
            "drift_limit": lambda facts: self._line(facts["message"]),
        }

    def __enter__(self) -> "RunDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: RunEvent) -> None:
        """Shows one event; unknown ones are not for people."""
        handler = self._handlers.get(event.name)
        if handler:
            handler(event.facts)

    def _line(self, text: str, style: str | None = None) -> None:
        self._progress.console.print(visible(text), style=style, soft_wrap=True)

    def _segment_started(self, facts: dict[str, Any]) -> None:
        self._update(_name(facts), 0, None, "")

    def _step(self, facts: dict[str, Any]) -> None:
        left = self._left.after(facts["segment"], facts["segments"], facts["step"], facts["steps"])
        self._update(f"{_name(facts)}, step", facts["step"], facts["steps"], f"about {left} left" if left else "")

    def _segment_finished(self, facts: dict[str, Any]) -> None:
        self._line(f"{_name(facts)}: {facts['frames']} frames in {facts['seconds']:.1f} s")

    def _segment_skipped(self, facts: dict[str, Any]) -> None:
        self._line(f"{_name(facts)}: unchanged, kept")

    def _count(self, name: str, facts: dict[str, Any]) -> None:
        self._update(name, facts["done"], facts["total"], "")

    def _finding(self, facts: dict[str, Any]) -> None:
        styles = {"error": "bold red", "warning": "yellow"}
        fix = f" ({facts['fix']})" if facts.get("fix") else ""
        if facts["severity"] != "info":
            self._line(f"{facts['severity']}: {facts['message']}{fix}", styles.get(facts["severity"]))

    def _budget(self, facts: dict[str, Any]) -> None:
        took, memory = facts["total"], facts["memory"]
        told = f"rendered in {duration(took['measured_seconds'])}, {duration(took['predicted_seconds'])} predicted"
        for name, place in (("device_gib", "of the device"), ("main_memory_gib", "of main memory")):
            if name in memory:
                told += f"; {memory[name]['measured']:.1f} GB {place}, {memory[name]['predicted']:.1f} predicted"
        self._line(told)

    def _update(self, name: str, done: int, total: int | None, left: str) -> None:
        self._progress.update(self._task, description=name, completed=done, total=total, left=left)


def _name(facts: dict[str, Any]) -> str:
    """``segment 003 (4 of 5)``: the folder's name, which `rerender` takes, and the place."""
    return f"segment {facts['segment']:03d} ({facts['segment'] + 1} of {facts['segments']})"


class TimeLeft:
    """Estimates the time left from the mean duration of the steps (and segment ends) seen so far."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._begin: tuple[float, float] | None = None

    def after(self, segment: int, segments: int, step: int, steps: int) -> str:
        """Time left as text, empty until two steps were seen."""
        done = segment + step / steps
        now = self._clock()
        if self._begin is None:
            self._begin = (now, done)
            return ""
        started, first = self._begin
        if done <= first:
            return ""
        return duration((now - started) / (done - first) * (segments - done))


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def counted_progress(console: Terminal, label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with (done, total); shows a bar with rate and remaining time meanwhile."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
