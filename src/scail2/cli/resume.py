"""`scail2 resume`: finishes an interrupted run."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("resume")(resume)


def resume(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    drift_limit: Annotated[
        float | None, typer.Option(help="Another drift limit, to go on where the first one stopped the run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
) -> None:
    """Finish an interrupted run, to its own output path.

    Finished segments are kept; the result is the one an uninterrupted run would have given, bit for bit.
    """
    from scail2.cli.rendering import work
    from scail2.runs import RunDirectory

    work(RunDirectory.open(run), lambda it, events: it.resume(events=events, drift_limit=drift_limit), as_json=as_json)
