"""The `scail2` command: one small module per verb, and one place where errors become a sentence and an exit code."""

import sys
from contextlib import suppress
from importlib import import_module

import typer
from rich.console import Console

from scail2.errors import InputError

# Modules of `scail2.cli`; each defines `register(app: typer.Typer) -> None` and imports nothing heavy at its top.
VERBS: tuple[str, ...] = (
    "demo",
    "animate",
    "replace",
    "plan",
    "masks",
    "resume",
    "rerender",
    "status",
    "clean",
    "synthesize",
    "cache",
    "evaluate",
    "train",
    "convert",
    "info",
    "models",
)


HELP = "Character animation with SCAIL-2: a reference picture and a driving video go in, a finished video comes out."


def build_app() -> typer.Typer:
    """Assembles the command from its verbs."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(help=HELP)(lambda: None)  # without a callback a lone verb would not be named
    for verb in VERBS:
        import_module(f"scail2.cli.{verb}").register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit code 0 on success, 2 for bad input (one sentence on stderr), 130 when interrupted."""
    with suppress(AttributeError):  # a stream that is not a file has no such setting
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        build_app()(args=arguments)
    except InputError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
