"""The embedded checkpoint, from nothing to the package: the steps that are not `scail2` verbs.

python recipes/nano.py initial   out/nano           # autoencoder basis, untrained transformer
scail2 cache ... --out out/nano/latents             # see docs/nano.md for the full list of commands
scail2 train nano --output out/nano/run
scail2 train nano_finish --output out/nano/finish --start-from out/nano/run
python recipes/nano.py grow      out/nano           # a wider transformer that begins as the trained one
scail2 train nano_continue --data out/nano/latents --model out/nano/grown --output out/nano/more
python recipes/nano.py grow      out/nano --run more --into wide --heads 8 --ffn-dim 1536
scail2 train nano_continue ... --model out/nano/wide --output out/nano/on
python recipes/nano.py package   out/nano src/scail2/assets/nano
python recipes/nano.py refine    out/nano           # the decoder's refiner, then with --joint the transformer, too
python recipes/nano.py package   out/nano src/scail2/assets/nano --run joint
"""

import dataclasses
import itertools
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import typer
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

from scail2.conditions import ConditionGeometry, to_pixels
from scail2.data.puppet_source import PuppetSource
from scail2.data.triplet_settings import SampleKind, triplet_settings
from scail2.data.triplets import draw_triplet
from scail2.errors import InputError
from scail2.files.ownership import is_document, lock_beside, locked, new_folder
from scail2.files.public.embedded import embedded_model_path
from scail2.files.staging import Staging, sweep
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.pipeline import SCAIL2Pipeline
from scail2.puppets import (
    NANO,
    NANO_ANIMALS,
    NANO_ROBOTS,
    Performance,
    Split,
    render,
    sample_character,
    sample_motion,
    sample_placements,
    sample_scene,
)
from scail2.request.presets import preset
from scail2.training.config import OptimizerConfig
from scail2.training.nano.autoencoder import fit_basis, reconstruction_psnr
from scail2.training.nano.fresh_clips import FreshClipConfig, FreshClips
from scail2.training.nano.growth import grow
from scail2.training.nano.initial import untrained
from scail2.training.nano.kept import write_kept
from scail2.training.nano.refiner import (
    RefinerConfig,
    RefinerTraining,
    averaged_weights,
    joint_refiner,
    load_networks,
    named_networks,
    with_refiner,
)
from scail2.training.objectives.pictures import PictureLoss
from scail2.training.parallel import ParallelContext
from scail2.training.state import latest_state, load_weights
from scail2.video import VideoReader, VideoWriter

app = typer.Typer(no_args_is_help=True, add_completion=False)
logger = logging.getLogger("nano")

SIZE, FRAMES = 128, 17
# Clips of the training split are numbered; the autoencoder's come from a range the latent cache never reaches.
AUTOENCODER_CLIPS = 10_000_000
TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "ffn_dim": 768,
    "num_layers": 6,
    "in_channels": 68,
    "out_channels": 64,
    "rope_reference_height_shift": 8,
    "rope_driving_width_shift": 8,
}

REFINER_WIDTHS, REFINER_BLOCKS = (48, 96, 128), (1, 2, 2)


@app.callback()
def main() -> None:
    """Steps of the embedded checkpoint's training."""


def training_clip(index: int) -> torch.Tensor:
    """One clip of the training split outside the latent cache, pixels ``(1, 3, T, H, W)`` in [-1, 1]."""
    index += AUTOENCODER_CLIPS
    performance = Performance(
        character=sample_character(Split.TRAIN, index, NANO),
        motion=sample_motion(Split.TRAIN, index, NANO),
        placement=sample_placements(Split.TRAIN, index, NANO)[0],
    )
    scene = sample_scene(Split.TRAIN, index, NANO)
    return to_pixels(render([performance], scene, frames=FRAMES, height=SIZE, width=SIZE).frames)


@app.command()
def initial(folder: Path, clips: int = 400) -> None:
    """Fits the autoencoder's basis and writes the untrained pipeline to FOLDER/initial."""
    vae = fit_basis(AutoencoderPatchTransform(), (training_clip(i) for i in range(clips)))
    static, quality = vae.config.num_static_channels, held_out_quality(vae)
    typer.echo(f"{static} static of {vae.config.z_dim} channels, {quality:.2f} dB with the linear decoder")
    transformer = untrained(**TRANSFORMER)
    with new_folder(folder / "initial") as made:
        vae.save_pretrained(made / "vae")
        transformer.save_pretrained(made / "transformer")


@app.command()
def refine(
    folder: Path,
    model: Path = embedded_model_path(),
    into: str = "refiner",
    start_from: str | None = None,
    steps: int = 4_000,
    joint: bool = False,
    adversarial: float = 0.0,
    contrast: float = 0.0,
    displaced: float = 0.0,
    character: float = PictureLoss().character,
    rate: float = 1.0,
    first_pair: int = FreshClipConfig().first_index,
    others: float = 0.0,
) -> None:
    """Trains the decoder's refiner on what MODEL generates, with --joint MODEL's transformer, too; FOLDER/INTO is its run.

    Pairs are drawn from --first-pair on; a run that goes on from another should begin where that one ended. --others is the
    share of batches with animals and robots. Under
    `torchrun --nproc-per-node 2` it takes two cores.
    """
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    context = ParallelContext.detect()
    transformer, vae = began_with(model)
    if start_from is not None:
        load_networks(run_place(folder, start_from), vae, transformer)
    people, *rarer = (
        PuppetSource(split="train", frames=FRAMES, height=SIZE, width=SIZE, domain=domain.name)
        for domain in (NANO, NANO_ANIMALS, NANO_ROBOTS)
    )
    drawn = FreshClipConfig(first_index=first_pair, others_share=others)
    clips = FreshClips(people, vae, ConditionGeometry.of(transformer), drawn, others=rarer)
    together = 2 * drawn.pairs * context.world_size
    config = joint_refiner(steps, clips=together) if joint else RefinerConfig(steps=steps)
    loss = dataclasses.replace(
        config.loss, contrast=contrast, displaced=displaced, character=character, detail=character
    )
    optimizer = scaled(config.optimizer, rate)
    config = dataclasses.replace(config, adversarial=adversarial, loss=loss, optimizer=optimizer)
    directory = folder / into
    directory.mkdir(parents=True, exist_ok=True)
    record = {"model": str(model), "start_from": start_from, "refiner": dataclasses.asdict(config)}
    (directory / "config.json").write_text(json.dumps(record | {"clips": dataclasses.asdict(clips.config)}, indent=2))
    seen = RefinerTraining(vae, transformer, clips, config, directory, context).run()
    if context.rank == 0:
        typer.echo(f"{directory}: {steps} steps, {seen} clips")


def scaled(optimizer: OptimizerConfig, rate: float) -> OptimizerConfig:
    """The same with its learning rates times ``rate``."""
    return dataclasses.replace(
        optimizer,
        learning_rate=rate * optimizer.learning_rate,
        muon_learning_rate=rate * optimizer.muon_learning_rate,
    )


def trained_transformer(folder: Path, run: str) -> SCAIL2Transformer3DModel:
    """The averaged weights of a run's newest checkpoint, in the architecture it began with."""
    checkpoint = latest_state(folder / run / "checkpoints")
    if checkpoint is None:
        raise InputError(f"{folder / run} holds no checkpoint; train it first (scail2 train) or name another --run.")
    model = json.loads((folder / run / "config.json").read_text())["model"]
    transformer = SCAIL2Transformer3DModel.from_pretrained(Path(model) / "transformer", dtype=torch.float32)
    load_weights(checkpoint, transformer)
    return transformer


def run_place(folder: Path, run: str) -> Path:
    """Where a run lies: a file of `keep`, else a folder in ``folder``."""
    return Path(run) if Path(run).is_file() else folder / run


def began_with(model: Path) -> tuple[SCAIL2Transformer3DModel, AutoencoderPatchTransform]:
    """A model's transformer, in float32, and autoencoder; with a fresh refiner where it has none."""
    vae = AutoencoderPatchTransform.from_pretrained(model / "vae")
    torch.manual_seed(0)
    vae = with_refiner(vae, REFINER_WIDTHS, REFINER_BLOCKS) if vae.refiner is None else vae
    return SCAIL2Transformer3DModel.from_pretrained(model / "transformer", dtype=torch.float32), vae


def trained_networks(folder: Path, run: str) -> tuple[SCAIL2Transformer3DModel, AutoencoderPatchTransform]:
    """Transformer and autoencoder after a run of `scail2 train` or of `refine`; what it did not train is its model's.

    A file of `keep` says how far the embedded model has moved.
    """
    place = run_place(folder, run)
    if place.is_file():
        model = embedded_model_path()
    else:
        config = json.loads((place / "config.json").read_text())
        model = Path(config["model"])
        if "refiner" not in config:
            return trained_transformer(folder, run), AutoencoderPatchTransform.from_pretrained(model / "vae")
    transformer, vae = began_with(model)
    load_networks(place, vae, transformer)
    return transformer, vae


@app.command()
def keep(folder: Path, output: Path, run: str = "joint") -> None:
    """Writes how far FOLDER/RUN, a run of `refine`, has moved the model it began with to OUTPUT (.npz): four bits a weight.

    `refine --start-from OUTPUT` trains on from it; `package --run OUTPUT` packages it, if it began with the embedded model.
    """
    transformer, vae = began_with(Path(json.loads((folder / run / "config.json").read_text())["model"]))
    write_kept(output, averaged_weights(folder / run), named_networks(vae, transformer))
    typer.echo(f"{output}: {output.stat().st_size / 2**20:.1f} MiB from {folder / run}")


@app.command(name="grow")
def grow_pipeline(
    folder: Path,
    run: str = "finish",
    into: str = "grown",
    heads: int = 6,
    layers: int = 6,
    ffn_dim: int = 1152,
    seed: int = 0,
) -> None:
    """Writes FOLDER/INTO: the transformer of FOLDER/RUN made wider (64 channels a head) and deeper, to be trained on."""
    small = trained_transformer(folder, run)
    large = grow(small, heads=heads, layers=layers, ffn_dim=ffn_dim, generator=torch.Generator().manual_seed(seed))
    with new_folder(folder / into) as made:
        large.save_pretrained(made / "transformer")
        shutil.copytree(folder / "initial" / "vae", made / "vae")
    typer.echo(f"{small.num_parameters():,} parameters became {large.num_parameters():,}")


@app.command()
def package(folder: Path, output: Path, run: str = "further", segment_frames: int = 17) -> None:
    """Writes the pipeline with the averaged weights of FOLDER/RUN to OUTPUT, transformer and refiner in half precision.

    A pipeline that is there moves to FOLDER/superseded.
    """
    replaced = os.path.lexists(output) and any([output.is_symlink(), not output.is_dir(), *output.glob("*")])
    if replaced and not is_pipeline(output):
        raise InputError(f"{output} exists and is no packaged pipeline (no model_index.json): choose another OUTPUT.")
    transformer, vae = trained_networks(folder, run)
    pipeline = SCAIL2Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=preset("nano").shift),
        default_preset="nano",
        segment_frame_length=segment_frames,
        native_height=SIZE,
        native_width=SIZE,
    )
    with locked(output, lock_beside(output)):
        sweep(output.parent, output.name)
        with Staging(output) as staging:
            pipeline.save_pretrained(staging.place)
            for weights in staging.place.glob("*/*.safetensors"):
                tensors = {n: t if n.endswith("_basis") else t.half() for n, t in load_file(weights).items()}
                save_file(tensors, weights, metadata={"format": "pt"})
                weights.chmod(0o644)
            if replaced:
                numbers = (folder / "superseded" / f"{output.name}-{number}" for number in itertools.count(1))
                aside = next(place for place in numbers if not os.path.lexists(place))
                aside.parent.mkdir(exist_ok=True)
                shutil.move(output, aside)
            staging.publish()
    size = sum(f.stat().st_size for f in output.rglob("*") if f.is_file())
    typer.echo(f"{output}: {size / 2**20:.1f} MiB from {folder / run}")


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a saved pipeline of this package."""
    index = folder / "model_index.json"
    return (
        is_document(index, {"_class_name"}) and json.loads(index.read_text())["_class_name"] == SCAIL2Pipeline.__name__
    )


# The bundled examples: puppets, motions and scenes of the test split, chosen by eye among the first twelve.
EXAMPLES = {
    "animation": ("animation_single", 4),
    "replacement": ("replacement_single", 7),
    "duet": ("animation_multi", 8),
}
EXAMPLE_FRAMES = 65


@app.command()
def examples(output: Path) -> None:
    """Draws the bundled examples: OUTPUT/NAME/{reference.png, reference_mask.png, driving.mp4, driving_mask.mkv}."""
    source = PuppetSource(split="test", frames=EXAMPLE_FRAMES, height=SIZE, width=SIZE)
    for name, (kind, index) in EXAMPLES.items():
        generator = np.random.default_rng(index)
        pair = source.pair(SampleKind(kind), index, generator)
        triplet = draw_triplet(pair, SampleKind(kind), triplet_settings("nano"), generator)
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(triplet.reference).save(folder / "reference.png", optimize=True)
        Image.fromarray(triplet.reference_mask).save(folder / "reference_mask.png", optimize=True)
        for file, frames in (("driving.mp4", triplet.driving), ("driving_mask.mkv", triplet.driving_mask)):
            codec = "h264" if file.endswith("mp4") else "ffv1"
            with VideoWriter(folder / file, 16, (SIZE, SIZE), codec=codec) as writer:
                writer.write(frames)
        typer.echo(f"{folder}: {kind}, test pair {index}")


@app.command()
def picture(films: list[Path], output: Path = Path("docs/img/demo.png"), moments: int = 4) -> None:
    """Puts frames of the demo's comparison films (reference | driving | output) into one picture, a row a film."""
    rows = []
    for film in films:
        reader = VideoReader(film)
        frames = [reader.frames(at, at + 1)[0] for at in np.linspace(4, len(reader) - 1, moments).astype(int)]
        width = frames[0].shape[1] // 3
        rows.append(np.concatenate([frames[0][:, :width], *(frame[:, width:] for frame in frames)], axis=1))
    Image.fromarray(np.concatenate(rows)).save(output, optimize=True)


@torch.no_grad()
def held_out_quality(vae: AutoencoderPatchTransform) -> float:
    """Mean PSNR in dB over 40 clips of the training split that neither basis nor decoder have seen."""
    return float(np.mean([reconstruction_psnr(vae, training_clip(500_000 + i)) for i in range(40)]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
