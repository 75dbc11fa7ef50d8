"""What each switch that is not exact costs in quality, with the embedded checkpoint on a bundled example, and in denoising time.

    python -m benchmarks prices

Frames in decibels from the exact run in float32 (one level of 255 is 48 dB), over two segments, seed 0, with 8 and with 24
steps: step caches gain by the number of steps. Seconds are of the process's CPU, one thread; a GPU's differ.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

import scail2
from benchmarks.results import Figure
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.request.speed import Speed, StepCache

EXAMPLE = Path(scail2.__file__).parent / "assets" / "example" / "animation"
RESIDENT = Placement(kind=PlacementKind.RESIDENT)
SWITCHES = {
    "exact": (RESIDENT, Speed()),
    "token_chunk=64": (replace(RESIDENT, token_chunk=64), Speed()),
    "vae_bf16": (replace(RESIDENT, vae_bf16=True), Speed()),
    "--weights fp8": (replace(RESIDENT, storage=WeightStorage.FP8), Speed()),
    "--weights int8": (replace(RESIDENT, storage=WeightStorage.INT8), Speed()),
    "--weights nf4": (replace(RESIDENT, storage=WeightStorage.NF4), Speed()),
    "--cache first-block": (RESIDENT, Speed(cache=StepCache.FIRST_BLOCK)),
    "--cache mag": (RESIDENT, Speed(cache=StepCache.MAG)),
    "--cache taylorseer": (RESIDENT, Speed(cache=StepCache.TAYLORSEER)),
}


def film(pipe: torch.nn.Module, steps: int) -> tuple[torch.Tensor, float]:
    """Two segments (T, 3, H, W) in [-1, 1], and the CPU seconds of making them."""
    start = time.process_time()
    segments = pipe.stream(
        scail2.read_image(EXAMPLE / "reference.png"),
        scail2.VideoReader(EXAMPLE / "driving.mp4", size=(128, 128)),
        scail2.read_image(EXAMPLE / "reference_mask.png"),
        scail2.VideoReader(EXAMPLE / "driving_mask.mkv"),
        mode="animation",
        num_inference_steps=steps,
        stop_segment=2,
        generator=torch.Generator("cpu").manual_seed(0),
    )
    frames = torch.cat([each.frames for each in segments])
    return frames, time.process_time() - start


def figures() -> Iterator[Figure]:
    """For the runner: decibels (equal frames: none) and seconds of every switch."""
    torch.set_num_threads(1)
    for steps in (8, 24):
        exact = None
        for name, (placement, speed) in SWITCHES.items():
            if steps == 24 and speed.cache is StepCache.OFF and name != "exact":
                continue
            pipe = scail2.load_pipeline(torch_dtype=torch.float32, device="cpu", placement=placement, speed=speed)
            pipe.set_progress_bar_config(disable=True)
            found, seconds = film(pipe, steps)
            exact = found if exact is None else exact
            error = ((found - exact) / 2).square().mean()
            if error:
                yield Figure(name=f"{name}, {steps} steps", value=-10 * error.log10().item(), unit="dB")
            yield Figure(name=f"{name}, {steps} steps", value=seconds, unit="CPU s")
