"""`scail2 studio`: the service with its page, opened in a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from scail2.cli.serve import serve_with


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("studio")(studio)


def studio(
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all films.")] = Path("scail2-runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8420,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to render with; repeatable, the page offers them all. Without: the embedded one."),
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH[:X]", help="LoRA that the page offers; repeatable.")
    ] = None,
    sam3: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="SAM3, which finds what the page asks for in words.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="0,1", help="One worker for each of these of the cards in sight.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Make films in a page: drop a picture and a clip, look at the masks, render, put right what went wrong.

    For this machine only; `scail2 serve` is the same for others.
    """

    def opened(address: str) -> None:
        if browser:
            webbrowser.open(f"{address}/studio/")

    serve_with(runs=runs, host="127.0.0.1", port=port, models=model, lora=lora, sam3=sam3, gpus=gpus, opened=opened)
