"""`scail2 plan`: everything that can be known before rendering."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.options import make_request, request_parameters, with_parameters
from scail2.errors import InputError
from scail2.request.animation import AnimationRequest
from scail2.request.masks import check_files

if TYPE_CHECKING:
    from scail2.budget.machines import Machine
    from scail2.files.staging import Staging

HELP = """Plan: masks, sizes, segments and what the checks find that may go wrong, before any rendering.

Exits with 2 when the run would be refused. With --run-dir the masks are kept and used by the later run; an existing run
keeps its output.
"""


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("plan", help=HELP)(with_parameters(_verb, request_parameters()))


def _verb(
    file: Annotated[Path | None, typer.Argument(metavar="[RUN.toml]", help="Settings file; options win.")] = None,
    mode: Annotated[str | None, typer.Option(help="animation or replacement [default: animation].")] = None,
    run_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep masks and plan here.")] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Write the picture of reference, frames and masks here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as JSON on stdout.")] = False,
    memory: Annotated[float | None, typer.Option(metavar="GB", help="Plan for a card with so much memory.")] = None,
    card: Annotated[str | None, typer.Option(metavar="NAME", help='Plan for a card such as "RTX 4090".')] = None,
    **settings: Any,
) -> None:
    given = {"mode": mode} if mode else {}
    request = make_request(None, file, settings | given, output=unstated_output(run_dir))
    machine = other_machine(card, memory)
    plan(request, run_dir, as_json=as_json, contact_sheet=contact_sheet, machine=machine)


def other_machine(card: str | None, memory: float | None) -> "Machine | None":
    """The machine that `--card` and `--memory` name; None without either."""
    if card is None and memory is None:
        return None
    if memory is not None and not 1 <= memory <= 10_000:
        raise InputError(f"--memory is {memory:g}; it must be a card's memory in GB, from 1 to 10000.")
    from scail2.budget.machines import named_machine

    return named_machine(card, memory)


def unstated_output(run_dir: Path | None) -> Path:
    """The output of a plan that names none: an existing run's own, else a free name beside the run directory."""
    if run_dir is None:
        return _free_name(Path(tempfile.gettempdir()) / "scail2-plan.mp4")
    if (run_dir / "request.json").is_file():
        from scail2.runs import RunDirectory

        return RunDirectory.open(run_dir).request.output
    place = run_dir.absolute()
    return _free_name(place.parent / f"{place.stem or 'film'}.mp4")


def _free_name(path: Path) -> Path:
    """``path``, or ``NAME-2.mp4`` and so on where that exists: nobody asked for an existing file to be replaced."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not os.path.lexists(each))


def plan(
    request: AnimationRequest,
    run_dir: Path | None,
    *,
    like: Path | None = None,
    as_json: bool,
    contact_sheet: Path | None,
    machine: "Machine | None" = None,
) -> None:
    """Plans a run, in a temporary folder unless one is given, and shows what was found.

    ``like`` is a run whose masks are looked at, as they are now, if they are still what the request needs; ``machine``
    one to reckon with instead of this.
    """
    shown = _Shown(as_json=as_json, contact_sheet=contact_sheet, machine=machine)
    if run_dir is not None:
        _plan_in(run_dir, request, shown)
        return
    with tempfile.TemporaryDirectory(prefix="scail2-plan-") as folder:
        place = Path(folder)
        if like is not None:
            from scail2.runs.rehearsal import copy_prepared

            copy_prepared(like, place)
        try:
            _plan_in(place, request, shown)
        except InputError as error:
            # Where the copy lay says nothing to anybody.
            raise InputError(str(error).replace(str(place), str(like or place))) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """What is to be shown of a plan, and for which machine."""

    as_json: bool
    contact_sheet: Path | None
    machine: "Machine | None"


def _plan_in(folder: Path, request: AnimationRequest, shown: _Shown) -> None:
    check_files(request)  # before anything heavy is imported
    from scail2.files.storage import plain_errors
    from scail2.runs import RunDirectory
    from scail2.runs.masking import RefusedPlanError
    from scail2.runs.sealed import read_sealed

    wanted, made = shown.contact_sheet, folder / "masks" / "contact_sheet.png"
    with _claimed_sheet(wanted, request) as sheet:
        run = RunDirectory.create(folder, request, renders=False)
        refused = None
        try:
            run.plan(machine=shown.machine)
            values = read_sealed(folder / "plan.json", dict[str, Any])
        except RefusedPlanError as error:
            # A refused run still has a plan to look at, and masks, unless it was refused before.
            refused, values = error, error.plan
        published = None
        if sheet is not None and wanted is not None and made.exists():
            with plain_errors("write the contact sheet", wanted):
                sheet.place.write_bytes(made.read_bytes())
                sheet.publish()
            published = str(wanted.absolute())
    _show(values | {"contact_sheet": published}, shown.as_json)
    if refused is not None:
        raise refused


@contextmanager
def _claimed_sheet(path: Path | None, request: AnimationRequest) -> "Iterator[Staging | None]":
    """The place of the contact sheet, from before the plan: nothing, or an older sheet, may be there."""
    if path is None:
        yield None
        return
    from scail2.files.ownership import claimed_file
    from scail2.perception.preview import SHEETS
    from scail2.request.paths import refuse_overwriting

    refuse_overwriting([path], request.input_files)
    if path.suffix.lower() != ".png":
        raise InputError(f"--contact-sheet is a PNG picture: name it {path.with_suffix('.png').name}, not {path.name}.")
    with claimed_file(path, SHEETS) as staging:
        yield staging


def _show(values: dict[str, Any], as_json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from scail2.cli.terminal import Terminal, visible, write_json

    if as_json:
        write_json(values)
        return
    console = Terminal()
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in plan_rows(values):
        facts.add_row(Text(name, style="dim"), Text(visible(value)))
    console.print(facts)
    found = Table(show_header=True)
    for column in ("", "what", "fix"):
        found.add_column(column, overflow="fold")
    style = {"error": "bold red", "warning": "yellow", "info": "dim"}
    for each in values["preflight"]["findings"]:
        found.add_row(
            Text(each["severity"], style=style[each["severity"]]),
            Text(visible(each["message"])),
            Text(visible(each["fix"])),
        )
    console.print(found)


def plan_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a plan for a table."""
    resolved = values["sampling"]["resolved"]
    facts = values["preflight"]["facts"]
    segments = [f"{each['start']}-{each['stop'] - 1}" for each in values["segments"]]
    shown = segments if len(segments) <= 8 else [*segments[:6], "…", segments[-1]]
    characters = []
    if facts:  # else refused before anybody was looked for
        told = f"{facts['reference_characters']} reference, {facts['driving_characters']} driving"
        characters = [("characters", told)]
    return [
        ("mode", values["mode"]),
        ("model", values["model"]),
        ("size", f"{values['width']}x{values['height']}"),
        ("length", f"{values['frames']} frames, {values['seconds']} s at {values['fps']} a second"),
        ("segments", f"{len(segments)} ({', '.join(shown)}), overlapping by {values['overlap']}"),
        *characters,
        (
            "sampling",
            f"{resolved['steps']} steps of {resolved['solver'] or resolved['scheduler']}, "
            f"shift {'none' if resolved['shift'] is None else resolved['shift']}, guidance {resolved['guidance_scale']}",
        ),
        *budget_rows(values.get("budget")),
    ]


# What there is at once, beside the name of the placement.
_PLACED = {
    "resident": "all of the model stays in {memory}",
    "encoders-first": "text and image encoders leave {memory} before the transformer comes",
    "block-offload": "the transformer's blocks come to {memory} one after the other",
    "layer-offload": "the transformer's layers come to {memory} one after the other",
}


def _placed_in_words(budget: dict[str, Any]) -> str:
    """``encoders-first (text and image encoders leave main memory before the transformer comes)``."""
    placed = budget["needs"]["placed"]
    told = _PLACED[placed.split(",")[0]].format(memory="main memory" if budget["is_cpu"] else "the GPU")
    return f"{placed} ({told})"


def budget_rows(budget: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What a job needs of a machine, in how much time, and what else it could be; nothing where that is not known."""
    if budget is None:
        return []
    from scail2.budget.machines import told_within
    from scail2.cli.progress import duration

    needs, within = budget["needs"], told_within(budget["within"])
    placed, remarks = _placed_in_words(budget), [("note", each) for each in budget.get("remarks", ())]
    beside = f"{needs['disk_gib']:.2f} GB of disk"
    if budget["is_cpu"]:
        of = f"{needs['main_memory_gib']:.1f} of {budget['memory_gib']:.1f} GB of main memory on {budget['machine']}"
    else:
        of = f"{needs['peak_gib']:.1f} of {budget['memory_gib']:.1f} GB of {budget['machine']}"
        beside = f"{needs['main_memory_gib']:.1f} GB of main memory, {beside}"
    if not budget["fits"]:
        advice = [("fits with", each) for each in budget["advice"]]
        return [("needs", f"{of}: does not fit, even as {placed}"), *advice, *remarks]
    stages = ", ".join(f"{name} {duration(each)}" for name, each in needs["seconds"].items() if each >= 1)
    if budget["within"] is not None:
        within += ", measured here" if budget["rates"] == "measured" else ", reckoned from stated speeds"
    rows = [
        ("needs", f"{of} as {placed}; {beside}"),
        ("time", f"{duration(needs['total_seconds'])}{within} ({stages})"),
    ]
    rows += [
        (
            "or",
            f"{each['peak_gib']:.1f} GB and {duration(each['total_seconds'])} as {each['placed']}",
        )
        for each in budget["runners_up"]
    ]
    return rows + remarks
