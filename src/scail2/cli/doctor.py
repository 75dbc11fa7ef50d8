"""`scail2 doctor`: is this machine fit for it, one verdict a line, with what would mend it."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("doctor")(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Check Python, PyTorch, GPU, driver, extras, memory, disks and models. Uses no network; exits with 1 on a problem."""
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from scail2.cli.diagnosis import Level, diagnose
    from scail2.cli.machine import look
    from scail2.cli.terminal import Terminal, visible, write_json
    from scail2.files.public import catalogue
    from scail2.files.public.installed import FileState, is_complete, is_converted, model_folder, receipts, state_of

    folder = model_folder()
    known = receipts(folder)
    complete = [each.name for each in catalogue.MODEL_SETS if is_complete(each, folder) or is_converted(each, folder)]
    damaged = [each.place for each in catalogue.every_file() if state_of(each, folder, known) is FileState.DAMAGED]
    verdicts = diagnose(look(folder), complete, damaged, str(folder))
    if as_json:
        write_json([asdict(each) for each in verdicts])
    else:
        style = {Level.OK: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red"}
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for each in verdicts:
            told = visible(each.found + (f". {each.fix}" if each.fix else ""))
            table.add_row(Text(each.level.value, style=style[each.level]), each.name, told)
        Terminal(soft_wrap=True).print(table)
    if any(each.level is Level.PROBLEM for each in verdicts):
        raise typer.Exit(1)
