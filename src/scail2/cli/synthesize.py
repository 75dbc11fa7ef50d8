"""`scail2 synthesize`: motion pairs as files."""

from pathlib import Path
from typing import Annotated

import typer

from scail2.cli.crew import OwnOnly, RankCount, RankNumber, RayAddress, Workers, make_crew, tell_missing


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("synthesize")(synthesize)


def _show_generators(wanted: bool) -> None:
    """Prints the facts of every generator and ends."""
    if not wanted:
        return
    from scail2.cli.terminal import say
    from scail2.synthesis.generators.facts import ALL

    for each in ALL:
        characters = "one character" if each.max_characters == 1 else f"up to {each.max_characters} characters"
        say(f"{each.name}: {' and '.join(each.modes)}, {characters} at once")
        say(f"  licence: {each.licence}")
        cost = "unknown" if each.seconds_per_frame is None else f"{each.seconds_per_frame:g} s a frame"
        say(f"  cost: {cost} ({each.measured_on})")
        for line in each.cannot:
            say(f"  cannot: {line}")
    raise typer.Exit


def synthesize(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    pairs: Annotated[int, typer.Option(min=1, help="Number of motion pairs.")] = 100,
    recipe: Annotated[str, typer.Option(help="Whose shares of constructions: nano or paper.")] = "nano",
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip, 4k+1.")] = 17,
    size: Annotated[str, typer.Option(help="Pixels, one number or HEIGHTxWIDTH.")] = "128",
    fps: Annotated[float, typer.Option(min=1.0, help="Frame rate of the motion.")] = 16.0,
    split: Annotated[str, typer.Option(help="train, validation, test or holdout.")] = "train",
    salt: Annotated[str, typer.Option(help="Draws another, disjoint world of the same split.")] = "",
    domain: Annotated[str, typer.Option(help="How varied the puppets are: nano or full.")] = "nano",
    poses: Annotated[bool, typer.Option(help="Add pose renders to every pair.")] = True,
    pairs_per_shard: Annotated[int, typer.Option(min=1)] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Workers = 0,
    rank: RankNumber = None,
    ranks: RankCount = None,
    own_only: OwnOnly = False,
    ray: RayAddress = None,
    resume: Annotated[bool, typer.Option(help="Continue a folder begun with the same settings.")] = False,
    plan: Annotated[
        Path | None, typer.Option(help="TOML file of a whole synthesis: pools, roles, generators, budgets.")
    ] = None,
    generators: Annotated[
        bool,
        typer.Option(
            "--generators",
            callback=_show_generators,
            is_eager=True,
            help="Show what can generate clips: licence, cost, and what each cannot do.",
        ),
    ] = False,
) -> None:
    """Draw motion pairs of puppets and write them as shards of videos, masks and stills that any viewer opens.

    With --plan: pairs by a loop of selecting, editing, judging and generating, as the plan says.
    """
    from scail2.cli.options import need, parse_size
    from scail2.cli.progress import counted_progress
    from scail2.cli.terminal import Terminal

    if plan is not None:
        from scail2.cli.planned_synthesis import is_given, refuse_what_the_plan_says, synthesize_by_plan

        refuse_what_the_plan_says(context)
        crew = make_crew(workers, rank, ranks, own_only, ray)
        synthesize_by_plan(plan, out, pairs if is_given(context, "pairs") else None, crew, resume)
        return
    need("skia", "data", "drawing puppets")
    from scail2.data.puppet_source import PuppetSource
    from scail2.data.synthesis import SynthesisWork, write_pairs
    from scail2.data.triplet_settings import triplet_settings

    height, width = parse_size(size)
    source = PuppetSource(
        domain=domain,
        split=split,
        salt=salt,
        frames=frames,
        height=height,
        width=width,
        fps=fps,
        with_poses=poses,
    )
    job = SynthesisWork(
        source=source, triplets=triplet_settings(recipe), pairs=pairs, pairs_per_shard=pairs_per_shard, seed=seed
    )
    crew = make_crew(workers, rank, ranks, own_only, ray)
    console = Terminal()
    with counted_progress(console, "synthesizing") as progress:
        summary = write_pairs(job, out, workers=crew, resume=resume, progress=progress)
    console.say(f"{summary.written} pairs written, {summary.shards} shards in {summary.directory}")
    tell_missing(console, summary)
    for key, reason in summary.skipped.items():
        console.say(f"skipped {key}: {reason}")
