"""`scail2 animate` and `scail2 replace`: from options to a run, shown while it works."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.options import make_request, request_parameters, with_parameters
from scail2.cli.terminal import Terminal
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.request.animation import AnimationRequest

if TYPE_CHECKING:
    from scail2.runs.journal import RunEvent

EMBEDDED_NOTE = (
    "No --model: using the embedded checkpoint. It animates figures like the drawn puppets it was trained on, at 128x128 "
    "pixels; real people come out as blurred figures. For a film of them give SCAIL-2 weights "
    "with --model (docs/checkpoints.md)."
)


# Verb -> its mode and help.
VERBS = {
    "animate": (
        AnimationMode.ANIMATION,
        """Animate: the character of a picture, in its own scene, performs the motion of a video.

Every stage is kept in a run directory; an interrupted run continues with `scail2 resume`.
""",
    ),
    "replace": (
        AnimationMode.REPLACEMENT,
        """Replace: the character of a picture stands in for the one in a video, in the video's scene.

Every stage is kept in a run directory; an interrupted run continues with `scail2 resume`.
""",
    ),
}


def register(app: typer.Typer) -> None:
    """Adds the verbs, whose options are the request's settings."""
    for name, (mode, help) in VERBS.items():
        _register_verb(app, name, mode, help)


def _register_verb(app: typer.Typer, name: str, mode: AnimationMode, help: str) -> None:

    def verb(
        file: Annotated[Path | None, typer.Argument(metavar="[RUN.toml]", help="Settings file; options win.")] = None,
        run_dir: Annotated[
            Path | None, typer.Option(metavar="DIR", help="Run directory [default: OUTPUT's name with .run].")
        ] = None,
        preview: Annotated[
            bool,
            typer.Option(
                "--preview", help="Only a few small frames and their contact sheet, in OUTPUT's name with .preview."
            ),
        ] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan, render and keep nothing.")] = False,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace a file that this run did not write.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
        **settings: Any,
    ) -> None:
        request = make_request(mode, file, settings)
        place = run_dir or default_run_dir(request)
        if preview:
            show_preview(request, place, overwrite=overwrite, as_json=as_json)
        elif dry_run:
            rehearse(request, place, overwrite=overwrite, as_json=as_json)
        else:
            render(request, place, overwrite=overwrite, as_json=as_json)

    verb.__doc__ = help
    app.command(name, help=help)(with_parameters(verb, request_parameters()))


def default_run_dir(request: AnimationRequest) -> Path:
    """``film.run`` beside ``film.mp4``."""
    return request.output.with_name(f"{request.output.stem}.run")


def render(request: AnimationRequest, run_dir: Path, *, overwrite: bool = False, as_json: bool) -> None:
    """Executes a run and says where everything is."""
    from scail2.runs import RunDirectory

    if request.model is None:
        Terminal(stderr=True, quiet=as_json).say(EMBEDDED_NOTE)
    run = RunDirectory.create(run_dir, request, overwrite=overwrite)
    work(run, lambda it, events: it.execute(events=events), as_json=as_json)


def rehearse(request: AnimationRequest, run_dir: Path, *, overwrite: bool, as_json: bool) -> None:
    """Plans a run in a temporary folder, with whatever masks it has already; refuses what the run would refuse."""
    from scail2.cli.plan import plan
    from scail2.runs import RunDirectory

    if request.model is None:
        Terminal(stderr=True, quiet=as_json).say(EMBEDDED_NOTE)
    RunDirectory.check(run_dir, request, overwrite=overwrite)
    plan(request, None, like=run_dir, as_json=as_json, contact_sheet=None)


def show_preview(request: AnimationRequest, run_dir: Path, *, overwrite: bool, as_json: bool) -> None:
    """Renders a few small frames beside the run, which is not touched, and says what the whole will take."""
    from scail2.cli.progress import run_events
    from scail2.runs import RunDirectory
    from scail2.runs.preview import render_preview

    console = Terminal(stderr=True, quiet=as_json)
    if request.model is None:
        console.say(EMBEDDED_NOTE)
    RunDirectory.check(run_dir, request, overwrite=True)  # nothing is written to the output
    with run_events(as_json) as events:
        made = render_preview(run_dir, request, overwrite=overwrite, events=events)
    for line in made.told():
        console.say(line)


def work(run: Any, action: Any, *, as_json: bool) -> None:
    """Runs ``action(run, events)`` with a display; Ctrl-C keeps everything and exits with 130."""
    from scail2.cli.progress import run_events

    console = Terminal(stderr=True, quiet=as_json)
    heard: list[str] = []
    try:
        with run_events(as_json) as show:

            def listen(event: "RunEvent") -> None:
                heard.append(event.name)
                show(event)

            output = action(run, listen)
    except KeyboardInterrupt:
        console.say(f"Stopped; every finished segment is kept. Go on with: scail2 resume {shlex.quote(str(run.path))}")
        raise typer.Exit(130) from None
    except InputError:
        worked = len(set(heard) - {"failed"}) > 1  # what is refused at once leaves no doubt about what was rendered
        if worked and any((run.path / "segments").glob("[0-9]*")):
            console.say(f"What was rendered so far is kept in {run.path}.")
        raise
    console.say(f"{output} is finished; the run with its segments, masks and measurements is {run.path}.")
    verdict = run.status().verdict
    if verdict is not None and not as_json:
        first, *rest = verdict.lines()
        console.say(f"Verdict: {first}.")
        for line in rest:
            console.say(f"  {line}")
