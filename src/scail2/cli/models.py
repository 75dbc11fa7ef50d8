"""`scail2 models`: the embedded model, the public files, the presets."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("models")(models)


def models() -> None:
    """List the models one can use, the sampling presets, and what the embedded model can and cannot do."""
    from rich.table import Table
    from rich.text import Text

    from scail2.checkpoints.downloads import HUB_PREFIX
    from scail2.cli.terminal import Terminal
    from scail2.loading.by_name import embedded_model_path
    from scail2.loading.inventory import EMBEDDED_CAN, EMBEDDED_CANNOT, PUBLIC_FILES
    from scail2.pipeline.presets import PRESETS

    console = Terminal()
    present = (embedded_model_path() / "model_index.json").is_file()
    console.print(
        Text.assemble(
            ("Embedded model", "bold"), " (used when no --model is given)", "" if present else ": not installed"
        )
    )
    for line in EMBEDDED_CAN:
        console.print(f"  can: {line}")
    for line in EMBEDDED_CANNOT:
        console.print(f"  cannot: {line}")
    table = Table("file", "what it is", "licence", "how to use it", title="Public files", title_justify="left")
    for each in PUBLIC_FILES:
        table.add_row(each.name, each.what, each.licence, each.use)
    console.print(table)
    console.print(f"A repository of the Hub is a model, too: --model {HUB_PREFIX}owner/name downloads it.")
    table = Table("preset", "solver", "steps", "guidance", "shift", "LoRAs", title="Presets", title_justify="left")
    for preset in PRESETS.values():
        shift = f"{preset.shift:g}" + (f" ({preset.large_shift:g} from 704 pixels)" if preset.large_shift else "")
        loras = ", ".join(f"{lora.name} {lora.strength:g}" for lora in preset.loras)
        table.add_row(preset.name, str(preset.solver), str(preset.steps), f"{preset.guidance_scale:g}", shift, loras)
    console.print(table)
