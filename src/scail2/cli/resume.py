"""`scail2 resume`: finishes an interrupted run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scail2.cli.options import request_parameters, with_parameters

_MOVABLE = (
    "reference", "driving", "additional_references", "additional_reference_masks", "masks", "reference_mask", "driving_mask",
    "audio", "model", "lora",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    files = [each for each in request_parameters() if each.name in _MOVABLE]
    app.command("resume")(with_parameters(resume, files))


def resume(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    drift_limit: Annotated[
        float | None, typer.Option(help="Another drift limit, to go on where the first one stopped the run.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the film there from now on; any suffix that can be written."),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="Codec of that film; without it from the output's name.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that this run did not write.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
    **files: Any,
) -> None:
    """Finish an interrupted run, to its own output path or another one.

    Finished segments are kept; the result is the one an uninterrupted run would have given, bit for bit. Where given files
    were moved since, name their new places with the options they were given with.
    """
    from scail2.cli.rendering import work
    from scail2.runs import RunDirectory

    moved = {name: given for name, given in files.items() if given}
    work(
        RunDirectory.open(run),
        lambda it, events: it.resume(
            events=events, drift_limit=drift_limit, moved=moved, output=output, codec=codec, overwrite=overwrite
        ),
        as_json=as_json,
    )
