"""`scail2 info`: what a weight file or model folder is."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("info")(info)


def info(
    path: Annotated[Path, typer.Argument(help="Weight file, folder, or name of `scail2 models`.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a file is: kind, dialect, parameters, types, configuration, and whether it is complete."""
    from dataclasses import asdict

    from rich.table import Table

    from scail2.checkpoints.model_folder import check_model
    from scail2.cli.terminal import Terminal, visible, write_json
    from scail2.files.public.embedded import lora_place

    path = lora_place(path)
    check_model(path)
    from scail2.checkpoints.downloads import HUB_PREFIX, local_path
    from scail2.loading.inventory import describe

    found = describe(path if str(path).startswith(HUB_PREFIX) else local_path(path))
    if as_json:
        write_json(asdict(found))
        return
    table = Table(show_header=False, box=None)
    table.add_row("kind", found.kind + (f" ({found.dialect})" if found.dialect else ""))
    for name, kind in found.components.items():
        table.add_row(name, kind)
    if found.tensors:
        table.add_row("parameters", f"{found.parameters:,} in {found.tensors} tensors, {_size(found.bytes)}")
        table.add_row("stored as", ", ".join(f"{count} x {name}" for name, count in found.formats.items()))
    if found.ranks:
        table.add_row("rank", ", ".join(map(str, found.ranks)))
    if found.config:
        table.add_row("configuration", ", ".join(f"{word} {value}" for word, value in sorted(found.config.items())))
    if found.complete:
        table.add_row("names and shapes", "exactly those of its configuration")
    if found.problem:
        table.add_row("problem", visible(found.problem))
    Terminal(soft_wrap=True).print(table)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
