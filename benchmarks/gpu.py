"""Whatever a card allows in ten minutes: the 14B on random weights at 512x896x81, and its toy where there is no card.

    python -m benchmarks gpu                 # a card: the 14B; else the toy
    python -m benchmarks.gpu --part fp8 --size toy

Every part runs in a process of its own, so that one that fails (no memory, no kernel) is noted and the rest go on. A
pass is timed after a warm-up; where the planner knows the placement its prediction stands beside the measurement.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Figure, child

BUDGET_S = 600.0
ATTENTION = ("native", "_native_cudnn", "flash", "_flash_3", "sage")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A network and a segment: its settings, pixels and frames, and settings of an autoencoder for it."""

    transformer: dict[str, int]
    pixels: tuple[int, int]
    frames: int
    autoencoder: dict[str, Any]
    steps: int = 2

    @property
    def latents(self) -> tuple[int, int, int]:
        """Frames, height and width of the latent grid."""
        return (self.frames - 1) // 4 + 1, self.pixels[0] // 8, self.pixels[1] // 8


SIZES = {
    "14b": Size(transformer={}, pixels=(512, 896), frames=81, autoencoder={}),
    "toy": Size(
        transformer={
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "ffn_dim": 64,
            "num_layers": 2,
            "text_dim": 32,
        },
        pixels=(64, 64),
        frames=9,
        autoencoder={"base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]},
    ),
}


def build(size: Size, device: Any) -> Any:
    """A transformer of random bfloat16 weights on a device; what it keeps in float32 is so."""
    import torch

    from scail2 import SCAIL2Transformer3DModel

    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = SCAIL2Transformer3DModel(**size.transformer)
    finally:
        torch.set_default_dtype(usual)
    kept = set(model._keep_in_fp32_modules)
    for name, parameter in model.eval().requires_grad_(False).named_parameters():
        if kept & set(name.split(".")):
            parameter.data = parameter.data.float()
    return model


def inputs(size: Size, model: Any, device: Any) -> dict[str, Any]:
    """One pass's inputs, random."""
    import torch

    frames, height, width = size.latents
    half = (frames, height // 2, width // 2)
    made: dict[str, Any] = {
        "hidden_states": torch.randn(1, 16, frames, height, width),
        "encoder_hidden_states": torch.randn(1, 512, model.config.text_dim),
        "encoder_hidden_states_image": torch.randn(1, 257, model.config.image_dim),
        "reference_latents": torch.randn(1, 16, 1, height, width),
        "reference_masks": torch.rand(1, 28, 1, height, width),
        "driving_latents": torch.randn(1, 16, *half),
        "driving_masks": torch.rand(1, 28, *half),
    }
    made = {name: value.to(device, torch.bfloat16) for name, value in made.items()}
    return made | {"timestep": torch.tensor([500.0], device=device), "mode": "animation"}


def timed(call: Callable[[], object], device: Any, runs: int = 3) -> dict[str, float]:
    """Median seconds after one warm-up, and the peak of the card's memory in GiB (0 on a CPU)."""
    import torch

    cuda = device.type == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    with torch.inference_mode():
        for _ in range(runs + 1):
            started = time.perf_counter()
            call()
            wait()
            seconds.append(time.perf_counter() - started)
    return {"s": statistics.median(seconds[1:]), "GiB": torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0}


# ---- parts ---------------------------------------------------------------------------------------------------------


def one_pass(
    size: Size, device: Any, prepare: Callable[[Any], None] | None = None, *, placed: bool = True
) -> dict[str, float]:
    """A forward pass of a prepared model; ``placed`` where the weights lie on the device from the beginning."""
    model = build(size, device if placed else "cpu")
    if prepare is not None:
        prepare(model)
    given = inputs(size, model, device)
    return timed(lambda: model(**given), device)


def fp8(size: Size, device: Any) -> dict[str, float]:
    """Weights kept in float8, brought to bfloat16 layer by layer."""
    import torch

    types = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.bfloat16}
    return one_pass(size, device, lambda model: model.enable_layerwise_casting(**types))


def compiled(size: Size, device: Any) -> dict[str, float]:
    """The repeated block compiled."""
    return one_pass(size, device, lambda model: model.compile_repeated_blocks(fullgraph=True))


def attention(size: Size, device: Any, kernel: str) -> dict[str, float]:
    """A pass with a kernel of diffusers' attention dispatch."""
    return one_pass(size, device, lambda model: model.set_attention_backend(kernel))


def offloaded(size: Size, device: Any, kind: str) -> dict[str, float]:
    """Weights in main memory, fetched block by block or layer by layer; with the planner's prediction for the 14B."""
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}

    def prepare(model: Any) -> None:
        model.enable_group_offload(onload_device=device, offload_type=kind, use_stream=device.type == "cuda", **blocks)

    return one_pass(size, device, prepare, placed=False) | predicted(size, device, kind)


def predicted(size: Size, device: Any, kind: str | None) -> dict[str, float]:
    """What the planner says of a pass of the 14B; nothing for the toy."""
    if size is not SIZES["14b"] or device.type != "cuda":
        return {}
    from pathlib import Path

    from benchmarks.hardware import MODEL
    from scail2.budget.machines import GIB, this_machine
    from scail2.budget.requirements import Workload, requirement
    from scail2.request.placement import Placement, PlacementKind

    kinds = {"block_level": PlacementKind.BLOCK_OFFLOAD, "leaf_level": PlacementKind.LAYER_OFFLOAD}
    job = Workload(size=size.pixels, segments=(size.frames,), overlap=5, steps=1, passes=1)
    placement = Placement(kind=kinds.get(kind or "", PlacementKind.ENCODERS_FIRST))
    found = requirement(MODEL, job, placement, this_machine("cuda", Path.cwd()))
    return {"predicted s": found.seconds["denoise"], "predicted GiB": found.device_bytes["denoise"] / GIB}


def autoencoder(size: Size, device: Any) -> dict[str, float]:
    """Wan's autoencoder on a whole segment, there and back."""
    import torch
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(**size.autoencoder).eval().requires_grad_(False).to(device)
    pixels = torch.rand(1, 3, size.frames, *size.pixels, device=device) * 2 - 1
    latents = torch.randn(1, 16, *size.latents, device=device)
    encode, decode = timed(lambda: vae.encode(pixels), device, 1), timed(lambda: vae.decode(latents), device, 1)
    return {"encode s": encode["s"], "decode s": decode["s"], "encode GiB": encode["GiB"], "decode GiB": decode["GiB"]}


def segment(size: Size, device: Any) -> dict[str, float]:
    """A whole segment by the pipeline, of few steps: conditions, denoising, decoding."""
    import numpy as np
    import torch
    from diffusers import AutoencoderKLWan

    from scail2.pipeline import SCAIL2Pipeline
    from scail2.pipeline.sampling import make_scheduler

    model = build(size, device)
    vae = AutoencoderKLWan(**size.autoencoder).eval().to(device)
    pipe = SCAIL2Pipeline(transformer=model, vae=vae, scheduler=make_scheduler("unipc", 3.0))
    pipe.set_progress_bar_config(disable=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size.frames, *size.pixels, 3), np.uint8)
    masks = np.zeros_like(pixels)
    masks[:, 8:-8, 8:-8] = (0, 0, 255)
    still = np.where(masks[0].any(-1, keepdims=True), masks[0], np.uint8(255))
    given = {
        "mode": "animation",
        "height": size.pixels[0],
        "width": size.pixels[1],
        "prompt_embeds": torch.randn(1, 512, model.config.text_dim),
        "image_embeds": torch.randn(1, 257, model.config.image_dim),
        "num_inference_steps": size.steps,
        "guidance_scale": 1.0,
        "segment_frame_length": size.frames,
        "generator": torch.Generator("cpu").manual_seed(0),
    }
    output = next(pipe.stream(pixels[0], pixels, still, masks, **given))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {f"{name} s": value for name, value in output.timings.items()} | {"GiB": peak}


def _bf16(size: Size, device: Any) -> dict[str, float]:
    return one_pass(size, device) | predicted(size, device, None)


PARTS: dict[str, Callable[[Size, Any], dict[str, float]]] = {
    "bf16": _bf16,
    "vae": autoencoder,
    "segment": segment,
    "fp8": fp8,
    "compiled": compiled,
    **{
        f"attention {kernel}": (lambda size, device, kernel=kernel: attention(size, device, kernel))
        for kernel in ATTENTION
    },
    "block offload": lambda size, device: offloaded(size, device, "block_level"),
    "layer offload": lambda size, device: offloaded(size, device, "leaf_level"),
}


def figures(
    size: str | None = None, parts: tuple[str, ...] | None = None, budget_s: float = BUDGET_S
) -> Iterator[Figure]:
    """Measures part after part until the time is over; a part that fails gives one figure, ``failed``, with its last words."""
    import torch

    chosen = size or ("14b" if torch.cuda.is_available() else "toy")
    ends = time.monotonic() + budget_s
    for part in parts or PARTS:
        left = ends - time.monotonic()
        if left <= 0:
            yield Figure(name=f"{part}: left out, time is over", value=0.0, unit=chosen)
            continue
        try:
            done = child(["-m", "benchmarks.gpu", "--part", part, "--size", chosen], timeout=left)
        except subprocess.TimeoutExpired:
            yield Figure(name=f"{part}: not done in {left:.0f} s", value=0.0, unit=chosen)
            continue
        except subprocess.CalledProcessError as error:
            told = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1][:200]
            yield Figure(name=f"{part}: failed: {told}", value=0.0, unit=chosen)
            continue
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            yield Figure(name=f"{chosen} {part}", value=value, unit=name)


def main() -> None:
    """One part, as JSON."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--size", choices=SIZES, default="toy")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        print(json.dumps(PARTS[given.part](SIZES[given.size], device)))


if __name__ == "__main__":
    main()
