"""`scail2 compare`: runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from scail2.errors import InputError


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("compare")(compare)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, two or more.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Film, or .png for a picture of a few moments."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a film that stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The numbers as JSON on stdout.")] = False,
) -> None:
    """Put runs side by side: what they were asked, what was measured, and with --output their finished frames.

    Nothing of the runs is changed, and films that were written since by others do not matter: frames come from the runs.
    """
    from scail2.cli.terminal import Terminal, visible, write_json
    from scail2.runs import RunDirectory

    for each in runs:
        RunDirectory.open(each)  # before anything heavy is imported
    from scail2.runs.comparison import compared, differing, rows

    found = compared(runs)
    if output is not None:
        _write(found, output.absolute(), overwrite=overwrite)
    if as_json:
        numbers = rows(found)
        write_json(
            [
                {"run": str(each.run.path), **{name: values[place] for name, values in numbers.items()}}
                for place, each in enumerate(found)
            ]
        )
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    table.add_column("")
    for one in found:
        table.add_column(Text(visible(one.name)), overflow="fold")
    unlike = differing(found)
    for name, told in rows(found).items():
        values = ["–" if each is None else str(each) for each in told]
        style = "bold" if name in unlike else "dim"
        table.add_row(Text(name, style=style), *(Text(visible(value), style=style) for value in values))
    Terminal().print(table)
    if output is not None:
        Terminal(stderr=True).say(f"{output} shows them side by side.")


def _write(found: list, path: Path, *, overwrite: bool) -> None:
    from scail2.files.ownership import claimed_file
    from scail2.perception.preview import SHEETS, write_sheet
    from scail2.request.paths import lies_inside, refuse_overwriting
    from scail2.runs.comparison import SideBySide, film_codec, write_film

    for each in found:
        if lies_inside(path, each.run.path):
            raise InputError(f"{path} lies inside the run {each.run.path}; write it elsewhere.")
    if path.suffix.lower() == ".png":
        with claimed_file(path, SHEETS) as staging:
            write_sheet(staging.place, SideBySide(found).sheet())
            staging.publish()
        return
    film_codec(path)
    for each in found:
        refuse_overwriting(
            [path], [*each.run.request.input_files, *(("film", film) for film in each.run.request.outputs)]
        )
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: add --overwrite to replace it, or choose another --output.")
    write_film(found, path)
