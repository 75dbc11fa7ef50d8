"""`scail2 clean`: gives disk space back."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("clean")(clean)


def clean(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    everything: Annotated[bool, typer.Option("--all", help="Delete everything the run made but its output.")] = False,
) -> None:
    """Delete what a run no longer needs: replaced segments and leftovers of interrupted writes."""
    from scail2.cli.terminal import say
    from scail2.runs import RunDirectory

    freed = RunDirectory.open(run).clean(everything=everything)
    say(f"{freed / 1e6:.1f} MB freed", stderr=True)
