"""`scail2 pose`: a skeleton film of the people in a video, to drive with."""

from pathlib import Path
from typing import Annotated

import typer

from scail2.cli.options import need
from scail2.cli.terminal import Terminal, say
from scail2.errors import InputError


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("pose")(pose)


def pose(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A film of one or several people.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The skeleton film; its sound is the video's.")],
    style: Annotated[
        str, typer.Option(help="openpose, or puppets: the poses that the embedded checkpoint was trained with.")
    ] = "openpose",
    fps: Annotated[str | None, typer.Option(help="Frames a second; without it the video's own.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")] = False,
) -> None:
    """Draw the skeletons of the people in a video on black: a driving video for pose-driven animation.

    Needs the extra `people`. Its masks are found by the black around: scail2 animate --driving FILE.
    """
    need("ai_edge_litert", "people", "finding joints")
    need("cv2", "people", "finding joints")
    if style == "puppets":
        need("skia", "data", "drawing the puppets' poses")
    draw(video, output, style=style, fps=fps, overwrite=overwrite)


def draw(video: Path, output: Path, *, style: str, fps: str | None, overwrite: bool) -> None:
    """Writes the skeleton film.

    Raises:
        InputError: an unknown style, an output that is there or cannot be written, a video without people.
    """
    from scail2.cli.progress import counted_progress
    from scail2.perception.segmenters.people.joints import find_joints
    from scail2.perception.segmenters.people.skeleton import SkeletonStyle, check_anybody, draw_skeletons, smoothed
    from scail2.request.paths import refuse_overwriting
    from scail2.video import VideoReader, VideoWriter, codec_for

    if style not in list(SkeletonStyle):
        raise InputError(f"There is no style {style!r}; choose one of {', '.join(SkeletonStyle)}.")
    if output.exists() and not overwrite:
        raise InputError(f"{output} is there already; choose another --output, or replace it with --overwrite.")
    refuse_overwriting((output,), [("video", video)])
    reader = VideoReader(video, fps=fps)
    size = (reader.height, reader.width)
    writer = VideoWriter(
        output,
        reader.fps,
        size,
        codec=codec_for(output),
        audio_from=video if reader.source_info.has_audio else None,
        total_frames=len(reader),
    )
    with writer, counted_progress(Terminal(stderr=True), "joints") as progress:
        joints = smoothed(find_joints(reader, progress=progress))
        check_anybody(joints, video.name)
        for frame in range(len(reader)):
            writer.write(draw_skeletons(joints, SkeletonStyle(style), height=size[0], width=size[1], frame=frame)[None])
    say(f"wrote {output}: {len(joints.places)} {'person' if len(joints.places) == 1 else 'people'}")
