"""Does preference training help the hands of the embedded checkpoint? Against supervised training on the same videos.

python recipes/preferences.py data     out/hands                # preference pairs of puppets, cached
python recipes/preferences.py train    out/hands                # every arm, three trainings each
python recipes/preferences.py measure  out/hands                # held-out puppets, every clip
python recipes/preferences.py table    out/hands                # out/hands/table.md and table.json

Each step goes on where it was interrupted, and passes over what is done. Arms train the same adapters on the same samples for as
many steps and differ in the loss alone.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from scail2.data.cache import write_cache
from scail2.data.preference_cache import PreferenceCacheWork
from scail2.data.preferences import PreferenceShards
from scail2.data.puppet_preferences import PuppetPreferences
from scail2.data.puppet_source import PuppetSource
from scail2.data.synthesis import PreferenceWork, write_pairs
from scail2.data.triplet_settings import triplet_settings
from scail2.evaluation.comparison import paired_interval
from scail2.evaluation.protocols import evaluate_pipeline
from scail2.files.public.embedded import embedded_model_path
from scail2.files.staging import atomic_file
from scail2.loading.by_name import load_pipeline
from scail2.training.config import TrainConfig
from scail2.training.recipes import recipe
from scail2.training.run_folder import training_folder
from scail2.training.session import build_trainer, export_transformer
from scail2.training.state import latest_state, state_step

app = typer.Typer(no_args_is_help=True, add_completion=False)
logger = logging.getLogger("preferences")

MEASURES = ("hand_psnr", "head_psnr", "character_psnr", "background_psnr", "limb_iou", "sharpness")
TASK = "animation_single"
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
    "dpo": lambda config: config,
    "dpo_beta500": lambda config: _beta(config, 500.0),
}
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
            with training_folder(_run(folder, arm, seed), config) as place:
                state = latest_state(place / "checkpoints")
                if state is None or state_step(state) < steps:
                    logger.info("%s, training %d", arm, seed)
                    build_trainer(config, place).run()
                export_transformer(config, place, place / "adapter")


@app.command()
def measure(
    folder: Folder,
    model: Model = embedded_model_path(),
    clips: Annotated[int, typer.Option(min=2, help="Held-out clips.")] = 48,
    size: Size = 128,
    frames: Frames = 17,
) -> None:
    """Measures the untrained model and every finished adapter on the same held-out clips."""
    adapters = {"start": None} | {
        f"{path.parents[1].name}": path for path in sorted(folder.glob("runs/*/adapter/*.safetensors"))
    }
    for name, adapter in adapters.items():
        place = folder / "measures" / f"{name}.json"
        if place.exists():
            continue
        pipe = load_pipeline(model, loras=[] if adapter is None else [adapter])
        pipe.set_progress_bar_config(disable=True)
        report = evaluate_pipeline(pipe, "test", clips, tasks=[TASK], frames=frames, size=(size, size))
        rows = [{key: each[key] for key in MEASURES} for each in report.tasks[TASK].outputs]
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as file:
            file.write(json.dumps(rows, indent=1).encode())
        logger.info("%s: hands %.2f dB", name, np.nanmean([row["hand_psnr"] for row in rows]))


@app.command()
def table(folder: Folder) -> None:
    """Mean differences with 95 % intervals: every arm against the start, and preference arms against supervised ones."""
    found = {arm: _measured(folder, arm) for arm in ("start", *ARMS)}
    found = {arm: values for arm, values in found.items() if values}
    comparisons = [(arm, "start") for arm in found if arm != "start"]
    comparisons += [
        (arm, other) for arm in found if arm.startswith("dpo") for other in found if other.startswith("sft")
    ]
    rows = []
    for arm, other in comparisons:
        row: dict[str, Any] = {"arm": arm, "against": other, "trainings": len(found[arm])}
        for name in MEASURES:
            count = min(len(found[arm]), len(found[other])) if other != "start" else len(found[arm])
            ours = np.stack([each[name] for each in found[arm][:count]])
            theirs = np.stack([each[name] for each in (found[other] * count)[:count]])
            interval = paired_interval(ours - theirs)
            row[name] = dataclasses.asdict(interval)
        rows.append(row)
    with atomic_file(folder / "table.json") as file:
        file.write(json.dumps(rows, indent=1).encode())
    lines = ["| arm | against | trainings | " + " | ".join(MEASURES) + " |", "|---" * (3 + len(MEASURES)) + "|"]
    for row in rows:
        cells = [f"{row[m]['mean']:+.3f} ({row[m]['low']:+.3f} … {row[m]['high']:+.3f})" for m in MEASURES]
        lines.append(f"| {row['arm']} | {row['against']} | {row['trainings']} | " + " | ".join(cells) + " |")
    with atomic_file(folder / "table.md") as file:
        file.write(("\n".join(lines) + "\n").encode())
    typer.echo("\n".join(lines))


def _run(folder: Path, arm: str, seed: int) -> Path:
    return folder / "runs" / f"{arm}-{seed}"


def _measured(folder: Path, arm: str) -> list[dict[str, np.ndarray]]:
    """Per training, measure -> values of the clips."""
    paths = sorted(folder.glob(f"measures/{arm}-[0-9]*.json")) or sorted(folder.glob(f"measures/{arm}.json"))
    stored = [json.loads(path.read_text()) for path in paths]
    return [{name: np.array([row[name] for row in rows], float) for name in MEASURES} for rows in stored]


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    app()
