"""`scail2 serve`: runs behind an HTTP address."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from scail2.cli.options import check_lora, must_exist, need
from scail2.cli.terminal import Terminal
from scail2.errors import InputError

_OTHER_FORMATS = (".pt", ".pth", ".ckpt", ".bin", ".gguf")


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("serve")(serve)


def serve(
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all runs, uploads and the queue.")] = Path(
        "scail2-runs"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback needs SCAIL2_TOKEN.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8420,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model that clients may name; repeatable, the first is the default. Without: embedded."),
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH[:X]", help="LoRA that clients may name; repeatable.")
    ] = None,
    sam3: Annotated[str | None, typer.Option(metavar="WEIGHTS", help="SAM3, for runs that ask for text.")] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="0,1", help="One worker for each of these of the cards in sight.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers without --gpus.")] = 1,
    ray: Annotated[
        bool, typer.Option("--ray", help="Workers are Ray actors, one GPU each where the cluster has any.")
    ] = False,
) -> None:
    """Serve runs over HTTP: upload, submit, watch, correct, download. Documentation of every address: /docs.

    Secrets that clients must bring come from the environment variable SCAIL2_TOKEN (several: commas between them).
    """
    serve_with(runs=runs, host=host, port=port, models=model, lora=lora, sam3=sam3, gpus=gpus, workers=workers, ray=ray)


def serve_with(
    *,
    gpus: str | None,
    models: list[str] | None,
    lora: list[str] | None,
    sam3: str | None,
    runs: Path,
    workers: int = 1,
    opened: Callable[[str], None] = lambda _: None,
    **given: Any,
) -> None:
    """Serves until it is stopped; ``given`` are further `ServiceSettings`."""
    need("fastapi", "serve", "scail2 serve")
    need("uvicorn", "serve", "scail2 serve")
    from scail2.checkpoints.model_folder import check_model
    from scail2.serving.server import listen
    from scail2.serving.settings import ServiceSettings

    for each in models or ():
        check_model(each)
    must_exist(sam3, "--sam3")
    tokens = tuple(each.strip() for each in os.environ.get("SCAIL2_TOKEN", "").split(",") if each.strip())
    settings = ServiceSettings(
        runs=runs.absolute(),
        models=tuple(models or ()),
        loras=_offered(lora or ()),
        sam3=sam3,
        devices=_devices(gpus, workers, here=not given.get("ray")),
        tokens=tokens,
        **given,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    listen(settings, tell=Terminal(stderr=True).say, opened=opened)


def _devices(gpus: str | None, workers: int, *, here: bool) -> tuple[str | None, ...]:
    """A device for each worker; cards of this machine (`here`) are looked for."""
    if gpus is None:
        return (None,) * workers
    numbers = [each.strip() for each in gpus.split(",")]
    if not all(each.isdigit() for each in numbers) or len(set(numbers)) != len(numbers):
        raise InputError(f"--gpus is a list of different numbers with commas between them, not {gpus!r}.")
    devices = tuple(f"cuda:{each}" for each in numbers)
    if here:
        from scail2.serving.workers import visible_card

        for each in devices:
            visible_card(each)
    return devices


def _offered(given: Sequence[str]) -> dict[str, str]:
    named = [_named(each) for each in given]
    if twice := [name for name, count in Counter(name for name, _ in named).items() if count > 1]:
        raise InputError(f"--lora gives the name {twice[0]!r} to two files: choose another for one of them.")
    return dict(named)


def _named(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise InputError(f"--lora is NAME=PATH here, not {text!r}: who asks for a film says the name.")
    from scail2.request.paths import absolute_lora

    whole = absolute_lora(path)
    check_lora(whole)
    _refuse_no_lora(whole)
    return name, whole


def _refuse_no_lora(text: str) -> None:
    """Raises `InputError` for a safetensors file that is none, or holds no LoRA: better now than in somebody's run."""
    from scail2.checkpoints.lora_names import is_lora
    from scail2.checkpoints.model_folder import stored_shapes
    from scail2.files.public.embedded import lora_place
    from scail2.files.user_paths import split_lora

    path = lora_place(split_lora(text)[0])
    looked_into = path.is_file() and path.suffix not in _OTHER_FORMATS  # neither on the Hub nor read with torch
    if looked_into and not is_lora(stored_shapes(path)):
        raise InputError(f"--lora: {path} holds no LoRA.")
