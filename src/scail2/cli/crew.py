"""Who does a command's work: options and the crew they mean."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scail2.cli.terminal import Terminal
    from scail2.data.sharding import ShardSummary
    from scail2.execution.crew import Crew

_PANEL = "Who works"
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0 uses every core.", rich_help_panel=_PANEL)]
RankNumber = Annotated[
    int | None,
    typer.Option(min=0, help="This is command R of --ranks, from 0 (in a Slurm array: known).", rich_help_panel=_PANEL),
]
RankCount = Annotated[
    int | None, typer.Option(min=1, help="So many commands fill the folder together.", rich_help_panel=_PANEL)
]
OwnOnly = Annotated[
    bool,
    typer.Option(
        help="End when this rank's own shards are done (folders that are not shared).", rich_help_panel=_PANEL
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="Work in Ray actors: auto, an address, or local.", rich_help_panel=_PANEL),
]
GpusEach = Annotated[
    float,
    typer.Option("--gpus-each", min=0, help="GPUs of each Ray actor, also a part of one.", rich_help_panel=_PANEL),
]


def make_crew(
    workers: int, rank: int | None, ranks: int | None, own_only: bool, ray: str | None, gpus: float = 0.0
) -> "Crew":
    """The crew that these options mean.

    Raises:
        InputError: a rank that is none; half of a rank; GPUs for actors that there are not.
    """
    from scail2.cli.libraries import quiet_process
    from scail2.errors import InputError
    from scail2.execution.crew import Crew
    from scail2.execution.ranks import given_rank

    if gpus and ray is None:
        raise InputError("--gpus-each is for Ray's actors: give --ray, too, or leave it out.")
    return Crew(
        workers=workers or os.cpu_count() or 1,
        start=quiet_process,
        rank=given_rank(rank, ranks, own_only=own_only),
        ray=ray,
        gpus=gpus,
    )


def tell_missing(console: "Terminal", summary: "ShardSummary") -> None:
    """What is left to others, or to the next command."""
    if summary.missing:
        console.say(
            f"{summary.missing} shards are not there yet: other commands are making them, or their ranks have ended; "
            "the same command with --resume makes what is then missing"
        )
