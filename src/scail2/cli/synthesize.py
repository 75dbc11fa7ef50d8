"""`scail2 synthesize`: motion pairs as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scail2.cli.crew import GpusEach, OwnOnly, RankCount, RankNumber, RayAddress, Workers, make_crew, tell_missing
from scail2.cli.stages import CardName, Cores, DryRun, FiguresFile, Gpus, Measured, Price, Requests

if TYPE_CHECKING:
    from scail2.execution.forecast import Machines


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("synthesize")(synthesize)


def _show_generators() -> None:
    """Prints the facts of every generator."""
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


def synthesize(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder for the shards.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of motion pairs.")] = 100,
    recipe: Annotated[str, typer.Option(help="Whose shares of constructions: nano or paper.")] = "nano",
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip, 4k+1.")] = 17,
    size: Annotated[str, typer.Option(help="Pixels, one number or HEIGHTxWIDTH.")] = "128",
    fps: Annotated[float, typer.Option(min=1.0, max=240.0, help="Frame rate of the motion.")] = 16.0,
    split: Annotated[str, typer.Option(help="train, validation, test or holdout.")] = "train",
    salt: Annotated[str, typer.Option(help="Draws another, disjoint world of the same split.")] = "",
    domain: Annotated[str, typer.Option(help="Which puppets: nano, nano-animals, nano-robots or full.")] = "nano",
    poses: Annotated[bool, typer.Option(help="Add pose renders to every pair.")] = True,
    pairs_per_shard: Annotated[int, typer.Option(min=1)] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Workers = 0,
    rank: RankNumber = None,
    ranks: RankCount = None,
    own_only: OwnOnly = False,
    ray: RayAddress = None,
    gpus_each: GpusEach = 0.0,
    resume: Annotated[bool, typer.Option(help="Continue a folder begun with the same settings.")] = False,
    plan: Annotated[
        Path | None, typer.Option(help="TOML file of a whole synthesis: pools, roles, generators, budgets.")
    ] = None,
    figures: FiguresFile = None,
    dry_run: DryRun = False,
    measured: Measured = None,
    gpus: Gpus = 1,
    card: CardName = "H100",
    price: Price = 0.0,
    requests: Requests = 8,
    cores: Cores = 0,
    generators: Annotated[
        bool,
        typer.Option(
            "--generators",
            help="Show what can generate clips: licence, cost, and what each cannot do.",
        ),
    ] = False,
) -> None:
    """Draw motion pairs of puppets and write them as shards of videos, masks and stills that any viewer opens.

    With --plan: pairs by a loop of selecting, editing, judging and generating, as the plan says.
    """
    if generators:
        _show_generators()
        return
    from scail2.cli.options import need, parse_size
    from scail2.cli.planned_synthesis import is_given, refuse_what_the_plan_says, synthesize_by_plan
    from scail2.cli.stages import stage_display
    from scail2.cli.terminal import Terminal
    from scail2.errors import InputError
    from scail2.execution.forecast import Machines

    if dry_run:
        machines = Machines(gpus=gpus, requests=requests, cores=cores or 8 * gpus, price=price)
        _predict(plan, pairs if plan is None or is_given(context, "pairs") else None, measured, card, machines)
        return
    if out is None:
        raise InputError("--out names the folder for the shards; without it only --dry-run and --generators work.")
    crew = make_crew(workers, rank, ranks, own_only, ray, gpus_each)
    if plan is not None:
        refuse_what_the_plan_says(context)
        synthesize_by_plan(plan, out, pairs if is_given(context, "pairs") else None, crew, resume, figures)
        return
    need("skia", "data", "drawing puppets")
    from scail2.data.puppet_source import PuppetSource
    from scail2.data.synthesis import SynthesisWork, write_pairs
    from scail2.data.triplet_settings import triplet_settings

    height, width = parse_size(size)
    source = PuppetSource(
        domain=domain, split=split, salt=salt, frames=frames, height=height, width=width, fps=fps, with_poses=poses
    )
    job = SynthesisWork(
        source=source, triplets=triplet_settings(recipe), pairs=pairs, pairs_per_shard=pairs_per_shard, seed=seed
    )
    console = Terminal()
    with stage_display(
        console, "synthesizing", figures, f"measured by scail2 synthesize, {crew.workers} workers"
    ) as shown:
        summary = write_pairs(job, out, workers=crew, resume=resume, progress=shown.progress, listen=shown.listen)
    console.say(f"{summary.written} pairs written, {summary.shards} shards in {summary.directory}")
    tell_missing(console, summary)
    for key, reason in summary.skipped.items():
        console.say(f"skipped {key}: {reason}")


def _predict(plan: Path | None, pairs: int | None, measured: Path | None, card: str, machines: "Machines") -> None:
    """What so many pairs take, by figures of an earlier run or by what is expected: of the plan, or of the published way."""
    from scail2.cli.stages import predict
    from scail2.execution.figures import read_figures
    from scail2.synthesis.expected_costs import expected_figures, expected_of_plan
    from scail2.synthesis.plan import load_plan

    stated = None if plan is None else load_plan(plan)
    if measured is not None:
        figures = read_figures(measured)
    else:
        figures = expected_figures(card) if stated is None else expected_of_plan(stated, card)
    predict(pairs or (stated.pairs if stated else 100), figures, machines)
