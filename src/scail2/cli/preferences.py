"""`scail2 preferences`: pairs of videos, the better and the worse, as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.crew import OwnOnly, RankCount, RankNumber, RayAddress, Workers, make_crew, tell_missing
from scail2.errors import InputError

if TYPE_CHECKING:
    from scail2.data.preferences import PreferenceSource

_OWN, _PUPPETS, _LIMITS = "Your own videos", "Drawn puppets", "What is good enough"
_GENERATED = "From a generator"


def _generated(
    named: tuple[str, Path | None],
    folders: tuple[Path | None, Path | None],
    errors: tuple[str, str],
    form: tuple[int | None, str | None, float],
    world: tuple[str, str, str],
) -> "tuple[PreferenceSource, bool]":
    """The source of generated pairs, and whether several processes may draw from it."""
    from scail2.cli.options import parse_size
    from scail2.files.documents import load_toml
    from scail2.synthesis.estimators import Estimator, PeopleEstimator
    from scail2.synthesis.generated_preferences import DrawnMaterial, FolderMaterial, GeneratedPreferences, Material
    from scail2.synthesis.generators.catalogue import make_generator
    from scail2.synthesis.generators.puppets import PuppetEstimator, PuppetGenerator

    (name, file), (motions, pictures), (frames, size, fps) = named, folders, form
    made = make_generator(name, load_toml(file, dict[str, Any]) if file else {}, str(file or "--generator"))
    if isinstance(made, PuppetGenerator):
        height, width = parse_size(size or "128")
        domain, split, salt = world
        material: Material = DrawnMaterial(
            frames=frames or 17, height=height, width=width, fps=fps, domain=domain, split=split, salt=salt
        )
        estimators: list[Estimator] = [PuppetEstimator(error=each) for each in errors]
    else:
        if motions is None or pictures is None:
            raise InputError(
                f"--generator {name} takes --motions (a folder of clips) and --pictures (a folder of pictures)."
            )
        material = FolderMaterial(motions, pictures, frames=frames or 81, size=parse_size(size) if size else None)
        # The networks themselves are P; only what is to be worse than they are has simulated errors.
        estimators = [PeopleEstimator(), PeopleEstimator(error=errors[1])]
    source = GeneratedPreferences(material=material, generator=made, estimator=estimators[0], weaker=estimators[1])
    return source, isinstance(made, PuppetGenerator)


def _refuse_mixed(own: dict[str, Path], generator: str | None, generated: dict[str, Path | None]) -> None:
    """Refuses options of one way to make pairs beside those of another."""
    if own and generator is not None:
        given = ", ".join(f"--{name.replace(' ', '-')}" for name in own)
        raise InputError(f"--generator makes both videos; leave out {given}.")
    stray = [name.replace(" ", "-") for name, path in generated.items() if path is not None]
    if stray and generator is None:
        raise InputError(f"--{', --'.join(stray)} belong to --generator: name one.")


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("preferences")(preferences)


def preferences(
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    pairs: Annotated[int, typer.Option(min=1, help="Pairs to try; those that are refused are named.")] = 1000,
    driving: Annotated[
        Path | None,
        typer.Option(
            help="Driving video, or a folder of them; all files of a pair have one name.", rich_help_panel=_OWN
        ),
    ] = None,
    driving_mask: Annotated[
        Path | None, typer.Option(help="Its mask (scail2 masks), or a folder of them.", rich_help_panel=_OWN)
    ] = None,
    preferred: Annotated[Path | None, typer.Option(help="The better video, or a folder.", rich_help_panel=_OWN)] = None,
    rejected: Annotated[Path | None, typer.Option(help="The worse one, or a folder.", rich_help_panel=_OWN)] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Reference picture, or a folder (default: the preferred video's first frame).", rich_help_panel=_OWN
        ),
    ] = None,
    reference_mask: Annotated[
        Path | None, typer.Option(help="The reference's mask, or a folder.", rich_help_panel=_OWN)
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="JSON with boxes around hands, or a folder (default: found by the extra people).", rich_help_panel=_OWN
        ),
    ] = None,
    caption: Annotated[str, typer.Option(help="What the preferred videos show.", rich_help_panel=_OWN)] = "",
    mode: Annotated[str, typer.Option(help="animation or replacement.", rich_help_panel=_OWN)] = "animation",
    generator: Annotated[
        str | None,
        typer.Option(
            help="Generate both videos: puppets, wan-animate, or own with skeletons (scail2 synthesize --generators).",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    generator_settings: Annotated[
        Path | None, typer.Option(help="TOML with the generator's settings.", rich_help_panel=_GENERATED)
    ] = None,
    motions: Annotated[
        Path | None, typer.Option(help="Folder of clips to be performed (puppets: drawn).", rich_help_panel=_GENERATED)
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures, one character each.", rich_help_panel=_GENERATED)
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames per clip, 4k+1 (default: puppets 17, others at most 81).")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="One number or HEIGHTxWIDTH (default: puppets 128, others their own).")
    ] = None,
    fps: Annotated[
        float, typer.Option(min=1.0, max=240.0, help="Frame rate of the motion.", rich_help_panel=_PUPPETS)
    ] = 16.0,
    split: Annotated[str, typer.Option(help="train, validation, test or holdout.", rich_help_panel=_PUPPETS)] = "train",
    salt: Annotated[
        str, typer.Option(help="Draws another, disjoint world of the same split.", rich_help_panel=_PUPPETS)
    ] = "",
    domain: Annotated[
        str, typer.Option(help="Which: nano, nano-animals, nano-robots or full.", rich_help_panel=_PUPPETS)
    ] = "nano",
    characters: Annotated[int, typer.Option(min=1, max=6, help="In each video.", rich_help_panel=_PUPPETS)] = 1,
    still: Annotated[
        bool, typer.Option(help="References in an unrelated pose, not frames of the video.", rich_help_panel=_PUPPETS)
    ] = False,
    estimator: Annotated[
        str, typer.Option(help="Pose error of driving and preferred videos: mild or strong.", rich_help_panel=_PUPPETS)
    ] = "mild",
    weaker: Annotated[
        str, typer.Option(help="Pose error that the rejected ones went through twice.", rich_help_panel=_PUPPETS)
    ] = "strong",
    hands_seen: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of frames that show a hand.", rich_help_panel=_LIMITS)
    ] = 0.75,
    largest_error: Annotated[
        float, typer.Option(min=0, help="Most hand sizes off the motion (puppets).", rich_help_panel=_LIMITS)
    ] = 0.5,
    least_contrast: Annotated[
        float, typer.Option(min=0, max=255, help="Least difference of the two at the hands.", rich_help_panel=_LIMITS)
    ] = 4.0,
    pairs_per_shard: Annotated[int, typer.Option(min=1)] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Workers = 0,
    rank: RankNumber = None,
    ranks: RankCount = None,
    own_only: OwnOnly = False,
    ray: RayAddress = None,
    resume: Annotated[bool, typer.Option(help="Continue a folder begun with the same settings.")] = False,
) -> None:
    """Make preference pairs for `scail2 train dpo`: of drawn puppets, of your own videos with --preferred and --rejected, or
    generated from poses, once well and twice badly estimated, with --generator.

    Look at the videos in the shards, then cache them: scail2 cache --source OUT.
    """
    from scail2.cli.options import need, parse_size
    from scail2.cli.progress import counted_progress
    from scail2.cli.terminal import Terminal
    from scail2.data.preferences import Strictness
    from scail2.data.synthesis import PreferenceWork, write_pairs
    from scail2.request.paths import refuse_overwriting

    own = {
        "driving": driving, "driving mask": driving_mask, "preferred": preferred, "rejected": rejected,
        "reference": reference, "reference mask": reference_mask, "boxes": boxes,
    }  # fmt: skip
    given = {name: path for name, path in own.items() if path is not None}
    generated = {"generator settings": generator_settings, "motions": motions, "pictures": pictures}
    _refuse_mixed(given, generator, generated)
    refuse_overwriting([out], [*given.items(), *((name, path) for name, path in generated.items() if path is not None)])
    if given:
        from scail2.data.own_preferences import OwnPreferences

        own_pairs = OwnPreferences.find(
            given, frames=frames or 81, size=parse_size(size) if size else None, caption=caption, mode=mode
        )
        source: PreferenceSource = own_pairs
        pairs, workers = min(pairs, len(own_pairs)), 1
    elif generator is not None:
        need("skia", "data", "simulating an estimator's errors")
        source, parallel = _generated(
            (generator, generator_settings), (motions, pictures), (estimator, weaker), (frames, size, fps),
            (domain, split, salt),
        )  # fmt: skip
        workers = workers if parallel else 1
    else:
        need("skia", "data", "drawing puppets")
        from scail2.data.puppet_preferences import PuppetPreferences
        from scail2.data.puppet_source import PuppetSource

        height, width = parse_size(size or "128")
        world = PuppetSource(
            domain=domain, split=split, salt=salt, frames=frames or 17, height=height, width=width, fps=fps
        )
        source = PuppetPreferences(
            puppets=world, estimator=estimator, weaker=weaker, characters=characters, still=still
        )
    limits = Strictness(hands_seen=hands_seen, largest_error=largest_error, least_contrast=least_contrast)
    job = PreferenceWork(source=source, pairs=pairs, limits=limits, pairs_per_shard=pairs_per_shard, seed=seed)
    crew = make_crew(workers, rank, ranks, own_only, ray)
    console = Terminal()
    with counted_progress(console, "making preference pairs") as progress:
        summary = write_pairs(job, out, workers=crew, resume=resume, progress=progress)
    for key, reason in summary.skipped.items():
        console.say(f"refused {key}: {reason}")
    console.say(f"{summary.written} of {pairs} pairs written, {summary.shards} shards in {summary.directory}")
    tell_missing(console, summary)
