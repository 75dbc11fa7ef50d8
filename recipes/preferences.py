"""Does preference training help the hands of the embedded checkpoint? Against supervised training on the same videos.

python recipes/preferences.py data     out/hands                # preference pairs of puppets, cached
python recipes/preferences.py train    out/hands                # every arm, three trainings each
python recipes/preferences.py measure  out/hands                # held-out puppets, every clip
python recipes/preferences.py table    out/hands                # out/hands/table.md and table.json
python recipes/preferences.py package  out/hands nano-dpo.safetensors    # one adapter, ready to ship

Each step goes on where it was interrupted, and passes over what is done. Arms train the same adapters on the same samples for as
many steps and differ in the loss alone.
"""

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import safe_open
from safetensors.torch import save

from scail2.data.cache import write_cache
from scail2.data.preference_cache import PreferenceCacheWork
from scail2.data.preferences import PreferenceShards
from scail2.data.puppet_preferences import PuppetPreferences
from scail2.data.puppet_source import PuppetSource
from scail2.data.synthesis import PreferenceWork, write_pairs
from scail2.data.triplet_settings import triplet_settings
from scail2.evaluation.arms import START, ArmMeasures
from scail2.files.public.embedded import embedded_model_path
from scail2.files.staging import atomic_file
from scail2.loading.by_name import load_pipeline
from scail2.training.config import TrainConfig
from scail2.training.recipes import recipe
from scail2.training.session import train_to_end

app = typer.Typer(no_args_is_help=True, add_completion=False)
logger = logging.getLogger("preferences")

MEASURES = ("hand_psnr", "head_psnr", "character_psnr", "background_psnr", "limb_iou", "sharpness")
TASK = "animation_single"
_DOWN, _UP = ".lora_down.weight", ".lora_up.weight"
# What somebody would try by hand. (At its first step the published preference loss weighs hands by λ · β / 4 = 12.5.)
HAND_WEIGHT = 5.0

Folder = Annotated[Path, typer.Argument(help="Where everything of the experiment lies.")]
Model = Annotated[Path, typer.Option(help="Pipeline folder that is trained.")]
Size = Annotated[int, typer.Option(min=16, help="Pixels of a side.")]
Frames = Annotated[int, typer.Option(min=1, help="Frames of a clip, 4k+1.")]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each arm.")]


def _supervised(config: TrainConfig, **loss: Any) -> TrainConfig:
    return dataclasses.replace(config, preference=None, loss=dataclasses.replace(config.loss, **loss))


def _beta(config: TrainConfig, beta: float) -> TrainConfig:
    return dataclasses.replace(config, preference=dataclasses.replace(config.preference, beta=beta))


ARMS: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    "sft": _supervised,
    "sft_hands": lambda config: _supervised(config, regions=(("hands", HAND_WEIGHT),)),
    "dpo": lambda config: _beta(config, 5000.0),
    "dpo_beta500": lambda config: _beta(config, 500.0),
}
# Adapters that are measured at less than their strength, too; the strength was chosen on the validation split.
WEAKENED = {"dpo_beta500_at_0.7": ("dpo_beta500", 0.7)}
Arms = Annotated[list[str], typer.Option("--arm", help=f"Of {', '.join(ARMS)}; repeatable.")]


@app.callback()
def main() -> None:
    """Preference training against supervised training on the same videos."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@app.command()
def data(
    folder: Folder,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs to try.")] = 600,
    model: Model = embedded_model_path(),
    size: Size = 128,
    frames: Frames = 17,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 uses every core.")] = 0,
) -> None:
    """Draws preference pairs of training puppets and caches them; references are in an unrelated pose, as in the evaluation."""
    count = workers or os.cpu_count() or 1
    world = PuppetSource(frames=frames, height=size, width=size)
    job = PreferenceWork(source=PuppetPreferences(puppets=world, still=True), pairs=pairs)
    summary = write_pairs(job, folder / "pairs", workers=count, resume=True)
    stored = PreferenceShards([folder / "pairs"])
    cache = PreferenceCacheWork(
        pairs=stored,
        triplets=triplet_settings("nano"),
        autoencoder=model / "vae",
        samples=len(stored),
        driving_downsample=1,
    )
    write_cache(cache, folder / "latents", workers=count, resume=True)
    logger.info("%d pairs, %d refused", len(stored), len(summary.skipped))


@app.command()
def train(
    folder: Folder,
    model: Model = embedded_model_path(),
    seeds: Seeds = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs of a step.")] = 8,
    arms: Arms = [*ARMS],  # noqa: B006 - typer copies it
) -> None:
    """Trains every arm with every seed."""
    base = dataclasses.replace(
        recipe("nano_dpo"), model=str(model), steps=steps, log_every=5, checkpoint_every=25, keep_checkpoints=1
    )
    base = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, shards=str(folder / "latents"), batch_size=batch_size),
        optimizer=dataclasses.replace(base.optimizer, warmup=max(1, steps // 100)),
    )
    for seed in range(seeds):
        for arm in arms:
            config = dataclasses.replace(ARMS[arm](base), name=arm, seed=seed)
            train_to_end(config, folder / "runs" / f"{arm}-{seed}")


@app.command()
def measure(
    folder: Folder,
    model: Model = embedded_model_path(),
    clips: Annotated[int, typer.Option(min=2, help="Held-out clips.")] = 48,
    size: Size = 128,
    frames: Frames = 17,
) -> None:
    """Measures the untrained model and every finished adapter on the same held-out clips."""
    measures = ArmMeasures(folder=folder, names=MEASURES)
    for name, adapter in {START: None, **_adapters(folder)}.items():
        if measures.place(name).exists():
            continue
        pipe = load_pipeline(model, loras=[] if adapter is None else [adapter])
        hands = measures.measure(name, pipe, "test", clips, [TASK], frames=frames, size=(size, size))
        logger.info("%s: hands %.2f dB", name, hands)


def _adapters(folder: Path) -> dict[str, tuple[Path, float]]:
    """Every finished adapter and its strength, by arm and seed."""
    trained = {path.parents[1].name: path for path in sorted(folder.glob("runs/*/adapter/*.safetensors"))}
    found = {name: (path, 1.0) for name, path in trained.items()}
    for arm, (whole, strength) in WEAKENED.items():
        seeds = [name.rpartition("-")[2] for name in trained if name.rpartition("-")[0] == whole]
        found |= {f"{arm}-{seed}": (trained[f"{whole}-{seed}"], strength) for seed in seeds}
    return found


@app.command()
def table(folder: Folder) -> None:
    """Mean differences with 95 % intervals: every arm against the start, and preference arms against supervised ones."""
    arms = [*ARMS, *WEAKENED]
    comparisons = [(arm, START) for arm in arms]
    comparisons += [(arm, other) for arm in arms if arm.startswith("dpo") for other in arms if other.startswith("sft")]
    typer.echo(ArmMeasures(folder=folder, names=MEASURES).write_table(comparisons))


@app.command()
def package(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The file; one that is there is replaced.")],
    training: Annotated[str, typer.Option(help="ARM-SEED.")] = "dpo_beta500-0",
    strength: Annotated[float, typer.Option(help="What will be its strength 1.")] = 0.7,
    rank: Annotated[int, typer.Option(min=1, help="So many of its directions, the strongest, are kept.")] = 20,
) -> None:
    """Writes one training's adapter in half precision, its strength made part of its weights."""
    path, _ = _adapters(folder)[training]
    with safe_open(path, "pt") as file:
        words, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    kept: dict[str, torch.Tensor] = {}
    for name, down in tensors.items():
        if name.endswith(_DOWN):
            above = name.removesuffix(_DOWN) + _UP
            kept[above], kept[name] = _strongest(strength * tensors[above], down, rank)
    words |= {"strength": f"{strength:g}", "rank": str(rank)}
    with atomic_file(output) as opened:
        opened.write(save({name: each.half().contiguous() for name, each in kept.items()}, words))
    logger.info("%s: %d numbers", output, sum(each.numel() for each in kept.values()))


def _strongest(up: torch.Tensor, down: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of ``up @ down`` of a rank, as two factors of like size: its singular value decomposition, cut."""
    left, inner = torch.linalg.qr(up)
    right, outer = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(inner @ outer.T, full_matrices=False)
    root = values[:rank].sqrt()
    return left @ u[:, :rank] * root, root[:, None] * (v[:rank] @ right.T)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    app()
