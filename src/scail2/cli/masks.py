"""`scail2 masks`: make, check, look at, edit and freeze the masks of a job, without rendering anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.terminal import Terminal, say, write_json
from scail2.errors import InputError
from scail2.files.disk_errors import naming
from scail2.request.masks import parse_box, parse_point

if TYPE_CHECKING:
    from scail2.perception.checks.preflight import PreflightReport
    from scail2.perception.make import PreparedMasks
    from scail2.perception.segmenters.protocol import VideoSegmenter
    from scail2.perception.store import MaskStore
    from scail2.request.masks import Prompts

HELP = """Masks: find or read the characters of both inputs, bind them, check them, and keep them in a folder.

The folder serves any number of runs (`scail2 animate … --masks DIR`). Without mask files the reference's own transparency
counts, then SAM3 if its weights are named, else the embedded segmenter, which knows drawn puppets.
"""


def register(app: typer.Typer) -> None:
    """Adds the verb and its own verbs."""
    masks = typer.Typer(help=HELP, invoke_without_command=True, no_args_is_help=True)
    masks.callback()(_make)
    masks.command("check", help="Check the masks of a folder, e.g. after editing them.")(_check)
    masks.command("preview", help="Write an overlay video and a contact sheet.")(_preview)
    masks.command("edit", help="Unpack the driving mask into PNG frames for a painting program.")(_edit)
    masks.command("pack", help="Pack edited PNG frames into the one lossless video again.")(_pack)
    masks.command("freeze", help="Mark the masks as final: they can no longer be overwritten.")(_freeze)
    masks.command("unfreeze", help="Allow changes again.")(_unfreeze)
    app.add_typer(masks, name="masks")


def _make(
    context: typer.Context,
    reference: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Picture of the character(s).")] = None,
    driving: Annotated[Path | None, typer.Option(metavar="VIDEO", help="Video whose motion is followed.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "--masks", metavar="DIR", help="Folder to write.")] = None,
    mode: Annotated[str, typer.Option(help="animation or replacement; decides the backgrounds.")] = "animation",
    reference_mask: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Palette picture, or mattes.")
    ] = None,
    driving_mask: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Palette video, or mattes.")] = None,
    bind: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="A rule, driving:2=reference:1, or driving:1 alone.")
    ] = None,
    sam3: Annotated[str | None, typer.Option(metavar="WEIGHTS", help="SAM3 folder or Hub repository.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="What SAM3 looks for; repeatable.")] = None,
    point: Annotated[
        list[str] | None, typer.Option(metavar="FRAME:CHARACTER:X,Y[:out]", help="A click in the driving video.")
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option(metavar="FRAME:CHARACTER:X0,Y0,X1,Y1", help="A box in the driving video.")
    ] = None,
    reference_point: Annotated[
        list[str] | None, typer.Option(metavar="CHARACTER:X,Y[:out]", help="A click in the reference.")
    ] = None,
    reference_box: Annotated[
        list[str] | None, typer.Option(metavar="CHARACTER:X0,Y0,X1,Y1", help="A box in the reference.")
    ] = None,
    characters: Annotated[int | None, typer.Option(min=1, help="How many characters to expect.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the masks; without it the video's.")] = None,
    height: Annotated[int | None, typer.Option(help="Height of the masks; without it the video's.")] = None,
    fps: Annotated[
        str | None, typer.Option(help="Resample the video to this rate (16, 30000/1001), as the run will.")
    ] = None,
    fit: Annotated[str, typer.Option(help="cover or letterbox.")] = "cover",
    reframe: Annotated[str, typer.Option(help="off or auto: rescale the reference.")] = "off",
    fix_polarity: Annotated[bool, typer.Option(help="Repaint backgrounds that contradict the mode.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if reference is None or driving is None or output is None:
        raise InputError(
            "masks need --reference PICTURE, --driving VIDEO and --output DIR (or a verb: scail2 masks --help)."
        )
    if reframe not in ("off", "auto"):
        raise InputError(f"--reframe is {reframe!r}; it must be off or auto.")
    given = {name: value for name, value in locals().items() if name not in ("context", "as_json")}
    with naming(output):
        report = make(given)
    _show(report, as_json)
    report.refuse_errors()


def make(given: dict[str, Any]) -> "PreflightReport":
    """Makes, checks and stores masks from the options of `_make`; leaves contact sheet and report beside them."""
    from scail2.files.storage import sha256_of
    from scail2.modes import AnimationMode
    from scail2.perception.binding import BindingRequest
    from scail2.perception.make import MaskInputs, prepare
    from scail2.perception.stage import read_picture
    from scail2.perception.store_folder import claimed
    from scail2.video import VideoReader, probe

    mode = AnimationMode.parse(given["mode"])
    info = probe(given["driving"])
    size = (given["height"] or info.height, given["width"] or info.width)
    driving = VideoReader(given["driving"], fps=given["fps"], size=size, fit=given["fit"])
    reference = read_picture(given["reference"], mode)
    segmenter, prompts, reference_prompts = _segmenter(given)
    named = {"reference": given["reference"], "driving": given["driving"]}
    inputs = MaskInputs(
        mode=mode,
        reference=reference,
        driving=driving,
        fps=driving.fps,
        reference_mask=tuple(given["reference_mask"] or ()),
        driving_mask=tuple(given["driving_mask"] or ()),
        bind=BindingRequest.parse(given["bind"] or ()),
        segmenter=segmenter,
        prompts=prompts,
        reference_prompts=reference_prompts,
        letterbox=given["fit"] == "letterbox",
        reframe=given["reframe"],
        fix_polarity=given["fix_polarity"],
        sources={name: sha256_of(path) for name, path in named.items()},
        files={name: str(Path(path).resolve()) for name, path in named.items()} | {"fit": given["fit"]},
    )
    folder = Path(given["output"])
    with claimed(folder, [*named.values(), *inputs.reference_mask, *inputs.driving_mask]) as made:
        with _progress("masks") as progress:
            prepared = prepare(inputs, made, progress=progress)
        return _inspect(prepared, inputs.mode, driving, made)


def _inspect(prepared: "PreparedMasks", mode: Any, driving: Any, folder: Path) -> "PreflightReport":
    """Preflight as far as it needs no model: contact sheet, report, and the picture the masks belong to."""
    from scail2.perception.checks import preflight
    from scail2.perception.preview import write_png
    from scail2.segments import SegmentPlan

    inputs = preflight.PreflightInputs(
        mode=mode,
        reference=prepared.reference,
        driving=driving,
        reference_masks=prepared.reference_masks,
        driving_masks=prepared.driving_masks,
        binding=prepared.binding,
        plan=SegmentPlan.of(len(driving)),
        size_step=(1, 1),
        fps=driving.fps,
        source_fps=driving.source_info.fps,
        backgrounds=prepared.backgrounds,
        notes=prepared.findings,
    )
    report = preflight.inspect(inputs)
    write_png(folder / "reference.png", prepared.reference)
    preflight.contact_sheet(inputs, report, folder / "contact_sheet.png")
    report.write_json(folder / "preflight.json")
    return report


def _segmenter(given: dict[str, Any]) -> "tuple[VideoSegmenter | None, Prompts | None, Prompts | None]":
    from scail2.request.masks import Prompts

    text = tuple(given["text"] or ())
    placed = {name: given[name] or () for name in ("point", "box", "reference_point", "reference_box")}
    if given["sam3"] is None:
        if text or any(placed.values()):
            raise InputError("--text, --point and --box are for SAM3: name its weights with --sam3 FOLDER-OR-HUB-NAME.")
        count = Prompts(characters=given["characters"]) if given["characters"] else None
        return None, count, None
    from transformers.utils import logging

    from scail2.perception.segmenters.sam3 import Sam3Segmenter

    logging.disable_progress_bar()

    def prompts(points: Any, boxes: Any, still: bool) -> Prompts:
        read = Prompts(
            text=text,
            points=tuple(parse_point(each, still=still) for each in points),
            boxes=tuple(parse_box(each, still=still) for each in boxes),
            characters=given["characters"],
        )
        return read if read.text or read.placed else Prompts(text=("person",), characters=given["characters"])

    driving = prompts(placed["point"], placed["box"], False)
    reference = prompts(placed["reference_point"], placed["reference_box"], True)
    return Sam3Segmenter.load(given["sam3"]), driving, reference


def _check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Masks to check.")],
    mode: Annotated[str | None, typer.Option(help="Check against this mode; without it the masks' own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON on stdout.")] = False,
) -> None:
    import tempfile

    from scail2.modes import AnimationMode
    from scail2.perception.binding import bind
    from scail2.perception.checks import findings, validate
    from scail2.perception.store import MaskStore

    store = MaskStore(folder)
    with naming(folder), tempfile.TemporaryDirectory(prefix="scail2-masks-") as scratch:
        store.verify()
        reference, driving = store.measure(Path(scratch))
        found = validate.check_masks(
            validate.MaskCheck(
                mode=AnimationMode.parse(mode or store.mode),
                reference=reference,
                driving=driving,
                binding=bind(reference, driving),
                backgrounds=(reference.background, driving.background),
            )
        )
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

    store = MaskStore(folder)
    video, picture = output or folder / "preview.mp4", sheet or folder / "preview.png"
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
    say(f"edit the pictures in {frames} (pure palette colours), then: scail2 masks check {folder}")


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
    with _changing(folder) as store:
        if store.frozen:
            raise InputError(f"the masks in {folder} are frozen: run scail2 masks unfreeze {folder} first.")
        yield store


def _freeze(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    with naming(folder), _changing(folder) as store:
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
