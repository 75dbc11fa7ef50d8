"""`scail2 masks`: make, check, look at, edit and freeze the masks of a run, without rendering anything."""

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.options import make_mask_request, request_parameters, with_parameters
from scail2.cli.terminal import Terminal, say, write_json
from scail2.errors import InputError
from scail2.files.disk_errors import naming
from scail2.request.masks import MaskRequest, check_files

if TYPE_CHECKING:
    from scail2.perception.checks.preflight import PreflightReport
    from scail2.perception.store import MaskStore

HELP = """Masks: find or read the characters of both inputs, bind them, check them, and keep them in a folder.

The folder serves any number of runs (`scail2 animate … --masks DIR`). Without mask files the reference's own transparency
counts, then SAM3 if its weights are named, else whichever segmenter knows what the clip shows: the embedded one (drawn
puppets), the colour around (one flat background), or the extra `people`.
"""


def register(app: typer.Typer) -> None:
    """Adds the verb and its own verbs."""
    masks = typer.Typer(help=HELP, invoke_without_command=True, no_args_is_help=True)
    own = request_parameters(MaskRequest, leave_out=frozenset({"masks"}))  # their folder is what is written here
    masks.callback()(with_parameters(_make, own))
    masks.command("check", help="Check the masks of a folder, e.g. after editing them.")(_check)
    masks.command("preview", help="Write an overlay video and a contact sheet.")(_preview)
    masks.command("edit", help="Unpack the driving mask into PNG frames for a painting program.")(_edit)
    masks.command("pack", help="Pack edited PNG frames into the one lossless video again.")(_pack)
    masks.command("freeze", help="Mark the masks as final: they can no longer be overwritten.")(_freeze)
    masks.command("unfreeze", help="Allow changes again.")(_unfreeze)
    app.add_typer(masks, name="masks")


def _make(
    context: typer.Context,
    output: Annotated[Path | None, typer.Option("--output", "--masks", metavar="DIR", help="Folder to write.")] = None,
    mode: Annotated[str, typer.Option(help="animation or replacement; decides the backgrounds.")] = "animation",
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
    **settings: Any,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if settings.get("reference") is None or settings.get("driving") is None or output is None:
        raise InputError(
            "masks need --reference PICTURE, --driving VIDEO and --output DIR (or a verb: scail2 masks --help)."
        )
    request = make_mask_request(mode, settings)
    check_files(request)  # before anything heavy is imported
    with naming(output):
        report = make(request, output)
    _show(report, as_json)
    report.refuse_errors()


def make(request: MaskRequest, output: Path) -> "PreflightReport":
    """Makes, checks and stores masks; leaves contact sheet and report beside them."""
    from scail2.files.storage import hash_file
    from scail2.perception.driving_video import DrivingVideo, hash_driving
    from scail2.perception.stage import make_masks
    from scail2.perception.store_folder import claimed

    driving = DrivingVideo.open(request)
    sources = {"reference": hash_file(request.reference), "driving": hash_driving(request)}
    with claimed(output, [path for _, path in request.input_files]) as folder, _progress("masks") as progress:
        return make_masks(request, driving, folder, sources=sources, progress=progress)


def _check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Masks to check.")],
    mode: Annotated[str | None, typer.Option(help="Check against this mode; without it the masks' own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON on stdout.")] = False,
) -> None:
    from scail2.modes import AnimationMode
    from scail2.perception.binding import bind
    from scail2.perception.bound_masks import BoundMasks
    from scail2.perception.checks import findings, validate
    from scail2.perception.stage import judge_additional
    from scail2.perception.store import MaskStore

    store = MaskStore(folder)
    with naming(folder), tempfile.TemporaryDirectory(prefix="scail2-masks-") as scratch:
        store.verify()
        checked = AnimationMode.parse(mode or store.mode)
        reference, driving = store.measure(Path(scratch))
        binding = bind(reference, driving)
        found = validate.check_masks(
            BoundMasks(
                mode=checked,
                reference=reference,
                driving=driving,
                binding=binding,
                backgrounds=store.backgrounds_for(checked, (reference.background, driving.background)),
            )
        )
        found = [*found, *judge_additional(store, binding)]
    if as_json:
        write_json([each.to_json() for each in found])
    else:
        Terminal().print(findings.table(found))
    findings.refuse(found)


def _preview(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Masks to look at.")],
    reference: Annotated[Path | None, typer.Option(metavar="PICTURE", help="If it has moved since.")] = None,
    driving: Annotated[Path | None, typer.Option(metavar="VIDEO", help="If it has moved since.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Overlay video; without it DIR/preview.mp4.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Contact sheet; without it DIR/preview.png.")
    ] = None,
) -> None:
    from scail2.perception.preview import previews, write_preview
    from scail2.perception.store import MaskStore
    from scail2.request.paths import refuse_overwriting
    from scail2.video import codec_for

    store = MaskStore(folder)
    video, picture = output or folder / "preview.mp4", sheet or folder / "preview.png"
    codec_for(video)
    known = store.info.get("files", {})
    read = [("reference", reference or known.get("reference")), ("driving", driving or known.get("driving"))]
    read += [(path.name, path) for path in folder.iterdir() if not path.name.startswith("preview.")]
    refuse_overwriting((video, picture), [(name, Path(path)) for name, path in read if path])
    made = previews(store, video, picture)
    with naming(folder), _changing(folder), made as (film, still), _progress("preview") as progress:
        write_preview(store, reference, driving, film, still, progress=progress)
    say(f"wrote {video} and {picture}")


def _edit(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    with naming(folder), _editable(folder) as store:
        frames = store.unpack()
    say(f"edit the pictures in {frames} (pure palette colours), then: scail2 masks check {shlex.quote(str(folder))}")


def _pack(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    with naming(folder), _editable(folder) as store:
        video = store.pack()
    say(f"wrote {video}")


@contextmanager
def _changing(folder: Path) -> "Iterator[MaskStore]":
    """The masks of a folder, held so that nobody else changes them meanwhile."""
    from scail2.files.ownership import claimed_folder
    from scail2.perception.store import MaskStore
    from scail2.perception.store_folder import MASKS

    MaskStore(folder)
    with claimed_folder(folder, MASKS):
        yield MaskStore(folder)


@contextmanager
def _editable(folder: Path) -> "Iterator[MaskStore]":
    from scail2.perception.store_folder import unfreezing

    with _changing(folder) as store:
        if store.frozen:
            raise InputError(f"the masks in {folder} are frozen: run {unfreezing(folder)} first.")
        yield store


def _freeze(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    with naming(folder), _changing(folder) as store, tempfile.TemporaryDirectory(prefix="scail2-masks-") as scratch:
        store.verify()
        store.measure(Path(scratch))  # reads all of them: what cannot be read is not final
        store.freeze()
    say(f"froze the masks in {folder}")


def _unfreeze(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    with naming(folder), _changing(folder) as store:
        store.unfreeze()
    say(f"the masks in {folder} can be changed again")


def _show(report: "PreflightReport", as_json: bool) -> None:
    if as_json:
        write_json(report.to_json())
    else:
        Terminal().print(report.table())


@contextmanager
def _progress(what: str):
    """A bar on stderr; yields a function of (done, total)."""
    from rich.progress import Progress

    console = Terminal(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
