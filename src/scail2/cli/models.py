"""`scail2 models`: the models one can use, what of them is installed, the presets."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("models")(models)


def models() -> None:
    """List the models one can use and what is installed of them, the presets, and what the embedded model can do."""
    from scail2.cli.terminal import Terminal

    console = Terminal()
    _embedded(console)
    _sets(console)
    _files(console)
    _presets(console)


def _embedded(console) -> None:
    from rich.text import Text

    from scail2.files.public.embedded import CAN, CANNOT, embedded_model_path

    present = (embedded_model_path() / "model_index.json").is_file()
    console.print(
        Text.assemble(
            ("Embedded model", "bold"), " (used when no --model is given)", "" if present else ": not installed"
        )
    )
    for line in CAN:
        console.print(f"  can: {line}")
    for line in CANNOT:
        console.print(f"  cannot: {line}")


def _sets(console) -> None:
    from rich.table import Table

    from scail2.files.public import catalogue
    from scail2.files.public.installed import FileState, is_converted, model_folder, receipts, state_of

    folder = model_folder()
    known = receipts(folder)
    title = f"Models for --model, kept in {folder} (scail2 setup fetches them)"
    table = Table("name", "here", "GB", "what", title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for each in catalogue.MODEL_SETS:
        states = [state_of(file, folder, known) for file in each.files]
        there = sum(state in (FileState.INSTALLED, FileState.FOUND) for state in states)
        told = "complete" if there == len(states) else f"{there} of {len(states)} files"
        told += ", converted" if is_converted(each, folder) else ""
        table.add_row(each.name, told, f"{each.gigabytes:.1f}", each.what)
    console.print(table)
    console.say(f"--model {catalogue.DEFAULT_MODEL} takes the first of them that is complete or converted.")


def _files(console) -> None:
    from rich.table import Table

    from scail2.files.public import catalogue
    from scail2.files.public.installed import model_folder, receipts, state_of

    folder = model_folder()
    known = receipts(folder)
    table = Table(
        "file",
        "here",
        "GB",
        "licence",
        "what it is",
        title="Public files",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.columns[0].overflow = "fold"
    for each in catalogue.every_file():
        sure = "" if each.verified else " (not verified)"
        state = state_of(each, folder, known).value
        table.add_row(each.place, state, f"{each.gigabytes:.2f}{sure}", each.licence, each.what)
    console.print(table)
    console.print("A repository of the Hub is a model, too: --model hub:owner/name downloads it.")


def _presets(console) -> None:
    from rich.table import Table

    from scail2.request.presets import PRESETS

    table = Table(
        "preset",
        "solver",
        "steps",
        "guidance",
        "shift",
        "LoRAs",
        title="Presets",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for preset in PRESETS.values():
        shift = f"{preset.shift:g}" + (f" ({preset.large_shift:g} from 704 pixels)" if preset.large_shift else "")
        loras = ", ".join(f"{lora.name} {lora.strength:g}" for lora in preset.loras)
        table.add_row(preset.name, str(preset.solver), str(preset.steps), f"{preset.guidance_scale:g}", shift, loras)
    console.print(table)
