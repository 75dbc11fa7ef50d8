"""`scail2 pairs`: motion pairs of one's own videos, made, looked at, and told about."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli import pair_views
from scail2.cli.options import must_exist, parse_size
from scail2.cli.terminal import Terminal, say, write_json
from scail2.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scail2.data.own.folder import Adding, Outcome
    from scail2.data.own.making import Captioner, Laid, Making
    from scail2.data.own.sources import OwnSource
    from scail2.data.own.timing import Array

HELP = """Motion pairs of your own videos: two clips in which different people do the same, or single ones.

`add` makes them, `check` and `triplets` show them as pictures, `card` tells what they are, `select` takes some of them. Then:
scail2 cache --source DIR.
"""
_ABOUT, _READING, _LIMITS = "About the source", "How it is read", "What is good enough"


def register(app: typer.Typer) -> None:
    """Adds the verb and its own verbs."""
    pairs = typer.Typer(help=HELP, no_args_is_help=True)
    pairs.command("add")(add)
    for verb in (pair_views.check, pair_views.triplets, pair_views.card, pair_views.select):
        pairs.command(verb.__name__)(verb)
    app.add_typer(pairs, name="pairs")


def add(
    videos: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIDEOS",
            help="DRIVING TARGET (two videos), one single video, a folder with driving/ and target/, or a .csv or .jsonl list.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the shards; sources are added to those it holds.")],
    name: Annotated[str, typer.Option(help="Of the source (default: of its files).", rich_help_panel=_ABOUT)] = "",
    driving_mask: Annotated[
        Path | None, typer.Option(help="Mask of the first video (scail2 masks); else found.", rich_help_panel=_ABOUT)
    ] = None,
    target_mask: Annotated[Path | None, typer.Option(help="Mask of the second.", rich_help_panel=_ABOUT)] = None,
    caption: Annotated[str, typer.Option(help="What the target shows.", rich_help_panel=_ABOUT)] = "",
    driving_caption: Annotated[str, typer.Option(help="What the driving video shows.", rich_help_panel=_ABOUT)] = "",
    endpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Address and model of an OpenAI-compatible endpoint that writes the captions which are not given.",
            rich_help_panel=_ABOUT,
        ),
    ] = None,
    offset: Annotated[
        float | None,
        typer.Option(
            help="Seconds by which the motion is later in the driving video (default: measured).",
            rich_help_panel=_ABOUT,
        ),
    ] = None,
    characters: Annotated[
        int | None, typer.Option(min=1, max=6, help="How many in each video (default: found).", rich_help_panel=_ABOUT)
    ] = None,
    scene: Annotated[
        str,
        typer.Option(help="shared (replacement), own (animation), or auto: by the background.", rich_help_panel=_ABOUT),
    ] = "auto",
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Burned-in text, left out of the loss: target:X0,Y0,X1,Y1[@FROM-TO] in pixels of the file and seconds, or "
            "target:MASK-FILE; repeatable.",
            rich_help_panel=_ABOUT,
        ),
    ] = None,
    licence: Annotated[str, typer.Option(help="Kept with everything made of it.", rich_help_panel=_ABOUT)] = "",
    consent: Annotated[
        str, typer.Option(help="given, not-needed, refused or unknown.", rich_help_panel=_ABOUT)
    ] = "unknown",
    note: Annotated[str, typer.Option(help="Where it comes from.", rich_help_panel=_ABOUT)] = "",
    style: Annotated[str, typer.Option(help="For example real, 2D, 3D.", rich_help_panel=_ABOUT)] = "",
    character: Annotated[str, typer.Option(help="Who the target shows, for splits.", rich_help_panel=_ABOUT)] = "",
    driving_character: Annotated[str, typer.Option(help="Who drives.", rich_help_panel=_ABOUT)] = "",
    motion: Annotated[str, typer.Option(help="What is performed, for splits.", rich_help_panel=_ABOUT)] = "",
    fps: Annotated[str, typer.Option(help="Frames a second of the clips.", rich_help_panel=_READING)] = "16",
    size: Annotated[
        str | None,
        typer.Option(
            help="One number or HEIGHTxWIDTH (default: the target's shape, at most the area of 512x896).",
            rich_help_panel=_READING,
        ),
    ] = None,
    frames: Annotated[int, typer.Option(help="Most frames of a clip, 4n+1.", rich_help_panel=_READING)] = 81,
    search: Annotated[
        float, typer.Option(min=0, max=600, help="Seconds either way to look for the offset.", rich_help_panel=_READING)
    ] = 30.0,
    poses: Annotated[
        str,
        typer.Option(
            help="Pose renders of people: openpose, puppets (for the embedded checkpoint) or none.",
            rich_help_panel=_READING,
        ),
    ] = "openpose",
    mask_pairs: Annotated[
        bool,
        typer.Option(
            "--mask-pairs", help="Also a replacement pair driven by flat silhouettes.", rich_help_panel=_READING
        ),
    ] = False,
    joints: Annotated[
        bool, typer.Option(help="Look for people's joints (extra people).", rich_help_panel=_READING)
    ] = True,
    sam3: Annotated[str | None, typer.Option(help="SAM3 weights to find masks.", rich_help_panel=_READING)] = None,
    prompt: Annotated[str, typer.Option(help="What SAM3 looks for.", rich_help_panel=_READING)] = "person",
    accept_mask: Annotated[
        bool,
        typer.Option("--accept-mask", help="Take masks that the segmenter is not sure of.", rich_help_panel=_READING),
    ] = False,
    shortest: Annotated[int, typer.Option(help="Least frames of a clip, 4n+1.", rich_help_panel=_LIMITS)] = 17,
    least_motion: Annotated[
        float, typer.Option(min=0, max=1, help="Least change of the outline a frame.", rich_help_panel=_LIMITS)
    ] = 0.01,
    mask_gaps: Annotated[
        float, typer.Option(min=0, max=1, help="Most frames without a mask.", rich_help_panel=_LIMITS)
    ] = 0.1,
    least_agreement: Annotated[
        float,
        typer.Option(
            min=-1, max=1, help="Least correlation of the motions at a found offset.", rich_help_panel=_LIMITS
        ),
    ] = 0.6,
    replace: Annotated[bool, typer.Option("--replace", help="Make sources anew that are there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What became of each source, as JSON on stdout.")] = False,
) -> None:
    """Make motion pairs, or self-driven and pose-driven samples of single videos, as shards.

    Both videos are read at one rate and size, laid over each other in time by how the bodies move, cut at scene cuts and to
    lengths of 4n+1; what is not good enough is named and left out.
    """
    from scail2.data.own.folder import Adding

    said = {
        "name": name, "caption": caption, "driving_caption": driving_caption, "offset": offset, "characters": characters,
        "scene": scene, "text": text or [], "licence": licence, "consent": consent, "note": note, "style": style,
        "character": character, "driving_character": driving_character, "motion": motion,
        "driving_mask": driving_mask, "target_mask": target_mask,
    }  # fmt: skip
    sources = _sources(videos, said)
    wanted = parse_size(size) if size else None
    making = _making(
        {"fps": fps, "size": wanted, "sam3": sam3, "prompt": prompt, "accept": accept_mask, "joints": joints},
        {
            "shortest": shortest,
            "least_motion": least_motion,
            "mask_gaps": mask_gaps,
            "least_agreement": least_agreement,
        },
        {"frames": frames, "search": search, "poses": poses, "mask_pairs": mask_pairs},
    )
    must_exist(endpoint, "--endpoint")
    with _captioner(endpoint) as (captioner, who):
        _add(
            sources, out, Adding(making=making, captioner=captioner, captioned_by=who, replace=replace), as_json=as_json
        )


@contextmanager
def _captioner(endpoint: Path | None) -> "Iterator[tuple[Captioner | None, str]]":
    """What writes captions, and its identity; nobody without an endpoint."""
    if endpoint is None:
        yield None, ""
        return
    from scail2.data.endpoint.client import Endpoint
    from scail2.data.endpoint.failures import NoAnswerError
    from scail2.data.endpoint.settings import EndpointSettings
    from scail2.files.documents import load_toml
    from scail2.synthesis.generators.protocol import Clip
    from scail2.synthesis.roles.endpoint import EndpointCaptioner

    with Endpoint(load_toml(endpoint, EndpointSettings)) as asked:
        writer = EndpointCaptioner(endpoint=asked)

        def caption(frames: "Array") -> str:
            try:
                return writer.caption(Clip(frames=frames, fps=16), "", 0).value
            except NoAnswerError as error:
                say(f"warning: a clip stays without a caption: {error}", stderr=True)
                return ""

        yield caption, json.dumps(writer.describe(), sort_keys=True)


def _sources(videos: list[Path], said: dict[str, Any]) -> "list[OwnSource]":
    """What the arguments name, with what the options say about each."""
    from scail2.data.own.sources import make_source, read_folder, read_list

    if len(videos) > 2:
        raise InputError(
            "give two videos (driving, target), one, a folder or a list; more pairs go into a list (.csv, .jsonl)."
        )
    for path in videos:
        must_exist(path, "VIDEOS")
    first = videos[0]
    if len(videos) == 1 and first.is_file() and first.suffix.lower() in (".csv", ".jsonl"):
        return read_list(first, _for_all(said))
    if len(videos) == 1 and first.is_dir() and not _is_video(first):
        return read_folder(first, _for_all(said))
    named = {"target": videos[-1], "driving": first if len(videos) == 2 else None}
    return [make_source(said | named, "the command line")]


def _is_video(folder: Path) -> bool:
    """Whether a folder is a video as pictures, not a folder of videos."""
    from scail2.video.kinds import PICTURE_SUFFIXES

    inside = [each for each in folder.iterdir() if not each.name.startswith(".")]
    return bool(inside) and all(each.is_file() and each.suffix.lower() in PICTURE_SUFFIXES for each in inside)


def _for_all(said: dict[str, Any]) -> dict[str, Any]:
    alone = ("name", "driving_mask", "target_mask", "offset", "text")
    single = [name for name in alone if said[name] not in (None, "", [])]  # an offset of 0 is said, too
    if single:
        raise InputError(f"--{single[0].replace('_', '-')} is for one source: of a list or folder each says its own.")
    return {name: value for name, value in said.items() if value}


def _making(reading: dict[str, Any], limits: dict[str, Any], cutting: dict[str, Any]) -> "Making":
    from scail2.cli.options import need
    from scail2.data.own.making import Making
    from scail2.data.own.material import Reading
    from scail2.data.own.verdicts import Limits
    from scail2.perception.segmenters.people.skeleton import SkeletonStyle
    from scail2.video.rates import parse_rate

    style = None
    if cutting["poses"] != "none":
        if cutting["poses"] not in list(SkeletonStyle):
            raise InputError(f"--poses is one of {', '.join(SkeletonStyle)} or none, not {cutting['poses']!r}.")
        style = SkeletonStyle(cutting["poses"])
        if style is SkeletonStyle.PUPPETS:
            need("skia", "data", "drawing the puppets' poses")
    reading = reading | {"fps": parse_rate(reading["fps"])}
    return Making(reading=Reading(**reading), limits=Limits(**limits), **cutting | {"poses": style})


def _add(sources: "list[OwnSource]", out: Path, adding: "Adding", *, as_json: bool) -> None:
    import dataclasses

    from scail2.cli.progress import counted_progress
    from scail2.data.own.folder import add_sources
    from scail2.request.paths import refuse_overwriting

    refuse_overwriting([out], [(role, path) for source in sources for role, path in source.files])
    told: list[dict[str, Any]] = []
    with counted_progress(Terminal(stderr=True), "looking for characters") as progress:
        adding = dataclasses.replace(adding, progress=progress, laid=None if as_json else lambda laid: say(_laid(laid)))
        for outcome in add_sources(sources, out, adding):
            if as_json:
                told.append(_as_json(outcome))
            else:
                _say(outcome)
    if as_json:
        write_json({"directory": str(out), "sources": told})


def _laid(laid: "Laid") -> str:
    """What was measured of a source, on one line."""
    facts = laid.facts()
    people = f"{facts['characters']} character{'s' if facts['characters'] > 1 else ''}"
    masks = ", ".join(dict.fromkeys(facts["masks"].values()))
    begin = f"{laid.source.name}: {facts['size'][1]}x{facts['size'][0]} at {float(laid.fps):g} fps, {people} ({masks})"
    if laid.timing is None:
        return f"{begin}; a single video of {facts['seconds']:g} s"
    how = "given" if facts["offset_given"] else f"by {facts['signal']}"
    scene = "the same scene" if laid.shared else "scenes of their own"
    return (
        f"{begin}; the motion is {facts['offset']:+.3f} s later in the driving video ({how}; agreement "
        f"{facts['agreement']:.2f}, elsewhere at most {facts['other_offsets']:.2f}); {scene}, {facts['common_frames']} frames "
        "in common"
    )


def _say(outcome: "Outcome") -> None:
    entry = outcome.entry
    made = ", ".join(f"{count} {kind}" for kind, count in entry.clips.items()) or "no clips"
    say(f"{outcome.name}: {made}{' (there already)' if outcome.kept else ''}")
    for note in entry.notes:
        say(f"  note: {note}")
    for each in entry.discarded:
        span = f" from {each['start']:g} to {each['stop']:g} s" if each["stop"] else ""
        say(f"  left out{span}, {each['reason']}: {each['detail']}")


def _as_json(outcome: "Outcome") -> dict[str, Any]:
    from dataclasses import asdict

    return {"name": outcome.name, "kept": outcome.kept, **asdict(outcome.entry)}
