"""A progress bar for work that reports (done, total)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scail2.cli.terminal import Terminal


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
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
