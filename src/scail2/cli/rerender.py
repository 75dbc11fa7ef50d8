"""`scail2 rerender`: renders one segment of a run again."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("rerender")(rerender)


def rerender(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    segment: Annotated[int, typer.Option(help="Which segment, counted from 0 as the folders in RUN/segments are.")],
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Also render every later segment again, so that motion stays continuous.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            help="New noise for the segment, which it keeps from then on; without it the stored noise, for the same frames."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
) -> None:
    """Render one segment again and rewrite the output.

    Without --cascade only this segment is replaced: the next one was continued from the frames it had before, so a jump
    may show where it begins. The replaced version stays in RUN/superseded until `scail2 clean`.
    """
    from scail2.cli.rendering import work
    from scail2.runs import RunDirectory

    work(
        RunDirectory.open(run),
        lambda it, events: it.rerender(segment, cascade=cascade, seed=seed, events=events),
        as_json=as_json,
    )
