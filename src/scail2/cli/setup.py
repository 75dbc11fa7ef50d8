"""`scail2 setup`: which files the full-size model needs on this machine, from where, and on request the download."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scail2.cli.terminal import Terminal
    from scail2.files.public.catalogue import ModelSet, PublicFile
    from scail2.files.public.choice import Choice

MEASURED = (
    "Others measured 81 frames of 512x896: 85 s with the preset fast and 1043 s with quality (RTX PRO 6000, float8), "
    "16.7 s a step without guidance (A100 of 40 GB, bfloat16). Not measured here."
)


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("setup")(setup)


def setup(
    memory: Annotated[
        float | None, typer.Option(min=0, metavar="GIB", help="GPU memory to plan for [default: this machine's].")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A set of `scail2 models` instead of the best.")
    ] = None,
    loras: Annotated[bool, typer.Option(help="The LoRAs of the presets fast, balanced and distilled.")] = True,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to keep models; ComfyUI's models folder will do. Remembered once files are there.",
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch what is missing. Only this uses the network.")
    ] = False,
    convert: Annotated[
        bool, typer.Option("--convert", help="Also make a bfloat16 diffusers folder of it: 45 GB more, loads faster.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before downloading.")] = False,
) -> None:
    """Say which public files to get for this machine's GPU memory, how large they are and where they go; fetch them."""
    from scail2.cli.terminal import Terminal
    from scail2.errors import InputError
    from scail2.files.public.catalogue import LORAS, model_set
    from scail2.files.public.choice import Choice, choose, layout_for
    from scail2.files.public.installed import converted_folder, is_converted, model_folder
    from scail2.files.user_paths import expanded

    console = Terminal()
    asked, memory = memory is not None, _told_memory(console, memory)
    choice = choose(memory) if model is None else Choice(model_set(model), layout_for(memory))
    place = model_folder() if folder is None else expanded(folder).absolute()
    if place.exists() and not place.is_dir():
        raise InputError(f"--folder: {place} is a file, not a folder.")
    files = list(LORAS) if loras else []
    if is_converted(choice.files, place):
        console.say(f"{choice.files.name} is converted: {converted_folder(choice.files, place)}.")
    else:
        files = [*choice.files.files, *files]
    _show(console, choice, files, place)
    if not download:
        words = [*(["--memory", f"{memory:g}"] if asked else []), *([] if loras else ["--no-loras"])]
        complete = _show_commands(console, choice, files, place, [*words, *(["--convert"] if convert else [])])
        if complete and convert:
            _convert(console, choice.files, place)
        return
    if choice.layout is None and model is None:
        raise InputError(
            "The 14B does not fit this GPU memory: name a set with --model to download it all the same, "
            "or plan for another machine with --memory."
        )
    _download(console, files, place, yes)
    if convert:
        _convert(console, choice.files, place)
    console.say(f"Use it with {_options(choice)}.")


def _told_memory(console: "Terminal", asked: float | None) -> float | None:
    """GiB to plan for, told to the user; None without a GPU."""
    if asked is not None:
        console.say(f"For {asked:g} GiB of GPU memory, as asked.")
        return asked
    from scail2.cli.machine import gpus

    found = [(gpu.memory, gpu.name) for gpu in gpus() if gpu.memory is not None]
    if not found:
        console.say(
            "No GPU that PyTorch can use was found (scail2 doctor says more); --memory 24 plans for another machine."
        )
        return None
    memory, name = max(found, key=lambda each: each[0])
    console.say(f"For this machine's {name}, {memory:.1f} GiB.")
    # A card sold with 24 GB reports a little less than 24 GiB.
    return memory + 0.5


def _show(console: "Terminal", choice: "Choice", files: "list[PublicFile]", folder: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from scail2.cli.machine import has_extra, install_command
    from scail2.files.public.fetch import space_for
    from scail2.files.public.installed import receipts, state_of

    if choice.layout is None:
        console.say(
            "The 14B does not fit there at 512x896; the embedded checkpoint runs everywhere (leave --model away)."
        )
    else:
        console.say(
            f"It fits: {choice.layout.meaning}. That needs about {choice.layout.need} GiB for 81 frames of 512x896, "
            "by arithmetic on public numbers, not measured here."
        )
    known = receipts(folder)
    table = Table("GB", "here", "file", box=None, padding=(0, 2, 0, 0), title=choice.files.what, title_justify="left")
    table.columns[0].justify = "right"
    table.columns[2].overflow = "fold"
    for each in files:
        sure = each.checked if each.verified else f"NOT VERIFIED: {each.checked}"
        origin = f"{each.what}; from {each.repository} under {each.licence}; {sure}"
        state = state_of(each, folder, known).value
        table.add_row(f"{each.gigabytes:.2f}", state, Text.assemble(each.place, "\n", (origin, "dim")))
    console.print(table)
    space = space_for(files, folder)
    total = sum(each.gigabytes for each in files)
    console.say(f"{total:.1f} GB in all, {space.missing / 1e9:.1f} GB still to fetch; {space.free / 1e9:.1f} GB free.")
    console.say(f"They go to {folder}.")
    if not space.enough:
        console.say("That does not fit on the disk: name another place with --folder.")
    absent = dict.fromkeys(each.extra for each in files if each.extra and not has_extra(each.extra))
    if absent:
        console.say(f"These files need more of this package: {install_command(*absent)}")
    console.say(MEASURED)


def _show_commands(
    console: "Terminal", choice: "Choice", files: "list[PublicFile]", folder: Path, options: list[str]
) -> bool:
    """What fetches the files that are missing, with the same options; returns whether none is, and then remembers the folder."""
    from scail2.files.public.fetch import command
    from scail2.files.public.installed import FileState, model_folder, receipts, remember, state_of

    known = receipts(folder)
    missing = [each for each in files if state_of(each, folder, known) not in (FileState.INSTALLED, FileState.FOUND)]
    if missing:
        words = ["scail2", "setup", "--model", choice.files.name, "--download", *options]
        words += ["--folder", str(folder)] if folder != model_folder() else []
        console.say(f"To fetch them:  {shlex.join(words)}")
        console.say("or one by one:")
        for each in missing:
            console.say(f"  {command(each, folder)}")
    else:
        console.say("Everything is there.")
        remember(folder)
        _tell_other_folder(console, folder)
    if choice.layout is not None:
        console.say(
            f"Then:  scail2 animate {_options(choice)} --reference hero.png --driving dance.mp4 --output film.mp4"
        )
    return not missing


def _options(choice: "Choice") -> str:
    """How a model is named to the other commands, and laid out for this memory."""
    placement = "" if choice.layout in (None, "resident") else f" --placement {choice.layout}"
    return f"--model {choice.files.name}{placement}"


def _download(console: "Terminal", files: "list[PublicFile]", folder: Path, yes: bool) -> None:
    import huggingface_hub

    from scail2.errors import InputError
    from scail2.files.public.fetch import download

    licences = ", ".join(dict.fromkeys(each.licence for each in files))
    if files and not yes:
        if not sys.stdin.isatty():
            raise InputError(f"Nobody can be asked here: say --yes to download under {licences}.")
        if not typer.confirm(f"Download under {licences}?", err=True):
            raise typer.Exit(0)
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    download(files, folder, console.say)
    _tell_other_folder(console, folder)


def _tell_other_folder(console: "Terminal", folder: Path) -> None:
    """Says so where later commands will look elsewhere, whatever was remembered."""
    import os

    from scail2.files.public.installed import VARIABLE, model_folder

    if folder != model_folder():
        console.say(f"{VARIABLE} is {os.environ.get(VARIABLE)}: set it to {folder}, or later commands look there.")


def _convert(console: "Terminal", files: "ModelSet", folder: Path) -> None:
    from scail2.files.public.installed import converted_folder, is_converted

    out = converted_folder(files, folder)
    if is_converted(files, folder):
        console.say(f"{out} is there")
        return
    import torch

    from scail2.loading.conversion import convert

    for line in convert(folder / files.main, out, torch_dtype=torch.bfloat16, pipeline=True):
        console.say(line)
    console.say(f"{out} is made; the files it was made from are needed no more.")
