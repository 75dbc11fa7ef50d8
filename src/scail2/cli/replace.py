"""`scail2 replace`: the reference character stands in for the one in the driving video, in the video's scene."""

import typer

from scail2.cli.rendering import register_verb
from scail2.modes import AnimationMode

HELP = """Replace: the character of a picture stands in for the one in a video, in the video's scene.

Every stage is kept in a run directory; an interrupted run continues with `scail2 resume`.
"""


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    register_verb(app, "replace", AnimationMode.REPLACEMENT, HELP)
