"""`scail2 demo`: the bundled examples through the same runs as a user's own files."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

# Example folder -> (verb's mode, suffix of the output's name, what to see).
EXAMPLES = {
    "animation": ("animation", "", "the pictured puppet performs the other's dance in its own scene (5 segments)"),
    "replacement": ("replacement", "-replacement", "the pictured puppet stands in for the dancer in the video's scene"),
    "duet": ("animation", "-duet", "two pictured puppets, each bound to its own dancer"),
}


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option(help="The animation; the other examples are named after it.")] = Path(
        "demo.mp4"
    ),
    only: Annotated[str | None, typer.Option(help="Just one: animation, replacement or duet.")] = None,
) -> None:
    """Render the bundled examples with the embedded checkpoint: animation, replacement, two characters.

    Beside each film, NAME-compare.mp4 shows reference, driving video and output side by side.
    """
    from scail2.cli.rendering import default_run_dir, render
    from scail2.cli.terminal import say
    from scail2.errors import InputError
    from scail2.modes import AnimationMode
    from scail2.request import AnimationRequest

    if only is not None and only not in EXAMPLES:
        raise InputError(f"There is no example {only!r}; choose one of {', '.join(EXAMPLES)}.")
    for name in [only] if only else EXAMPLES:
        mode, suffix, what = EXAMPLES[name]
        say(f"{name}: {what}", stderr=True)
        with resources.as_file(resources.files("scail2") / "assets" / "example" / name) as folder:
            request = AnimationRequest(
                mode=AnimationMode.parse(mode),
                reference=folder / "reference.png",
                driving=folder / "driving.mp4",
                reference_mask=(folder / "reference_mask.png",),
                driving_mask=(folder / "driving_mask.mkv",),
                output=output.with_name(f"{output.stem}{suffix}{output.suffix}"),
                compare=True,
            )
            render(request, default_run_dir(request), dry_run=False, as_json=False)
