"""`scail2 publish`: a finished training as a folder to give away."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("publish")(publish)


def publish(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    title: Annotated[str, typer.Option(help="Heading of the card.")],
    licence: Annotated[str, typer.Option(help="Of the weights: mit, apache-2.0, other …")],
    data_note: Annotated[
        str, typer.Option(help="Where the training material comes from and with what right it was used.")
    ] = "",
    data_card: Annotated[
        Path | None, typer.Option(metavar="card.md", help="Data card of `scail2 pairs card`, to become part of it.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Results for the card: JSON of evaluate or judge (may be repeated)."),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write whole weights that the adapters are part of, instead of a LoRA file.")
    ] = False,
) -> None:
    """Write a training's weights in the published names, with a model card of what they are and what they were trained on."""
    from scail2.cli.terminal import say
    from scail2.training.publication import Card
    from scail2.training.publication import publish as make

    card = Card(
        title=title, licence=licence, data_note=data_note, data_card=data_card, evaluations=tuple(evaluation or ())
    )
    for name in make(run, out, card, merge=merge):
        say(f"wrote {out / name}")
    say("Read README.md before you give it away: it tells the names of your model, cache and evaluation files.")
