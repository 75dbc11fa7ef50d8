"""Does reverse driving keep a generator's errors out of the network? Against training the other way round on the same pairs.

python recipes/reverse_driving.py data     out/reverse        # pairs by the loop, whose generator errs; both caches
python recipes/reverse_driving.py train    out/reverse        # both arms, two trainings each
python recipes/reverse_driving.py measure  out/reverse        # held-out puppets, every clip
python recipes/reverse_driving.py table    out/reverse        # out/reverse/table.md and table.json

Each step goes on where it was interrupted, and passes over what is done. In the arm `reverse` the generated clip drives and the
true one is the target, in `forward` the other way round; pairs, source of references, steps and seeds are the same.
"""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Annotated

import torch
import typer

from scail2.data.cache import CacheWork, write_cache
from scail2.data.sources import PairShards
from scail2.data.triplet_settings import SampleKind, triplet_settings
from scail2.evaluation.arms import START, ArmMeasures
from scail2.execution.crew import Crew
from scail2.files.public.embedded import embedded_model_path
from scail2.loading.by_name import load_pipeline
from scail2.synthesis.plan import GeneratorTables, RoleTables, SynthesisPlan
from scail2.synthesis.work import PlanWork, carry_out
from scail2.training.config import MixtureKnot
from scail2.training.recipes import recipe
from scail2.training.session import train_to_end

app = typer.Typer(no_args_is_help=True, add_completion=False)
logger = logging.getLogger("reverse_driving")

ARMS = ("reverse", "forward")
MEASURES = ("limb_iou", "character_psnr", "hand_psnr", "head_psnr", "background_psnr", "sharpness")
TASKS = ("animation_single", "replacement_single")
# Of the loop's constructions, those that the embedded checkpoint has learnt.
SHARES = {SampleKind.ANIMATION_SINGLE: 0.7, SampleKind.REPLACEMENT_SINGLE: 0.3}

Folder = Annotated[Path, typer.Argument(help="Where everything of the experiment lies.")]
Model = Annotated[Path, typer.Option(help="Pipeline folder that is trained.")]
Size = Annotated[int, typer.Option(min=16, help="Pixels of a side.")]
Frames = Annotated[int, typer.Option(min=1, help="Frames of a clip, 4k+1.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0 uses every core.")]


@app.callback()
def main() -> None:
    """Reverse driving against forward driving, on pairs whose generator errs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@app.command()
def data(
    folder: Folder,
    pairs: Annotated[int, typer.Option(min=4, help="Pairs to make.")] = 2000,
    error: Annotated[str, typer.Option(help="The generator's: mild or strong.")] = "strong",
    model: Model = embedded_model_path(),
    size: Size = 128,
    frames: Frames = 17,
    workers: Workers = 0,
) -> None:
    """Makes pairs by the loop, of the training split, and caches them both ways."""
    crew = Crew(workers=workers or os.cpu_count() or 1)
    clips = {"pool": "puppets", "height": size, "width": size}
    plan = SynthesisPlan(
        pairs=pairs,
        pairs_per_shard=20,
        shares=SHARES,
        motions={**clips, "frames": frames},
        characters=clips,
        roles=RoleTables(editor={"play": "puppets", "error": 0.4}, judge={"play": "puppets"}),
        generators=GeneratorTables(
            animation={"name": "puppets", "error": error}, replacement={"name": "puppets", "error": error}
        ),
    )
    carry_out(PlanWork(plan=plan, folder=folder.absolute() / "pairs", where="recipe"), crew=crew, resume=True)
    source = PairShards((folder / "pairs",))
    for arm in ARMS:
        # References are frames of the target in both arms: the generated clip has no picture of its own.
        settings = triplet_settings(f"nano+{arm}_driving")
        settings = dataclasses.replace(settings, shares=SHARES, reference_from_target=True)
        work = CacheWork(
            source=source,
            triplets=settings,
            autoencoder=model / "vae",
            samples=pairs,
            driving_downsample=1,
        )
        summary = write_cache(work, folder / "latents" / arm, workers=crew, resume=True)
        logger.info("%s: %d samples, %d left out", arm, pairs - len(summary.skipped), len(summary.skipped))


@app.command()
def train(
    folder: Folder,
    model: Model = embedded_model_path(),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 600,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 16,
) -> None:
    """Trains both arms with every seed: recipe nano_continue on their samples."""
    mixture = (MixtureKnot(samples=0, shares=tuple((kind.value, share) for kind, share in SHARES.items())),)
    base = dataclasses.replace(
        recipe("nano_continue"), model=str(model), steps=steps, log_every=10, checkpoint_every=50
    )
    for seed in range(seeds):
        for arm in ARMS:
            shards = str(folder / "latents" / arm)
            own = dataclasses.replace(base.data, shards=shards, batch_size=batch_size, mixture=mixture)
            config = dataclasses.replace(base, name=arm, seed=seed, data=own, keep_checkpoints=1)
            train_to_end(config, folder / "runs" / f"{arm}-{seed}")


@app.command()
def measure(
    folder: Folder,
    model: Model = embedded_model_path(),
    clips: Annotated[int, typer.Option(min=2, help="Held-out clips of each task.")] = 48,
    size: Size = 128,
    frames: Frames = 17,
) -> None:
    """Measures the untrained model and every finished training on the same held-out clips, whose motion is true."""
    trained = {path.parent.name: path for path in sorted(folder.glob("runs/*/transformer"))}
    measures = ArmMeasures(folder=folder, names=MEASURES)
    for name, transformer in ({START: None} | trained).items():
        if measures.place(name).exists():
            continue
        pipe = load_pipeline(model)
        if transformer is not None:
            pipe.transformer = type(pipe.transformer).from_pretrained(transformer)
        limbs = measures.measure(name, pipe, "holdout", clips, TASKS, frames=frames, size=(size, size))
        logger.info("%s: limbs %.4f", name, limbs)


@app.command()
def table(folder: Folder) -> None:
    """Mean differences, reverse minus forward and both minus the start, with 95 % intervals over clips and trainings."""
    comparisons = (("reverse", "forward"), ("reverse", START), ("forward", START))
    typer.echo(ArmMeasures(folder=folder, names=MEASURES, digits=4).write_table(comparisons))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    app()
