"""Time of one forward pass beside a stock Wan transformer of the same size and token count, on one CPU thread.

    python -m benchmarks.forward [--dtype bfloat16]

The first step of a segment and its later ones are timed apart: later ones find the keys and values of the context and
the tokens of the pictures in the segment's memory. Runs take turns, so that whatever else the machine does falls on all,
and medians are compared. The ratio is of CPU seconds of the one thread, which on an idle machine are the wall's, and on
a busy one leave out the time other programs had the core; both are printed.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from diffusers import WanTransformer3DModel

from benchmarks.results import Figure
from scail2 import SCAIL2Transformer3DModel
from scail2.models.memory import SegmentMemory

LATENTS = (5, 32, 32)
SIZE = {"num_attention_heads": 4, "attention_head_dim": 128, "ffn_dim": 1408, "num_layers": 4, "text_dim": 4096}


def scail2_call() -> tuple[torch.nn.Module, dict]:
    """Our model and inputs: 256 reference + 1280 noisy + 320 driving = 1856 tokens."""
    frames, height, width = LATENTS
    half = (frames, height // 2, width // 2)
    inputs = {
        "hidden_states": torch.randn(1, 16, frames, height, width),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 512, SIZE["text_dim"]),
        "encoder_hidden_states_image": torch.randn(1, 257, 1280),
        "reference_latents": torch.randn(1, 16, 1, height, width),
        "reference_masks": torch.rand(1, 28, 1, height, width),
        "driving_latents": torch.randn(1, 16, *half),
        "driving_masks": torch.rand(1, 28, *half),
        "mode": "animation",
    }
    return SCAIL2Transformer3DModel(**SIZE), inputs


def stock_call() -> tuple[torch.nn.Module, dict]:
    """Stock Wan image-to-video with as many tokens: a patch grid of 1 x 32 x 58."""
    inputs = {
        "hidden_states": torch.randn(1, 20, 1, 64, 116),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 512, SIZE["text_dim"]),
        "encoder_hidden_states_image": torch.randn(1, 257, 1280),
    }
    dim = SIZE["num_attention_heads"] * SIZE["attention_head_dim"]
    return WanTransformer3DModel(**SIZE, in_channels=20, image_dim=1280, added_kv_proj_dim=dim), inputs


def in_type(model: torch.nn.Module, inputs: dict, dtype: torch.dtype) -> tuple[torch.nn.Module, dict]:
    """Model and inputs in a type, as loading would give them: what a model keeps in float32 stays so."""
    kept = set(model._keep_in_fp32_modules)
    for name, parameter in model.eval().requires_grad_(False).named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    given = {key: value.to(dtype) if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
    return model, given | {"timestep": inputs["timestep"]}


def first_and_later(model: torch.nn.Module, inputs: dict) -> dict[str, Callable[[], object]]:
    """A segment's first step, which fills a fresh memory, and its later steps."""
    memory = SegmentMemory()
    return {
        "first step": lambda: model(**inputs, memory=SegmentMemory()),
        "later steps": lambda: model(**inputs, memory=memory),
    }


def measure(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every run by clock, after two warm-up runs, taking turns."""
    clocks = {"cpu": time.thread_time, "wall": time.perf_counter}
    seconds: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in clocks} for name in calls}
    for run in range(runs + 2):
        for name, call in calls.items():
            start = {clock: now() for clock, now in clocks.items()}
            call()
            if run >= 2:
                for clock, now in clocks.items():
                    seconds[name][clock].append(now() - start[clock])
    return seconds


def figures(dtype: str = "float32", runs: int = 15) -> Iterator[Figure]:
    """Medians of a segment's first and later steps and of stock Wan, and the ratios."""
    medians = {name: statistics.median(clocks["cpu"]) for name, clocks in compare(getattr(torch, dtype), runs).items()}
    for name, median in medians.items():
        yield Figure(name=name, value=median, unit="CPU s")
    for name in medians:
        if name != "stock Wan":
            yield Figure(name=f"{name} / stock Wan", value=medians[name] / medians["stock Wan"], unit="ratio")


def compare(dtype: torch.dtype, runs: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every run of our steps and of stock Wan, by clock."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stock, inputs = in_type(*stock_call(), dtype)
    calls = first_and_later(*in_type(*scail2_call(), dtype)) | {"stock Wan": lambda: stock(**inputs)}
    with torch.inference_mode():
        return measure(calls, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each model")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of weights and inputs"
    )
    arguments = parser.parse_args()
    seconds = compare(getattr(torch, arguments.dtype), arguments.runs)
    print(
        f"torch {torch.__version__}, {platform.machine()}, 1 thread, 1856 tokens, {arguments.dtype}, {arguments.runs} runs each"
    )
    medians = {
        name: {clock: statistics.median(values) for clock, values in clocks.items()} for name, clocks in seconds.items()
    }
    for name, median in medians.items():
        fastest = min(seconds[name]["wall"])
        print(f"{name:11s} median {median['cpu']:.3f} s CPU, {median['wall']:.3f} s wall (fastest {fastest:.3f})")
    for name in seconds:
        if name != "stock Wan":
            print(f"{name} / stock Wan: {medians[name]['cpu'] / medians['stock Wan']['cpu']:.3f}")


if __name__ == "__main__":
    main()
