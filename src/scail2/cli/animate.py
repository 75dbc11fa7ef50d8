"""`scail2 animate`: the reference character, in its own picture, performs the driving motion."""

import typer

from scail2.cli.rendering import register_verb
from scail2.modes import AnimationMode

HELP = """Animate: the character of a picture, in its own scene, performs the motion of a video.

Every stage is kept in a run directory; an interrupted run continues with `scail2 resume`.
"""


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    register_verb(app, "animate", AnimationMode.ANIMATION, HELP)
