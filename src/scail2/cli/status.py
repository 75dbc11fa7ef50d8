"""`scail2 status`: what is there and what is missing."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("status")(status)


def status(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show how far a run is: segments, drift, output, disk use. Also works while it is running."""
    from rich.table import Table

    from scail2.cli.terminal import Terminal, visible, write_json
    from scail2.runs import RunDirectory

    found = RunDirectory.open(run).status()
    if as_json:
        write_json(found.to_json())
        return
    table = Table(show_header=False, box=None)
    for name, value in found.rows():
        table.add_row(name, visible(value))
    Terminal().print(table)
