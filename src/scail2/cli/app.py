"""The `scail2` command: one small module per verb, and one place where errors become a sentence and an exit code."""

import io
import logging
import os
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module, metadata
from typing import Annotated, Any

import typer

from scail2.cli.collection import collect_after_start
from scail2.cli.libraries import quiet_libraries
from scail2.cli.signals import INTERRUPTED, stoppable
from scail2.cli.terminal import GuardedStream, StreamError, Terminal, VisibleFormatter
from scail2.errors import NO_MEMORY, InputError, is_out_of_memory
from scail2.files.disk_errors import as_system_error, reason, sentence
from scail2.models.light_imports import defer

NOBODY_READS = 141  # 128 + SIGPIPE, as shells report it
# typer brings a click of its own; its base class of usage errors is found through an error that typer exports.
_CLICK_ERROR: Any = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")

# Modules of `scail2.cli`, in the order of `scail2 --help`; each defines `register(app: typer.Typer) -> None` for its verb
# or verbs, and imports nothing heavy at its top.
MODULES: tuple[str, ...] = (
    "demo",
    "rendering",
    "plan",
    "masks",
    "pose",
    "resume",
    "rerender",
    "compare",
    "status",
    "clean",
    "synthesize",
    "pairs",
    "preferences",
    "cache",
    "evaluate",
    "judge",
    "train",
    "ablate",
    "publish",
    "studio",
    "serve",
    "convert",
    "info",
    "models",
    "setup",
    "doctor",
    "calibrate",
)


HELP = "Character animation with SCAIL-2: a reference picture and a driving video go in, a finished video comes out."


def _tell_version(asked: bool) -> None:
    if asked:
        Terminal().say(f"scail2 {metadata.version('scail2')}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """Assembles the command from its verbs."""
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback(help=HELP)(_options)
    for module in MODULES:
        import_module(f"scail2.cli.{module}").register(app)
    return app


def _options(
    version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say it.")] = False,
) -> None:
    """Options of the command itself."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 success; 2 bad input or a refusal of the operating system, with one sentence on stderr;
    130, 143 and 129 when stopped by Ctrl-C, TERM and HUP; 141 when nobody reads the output any more.
    """
    collect_after_start()
    defer()  # in a program of our own only: who imports the package gets diffusers whole
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a stream that is not a file has no such setting
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter("%(message)s"))
    with (
        redirect_stdout(GuardedStream(sys.stdout, "standard output")),
        redirect_stderr(GuardedStream(sys.stderr, "standard error")),
    ):
        code = _outcome(arguments)
    sys.exit(code)


def _outcome(arguments: list[str] | None) -> int:
    """Runs the command; errors become a sentence, and everything an exit code."""
    with stoppable() as stopped, quiet_libraries():
        try:
            code = build_app()(args=arguments, standalone_mode=False) or 0
            sys.stdout.flush()
        except KeyboardInterrupt:
            code = INTERRUPTED
        except StreamError as error:
            return _stream_failed(error)
        except Exception as error:
            if isinstance(error, typer.Abort):
                return INTERRUPTED
            told = _sentence(error)
            if told is None:
                raise
            if told:
                _tell(told)
            return 2
    # typer, too, turns every interruption into the code of Ctrl-C.
    return stopped.exit_code if code == INTERRUPTED else code


def _options_meant(error: Exception, context: Any) -> str:
    """What to write where files were given by their place, to a verb whose inputs are options."""
    names = {each.name for each in getattr(getattr(context, "command", None), "params", ())}
    told = error.format_message() if isinstance(error, _CLICK_ERROR) else ""
    by_place = "unexpected extra argument" in told or told.startswith("No such command")
    if not (by_place and {"reference", "driving"} <= names):
        return ""
    return ": files are named by options, --reference PICTURE --driving VIDEO --output PATH"


def _sentence(error: Exception) -> str | None:
    """What to tell about an error; None for one that is a fault of the program, empty where all is told already."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, _CLICK_ERROR):
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return ""
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "scail2")
        return f"{error.format_message().rstrip('.')}{_options_meant(error, context)}. See: {command} --help"
    if is_out_of_memory(error):
        return NO_MEMORY
    if type(error).__name__ == "BrokenProcessPool":
        return "A worker process was ended from outside (often for want of memory); run again with fewer --workers."
    found = as_system_error(error)
    return None if found is None else sentence(found)


def _tell(text: str) -> None:
    with suppress(OSError, StreamError):  # where standard error is full or closed there is nobody to tell
        Terminal(stderr=True).say(f"error: {text}")


def _stream_failed(error: StreamError) -> int:
    # What is left in the buffer would be tried again, and fail again, when Python ends.
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None:
            continue
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if isinstance(error.cause, BrokenPipeError):
        return NOBODY_READS
    _tell(f"The {error.name} cannot be written to: {reason(error.cause)}.")
    return 2


if __name__ == "__main__":
    main()
