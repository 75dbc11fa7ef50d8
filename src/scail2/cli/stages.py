"""Stages for people: a live table of throughput, queues and cost; the same in a file; and what a larger work will take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.progress import duration
from scail2.cli.terminal import Terminal, visible

if TYPE_CHECKING:
    from scail2.execution.figures import Figures
    from scail2.execution.forecast import Forecast, Machines

_EVERY = 5.0  # seconds between writings of the file

_PANEL = "What a larger number takes (--dry-run)"
FiguresFile = Annotated[
    Path | None,
    typer.Option("--figures", help="JSON file for what the stages did: throughput, queues, cost; for --measured."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say how long it will take and what it costs.", rich_help_panel=_PANEL)
]
Measured = Annotated[
    Path | None,
    typer.Option(help="Stage times of an earlier run (--figures); without it, expected ones.", rich_help_panel=_PANEL),
]
Gpus = Annotated[int, typer.Option(min=1, help="Cards to plan with.", rich_help_panel=_PANEL)]
CardName = Annotated[str, typer.Option("--card", help="Their name, where nothing is measured.", rich_help_panel=_PANEL)]
Price = Annotated[float, typer.Option(min=0, help="Of one card for an hour.", rich_help_panel=_PANEL)]
Requests = Annotated[int, typer.Option(min=1, help="The endpoint answers at once.", rich_help_panel=_PANEL)]
Cores = Annotated[
    int, typer.Option(min=0, help="Processor cores of all machines (default: 8 for each card).", rich_help_panel=_PANEL)
]


class StageDisplay:
    """Hears what workers report, and shows it: what each says replaces what it said before.

    Attributes:
        listen: for the workers' messages; progress: for (done, total).
    """

    def __init__(self, label: str, file: Path | None, source: str) -> None:
        self._label, self._file, self._source = label, file, source
        self._workers: dict[str, Figures] = {}
        self._done = self._total = 0
        self._first: int | None = None
        self._began = self._written = time.monotonic()

    def listen(self, message: Any) -> None:
        """Takes in one message."""
        from scail2.execution.figures import Figures
        from scail2.execution.tasks import Reported

        if isinstance(message, Reported) and isinstance(message.content, Figures):
            self._workers[message.worker] = message.content
            if time.monotonic() - self._written > _EVERY:
                self.write()

    def progress(self, done: int, total: int) -> None:
        """Takes in how far the work is."""
        self._first = done if self._first is None else self._first
        self._done, self._total = done, total

    @property
    def figures(self) -> "Figures":
        """Of all workers together."""
        from dataclasses import replace

        from scail2.execution.figures import added

        return replace(added(self._workers.values()), source=self._source)

    def write(self) -> None:
        """Replaces the file, where there is one."""
        from scail2.execution.figures import write_figures

        self._written = time.monotonic()
        if self._file is not None:
            write_figures(self._file, self.figures)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        figures = self.figures
        seconds = time.monotonic() - self._began
        new = self._done - (self._first or 0)
        left = f", about {duration(seconds / new * (self._total - self._done))} left" if new > 0 else ""
        gone = sum(figures.discarded.values())
        head = f"{self._label}: {self._done} of {self._total}, {gone} discarded, {duration(seconds)}{left}"
        return Group(Text(visible(head)), stage_table(figures))


@contextmanager
def stage_display(console: Terminal, label: str, file: Path | None, source: str) -> Iterator[StageDisplay]:
    """Yields a display that is live on a terminal; the file is written meanwhile and at the end."""
    from rich.live import Live

    display = StageDisplay(label, file, source)
    try:
        if console.is_terminal:
            with Live(display, console=console, refresh_per_second=2, transient=True):
                yield display
        else:
            yield display
    finally:
        display.write()


def stage_table(figures: "Figures") -> Any:
    """A row for each stage."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for name in ("on", "at work", "waiting", "done", "a minute", "s each", "s waited", "failed", "cost"):
        table.add_column(name, justify="left" if name == "on" else "right")
    minutes = max(figures.seconds, 1e-9) / 60
    for each in figures.stages:
        times = max(each.visits, 1)
        table.add_row(
            visible(each.name),
            each.resource.value,
            str(each.working),
            str(each.waiting),
            str(each.visits),
            f"{each.visits / minutes:.1f}",
            f"{each.busy / times:.3g}",
            f"{each.waited / times:.3g}",
            str(each.failed),
            f"{each.cost:.4g}" if each.cost else "",
        )
    return table


def predict(pairs: int, figures: "Figures", machines: "Machines") -> None:
    """Says what so many pairs take, in a table and in words."""
    from scail2.execution.forecast import UTILISATION, forecast

    predicted, console = forecast(figures, pairs, machines), Terminal()
    console.print(_forecast_table(predicted))
    console.say(f"stage times: {figures.source}")
    for resource, hours in predicted.hours.items():
        console.say(f"{resource.value}: {_hours(hours)} with {machines.places(resource)} at once")
    console.say(
        f"{pairs} pairs: {_hours(predicted.total_hours)} at {UTILISATION:.0%} use of what everything waits for "
        f"({predicted.bottleneck.value}); {predicted.discarded:.0%} are discarded on the way"
    )
    if predicted.gpu_hours:
        paid = f", {predicted.gpu_money:,.0f} at {machines.price:g} an hour" if machines.price else ""
        console.say(f"GPUs: {predicted.gpu_hours:,.1f} card hours{paid}")
    if predicted.endpoint_money:
        console.say(f"endpoint: {predicted.endpoint_money:,.2f}")


def _hours(hours: float) -> str:
    return duration(hours * 3600) if hours < 48 else f"{hours:,.0f} h ({hours / 24:.1f} days)"


def _forecast_table(predicted: "Forecast") -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for name in ("on", "times a pair", "s a pair", "cost a pair"):
        table.add_column(name, justify="left" if name == "on" else "right")
    for each in predicted.stages:
        cost = f"{each.cost:.4g}" if each.cost else ""
        table.add_row(visible(each.name), each.resource.value, f"{each.visits:.2f}", f"{each.seconds:.4g}", cost)
    return table
