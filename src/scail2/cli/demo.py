"""`scail2 demo`: the bundled examples through the same runs as a user's own files, and a page that plays them."""

import base64
import html
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from scail2.errors import InputError
from scail2.files.staging import atomic_file

# Example folder -> (verb's mode, suffix of the output's name, what to see).
EXAMPLES = {
    "animation": ("animation", "", "the pictured puppet performs the other's dance in its own scene (5 segments)"),
    "replacement": ("replacement", "-replacement", "the pictured puppet stands in for the dancer in the video's scene"),
    "duet": ("animation", "-duet", "two pictured puppets, each bound to its own dancer"),
}

# What browsers play, by the film's suffix.
_PLAYED = {".mp4": "video/mp4", ".webm": "video/webm"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="scail2 demo"><title>scail2 demo</title>
<style>body{{font:16px sans-serif;margin:2em auto;max-width:1024px;padding:0 1em}}video{{width:100%;background:#000}}</style>
</head><body>
<h1>scail2 demo</h1>
<p>Left to right: reference picture, driving video, output of the embedded checkpoint.</p>
{films}
</body></html>
"""
_FILM = """<h2>{title}</h2>
<p>{what}</p>
<video autoplay loop muted playsinline controls src="data:{kind};base64,{data}"></video>"""


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option(help="The animation; the other examples are named after it.")] = Path(
        "demo.mp4"
    ),
    only: Annotated[str | None, typer.Option(help="Just one: animation, replacement or duet.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace films of these names that no demo here wrote.")
    ] = False,
) -> None:
    """Render the bundled examples with the embedded checkpoint: animation, replacement, two characters.

    Beside each film, NAME-compare.mp4 shows reference, driving video and output side by side; NAME.html plays all of these
    in any browser, without any other file.
    """
    from scail2.cli.rendering import default_run_dir, render
    from scail2.cli.terminal import say
    from scail2.modes import AnimationMode
    from scail2.request.animation import AnimationRequest

    if only is not None and only not in EXAMPLES:
        raise InputError(f"There is no example {only!r}; choose one of {', '.join(EXAMPLES)}.")
    page = output.with_suffix(".html")
    _check_page(page)
    compared: dict[str, Path] = {}
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
            render(request, default_run_dir(request), overwrite=overwrite, as_json=False)
        compared[name] = request.compare_output
    if output.suffix.lower() in _PLAYED:
        write_page(page, compared)
        say(f"{page} shows them side by side.", stderr=True)


def write_page(page: Path, films: Mapping[str, Path]) -> None:
    """Writes one file that plays the films of these examples in any browser.

    Raises:
        InputError: another file of that name is there.
    """
    _check_page(page)
    shown = [
        _FILM.format(
            title=html.escape(name),
            what=html.escape(EXAMPLES[name][2]),
            kind=_PLAYED[film.suffix.lower()],
            data=base64.b64encode(film.read_bytes()).decode(),
        )
        for name, film in films.items()
    ]
    with atomic_file(page) as file:
        file.write(_PAGE.format(films="\n".join(shown)).encode())


def _check_page(page: Path) -> None:
    """Only a page of an earlier demo is replaced."""
    if page.exists() and b'content="scail2 demo"' not in page.read_bytes()[:400]:
        raise InputError(f"{page} is there and is no page of an earlier demo; choose another --output or move it away.")
