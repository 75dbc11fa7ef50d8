"""How far a run in half precision is from the same run in float32, with the goldens' network: 8 steps, guidance 5.

    python -m benchmarks.precision
    python -m benchmarks.precision --embedded    # the embedded checkpoint on the bundled examples, in decibels

The relative difference of the final latents in the 2-norm, for every golden run of 8 steps with guidance, segment by
segment; later segments continue from what the earlier ones made of it. Beside each type stands its floor: the float32
network with nothing but its weights rounded to that type. `python -m benchmarks.forward --dtype bfloat16` gives the time.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import scail2
from benchmarks.results import Figure
from scail2.checkpoints.encoders import load_vae
from scail2.devices import has_native_bf16
from scail2.pipeline import SCAIL2Pipeline
from scail2.pipeline.sampling import make_scheduler

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
PALETTE = np.array([[255 * (code >> bit & 1) for bit in range(3)] for code in range(8)], dtype=np.uint8)
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def transformer(config: dict, dtype: torch.dtype, *, computed_in_float32: bool = False) -> torch.nn.Module:
    """The goldens' network with weights of a type, which may be computed with in float32 all the same."""
    model = scail2.load_transformer(GOLDENS / "dit_tiny.safetensors", config=config, dtype=dtype)
    return model.float() if computed_in_float32 else model


def final_latents(model: torch.nn.Module, runs: dict, case: dict) -> list[torch.Tensor]:
    """What each segment of a golden run comes to."""
    stored = load_file(GOLDENS / "e2e" / "e2e.safetensors")
    given = {key.removeprefix(f"{case['name']}."): value for key, value in stored.items()}
    vae = load_vae(GOLDENS / "e2e" / "vae_tiny.safetensors")
    pipe = SCAIL2Pipeline(transformer=model, vae=vae, scheduler=make_scheduler("unipc", 3.0))
    pipe.set_progress_bar_config(disable=True)
    found, decode = [], pipe.decode
    pipe.decode = lambda latents, *asked: found.append(latents) or decode(latents, *asked)
    segments = pipe.stream(
        given["image"].numpy(),
        given["driving"].numpy(),
        PALETTE[given["reference_mask"].numpy()],
        PALETTE[given["driving_mask"].numpy()],
        mode=case["mode"],
        prompt_embeds=given["prompt"].float()[None],
        negative_prompt_embeds=given["negative"].float()[None],
        image_embeds=stored["clip"].float(),
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance_scale"],
        shift=case["shift"],
        solver=case["solver"],
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
        segment_frame_length=runs["segment_frame_length"],
        prev_segment_conditioning_frames=runs["overlap"],
        black_out_reference=False,
    )
    for _ in segments:
        pass
    return found


def film(pipe: SCAIL2Pipeline, example: Path) -> tuple[torch.Tensor, float]:
    """A bundled example rendered with seed 0, (T, 3, H, W) in [-1, 1], and the seconds of its denoising."""
    segments = list(
        pipe.stream(
            scail2.read_image(example / "reference.png"),
            scail2.VideoReader(example / "driving.mp4", size=(128, 128)),
            scail2.read_image(example / "reference_mask.png"),
            scail2.VideoReader(example / "driving_mask.mkv"),
            mode="replacement" if example.name == "replacement" else "animation",
            generator=torch.Generator("cpu").manual_seed(0),
        )
    )
    return torch.cat([each.frames for each in segments]), sum(each.timings["denoise"] for each in segments)


def embedded() -> None:
    """The embedded checkpoint in bfloat16 beside itself in float32: its default where the CPU multiplies bfloat16."""
    pipes = [scail2.load_pipeline(dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    examples = Path(scail2.__file__).parent / "assets" / "example"
    print(f"native bfloat16: {has_native_bf16(torch.device('cpu'))}")
    for example in sorted(path for path in examples.iterdir() if path.is_dir()):
        (exact, slow), (found, fast) = (film(pipe, example) for pipe in pipes)
        error = ((exact - found) / 2).square().mean((1, 2, 3))
        worst, whole = (-10 * error.max().log10()).item(), (-10 * error.mean().log10()).item()
        print(f"{example.name:12s} {whole:.1f} dB (worst frame {worst:.1f}), denoising {slow:.2f} s -> {fast:.2f} s")


def compared() -> Iterator[tuple[str, str, str, list[float]]]:
    """Golden run, type, how it was computed, and the relative difference of each segment's final latents."""
    torch.set_num_threads(1)
    runs = json.loads((GOLDENS / "e2e" / "e2e.json").read_text())
    cases = [case for case in runs["cases"] if case["steps"] == 8 and case["guidance_scale"] != 1.0]
    for case in cases:
        exact = final_latents(transformer(runs["config"], torch.float32), runs, case)
        for name, dtype in TYPES.items():
            for what, in_float32 in (("computed in it", False), ("weights only", True)):
                model = transformer(runs["config"], dtype, computed_in_float32=in_float32)
                found = final_latents(model, runs, case)
                shares = [(torch.dist(a, b) / b.norm()).item() for a, b in zip(found, exact, strict=True)]
                yield case["name"], name, what, shares


def figures() -> Iterator[Figure]:
    """The last segment's difference of every golden run and type."""
    for case, name, what, shares in compared():
        yield Figure(name=f"{case}, {name} {what}", value=100 * shares[-1], unit="%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--embedded", action="store_true", help="the embedded checkpoint instead of the goldens' network"
    )
    torch.set_num_threads(1)
    if parser.parse_args().embedded:
        return embedded()
    for case, name, what, shares in compared():
        print(f"{case:27s} {name:9s} {what:15s}", *(f"{share:.2%}" for share in shares))


if __name__ == "__main__":
    main()
