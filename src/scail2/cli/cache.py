"""`scail2 cache`: training samples as latents, in shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.crew import OwnOnly, RankCount, RankNumber, RayAddress, Workers, make_crew, tell_missing

if TYPE_CHECKING:
    from scail2.data.triplet_settings import TripletSettings


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("cache")(cache)


def cache(
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    source: Annotated[
        list[str],
        typer.Option(
            help="`puppets` (drawn as needed), or shards/folders of `scail2 synthesize`, `scail2 pairs` or `scail2 preferences`."
        ),
    ] = ["puppets"],  # noqa: B006 - typer copies it
    recipe: Annotated[
        str, typer.Option(help="How pairs become samples: paper, nano; append ablations, e.g. nano+no_slots.")
    ] = "nano",
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of samples, in whole pairs (default: puppets 1000; else one for each pair and direction).",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip, 4k+1 (puppets).")] = 17,
    size: Annotated[str, typer.Option(help="Pixels, one number or HEIGHTxWIDTH (puppets).")] = "128",
    fps: Annotated[float, typer.Option(min=1.0, max=240.0, help="Frame rate of the motion (puppets).")] = 16.0,
    split: Annotated[str, typer.Option(help="train, validation, test or holdout (puppets).")] = "train",
    salt: Annotated[str, typer.Option(help="Draws another, disjoint world of the same split (puppets).")] = "",
    domain: Annotated[str, typer.Option(help="Which puppets: nano, nano-animals, nano-robots or full.")] = "nano",
    autoencoder: Annotated[
        Path | None, typer.Option(help="Autoencoder folder in diffusers' layout (default: the embedded one).")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Pipeline folder whose autoencoder, geometry and text/image encoders make the inputs."),
    ] = None,
    driving_downsample: Annotated[
        int,
        typer.Option(min=0, max=2, help="1: driving frames at full size, 2: at half (published); 0: by recipe."),
    ] = 0,
    samples_per_shard: Annotated[int, typer.Option(min=1)] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Workers = 0,
    rank: RankNumber = None,
    ranks: RankCount = None,
    own_only: OwnOnly = False,
    ray: RayAddress = None,
    resume: Annotated[bool, typer.Option(help="Continue a cache begun with the same settings.")] = False,
) -> None:
    """Cache training samples: pairs to triplets to latents, through the code that makes inputs at inference.

    The same settings and seed always give the same samples. Interrupt it and continue with --resume.
    """
    from scail2.checkpoints.model_folder import check_model
    from scail2.cli.options import must_exist, parse_size
    from scail2.cli.progress import counted_progress
    from scail2.cli.terminal import Terminal

    height, width = parse_size(size)
    check_model(model)
    for name in source:
        must_exist(None if name == "puppets" else name, "--source")
    must_exist(autoencoder, "--autoencoder")
    from scail2.data.cache import CacheWork, write_cache
    from scail2.data.preference_cache import PreferenceCacheWork
    from scail2.data.preferences import PreferenceShards
    from scail2.data.triplet_settings import triplet_settings
    from scail2.request.paths import refuse_overwriting

    chosen = triplet_settings(recipe)
    given = [("source", Path(name)) for name in source if name != "puppets"]
    given += [(name, path) for name, path in (("autoencoder", autoencoder), ("model", model)) if path is not None]
    refuse_overwriting([out], given)
    puppets = {
        "domain": domain,
        "split": split,
        "salt": salt,
        "frames": frames,
        "height": height,
        "width": width,
        "fps": fps,
    }
    pairs = _pairs_of(source, puppets | {"with_poses": chosen.needs_poses})
    chosen = _of_what_is_there(chosen, pairs, told=samples is not None)
    pairs, samples = (pairs, samples) if samples else _each_once(pairs, chosen)
    made_for = _model_facts(model) if model else {}
    models_own = made_for.pop("autoencoder", None)
    if driving_downsample:
        made_for["driving_downsample"] = driving_downsample
    settings: dict[str, Any] = {
        "triplets": chosen,
        "autoencoder": autoencoder or models_own or _embedded_autoencoder(),
        "samples": samples,
        "samples_per_shard": samples_per_shard,
        "seed": seed,
        "driving_downsample": 1 if recipe.startswith("nano") else 2,
    } | made_for
    job: CacheWork | PreferenceCacheWork
    if isinstance(pairs, PreferenceShards):
        job = PreferenceCacheWork(pairs=pairs, **settings)
    else:
        job = CacheWork(source=pairs, **settings)
    # Encoders live in this process; everything else runs on all cores.
    crew = make_crew(1 if job.embedder is not None else workers, rank, ranks, own_only, ray)
    console = Terminal()
    with counted_progress(console, "caching") as progress:
        summary = write_cache(job, out, workers=crew, resume=resume, progress=progress)
    console.say(f"{summary.written} samples written, {summary.shards} shards in {summary.directory}")
    tell_missing(console, summary)
    for line in () if source == ["puppets"] else pairs.damage.lines():
        console.say(f"damaged {line}")
    for key, reason in summary.skipped.items():
        console.say(f"skipped {key}: {reason}")


def _pairs_of(source: list[str], puppets: dict[str, Any]) -> Any:
    """What the sources are: puppets with these settings, motion pairs, or preference pairs."""
    from scail2.cli.options import need
    from scail2.data.preferences import PreferenceShards, holds_preferences
    from scail2.data.sources import PairShards

    if source == ["puppets"]:
        need("skia", "data", "drawing puppets")
        from scail2.data.puppet_source import PuppetSource

        return PuppetSource(**puppets)
    if "puppets" in source:
        from scail2.errors import InputError

        raise InputError("--source puppets stands alone: cache them into a folder of their own, and train on both.")
    folders = tuple(Path(name) for name in source)
    return PreferenceShards(folders) if holds_preferences(folders) else PairShards(folders)


def _of_what_is_there(recipe: "TripletSettings", pairs: Any, *, told: bool) -> "TripletSettings":
    """The recipe with the shares of the kinds that stored pairs can become, `told` where they are not the recipe's own."""
    import dataclasses

    from scail2.cli.terminal import say
    from scail2.data.sources import PairShards

    if not isinstance(pairs, PairShards):
        return recipe
    shares = pairs.shares(recipe.shares)
    if shares == dict(recipe.shares):
        return recipe
    total = sum(shares.values())
    if told:
        say(f"shares of what is there: {', '.join(f'{kind} {share / total:.0%}' for kind, share in shares.items())}")
    return dataclasses.replace(recipe, shares=shares)


def _each_once(pairs: Any, recipe: "TripletSettings") -> tuple[Any, int]:
    """What is cached where nobody says how much: every stored pair once, in each direction that the recipe takes."""
    from collections import Counter

    from scail2.cli.terminal import say
    from scail2.data.preferences import PreferenceShards
    from scail2.data.sources import EachPairOnce, PairShards

    if isinstance(pairs, PreferenceShards):
        return pairs, len(pairs)
    if not isinstance(pairs, PairShards):
        return pairs, 1000
    once = EachPairOnce(pairs, dict(recipe.shares))
    say(f"each pair once: {', '.join(f'{count} {kind}' for kind, count in Counter(once.kinds).items())}")
    return once, len(once.kinds) * recipe.samples_per_pair


def _embedded_autoencoder() -> Path:
    from scail2.files.public.embedded import embedded_model_path

    return embedded_model_path() / "vae"


def _model_facts(folder: Path) -> dict[str, Any]:
    """What a pipeline folder says about its inputs: autoencoder, size of driving frames, encoders."""
    from scail2.data.embedding import PipelineEmbedder
    from scail2.errors import InputError
    from scail2.files.documents import Between, decode, load_json

    config = folder / "transformer" / "config.json"
    if not config.is_file():
        raise InputError(f"{folder} is no pipeline folder (transformer/config.json is missing): convert it first")
    facts = load_json(config, dict[str, Any])
    from scail2.checkpoints.loading_bars import no_loading_bars

    takes_embeddings = facts.get("text_dim") is not None or facts.get("image_dim") is not None
    with no_loading_bars():
        embedder = PipelineEmbedder(folder) if takes_embeddings else None
    return {
        "autoencoder": folder / "vae",
        "driving_downsample": decode(facts.get("driving_downsample", 2), Annotated[int, Between(1, 2)], config),
        "embedder": embedder,
    }
