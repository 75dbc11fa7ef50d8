"""Writes docs/hardware.md: which placement the 14B gets on which card, with its peak and its time, as the planner reckons.

    python -m benchmarks.hardware --write
    python -m benchmarks hardware          # the same predictions as figures

Without --write the page goes to standard output. A test compares the page in the repository with what this prints.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.results import Figure
from scail2.budget.choice import Budget, plan_budget
from scail2.budget.machines import CARDS, GIB, RESERVED, Machine, named_machine
from scail2.budget.requirements import Workload, requirement
from scail2.budget.shapes import (
    AutoencoderShape,
    ImageEncoderShape,
    ModelShape,
    TextEncoderShape,
    TransformerShape,
    Weights,
)
from scail2.cli.progress import duration
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.request.presets import preset

PAGE = Path(__file__).parents[1] / "docs" / "hardware.md"
SIZES = (((512, 896), 81), ((704, 1280), 81))


def bfloat16(parameters: int) -> Weights:
    return Weights(parameters=parameters, nbytes=2 * parameters, format="bfloat16")


MODEL = ModelShape(
    transformer=TransformerShape(weights=bfloat16(16_395_544_384)),
    autoencoder=AutoencoderShape(weights=bfloat16(126_892_531)),
    text_encoder=TextEncoderShape(weights=bfloat16(5_680_910_336)),
    image_encoder=ImageEncoderShape(weights=bfloat16(630_776_321)),
)


def job(name: str, size: tuple[int, int], frames: int) -> Workload:
    """One segment with a preset's steps and passes."""
    chosen = preset(name)
    passes = 1 if chosen.guidance_scale == 1 else 2
    return Workload(size=size, segments=(frames,), overlap=5, steps=chosen.steps, passes=passes, prompts=passes)


def budget(machine: Machine, name: str, size: tuple[int, int], frames: int, asked: Placement) -> Budget:
    return plan_budget(MODEL, job(name, size, frames), machine, asked)


def card_rows(size: tuple[int, int], frames: int, asked: Placement) -> Iterator[str]:
    """A row a card: the placement that is chosen for `quality`, what it needs, and the time of two presets."""
    for card in CARDS:
        machine = named_machine(card.name, None)
        whole, few = (budget(machine, name, size, frames, asked) for name in ("quality", "fast"))
        if whole.chosen is None or few.chosen is None:
            yield f"| {card.name} | – | needs {whole.smallest.peak / GIB:.1f} | | | does not fit | |"
            continue
        needs = whole.chosen
        yield (
            f"| {card.name} | {needs.placement} | {needs.peak / GIB:.1f} | {needs.main_bytes / GIB:.0f} | "
            f"{duration(needs.total_seconds)} | {duration(few.chosen.total_seconds)} | predicted |"
        )


HEAD = (
    "| card | placement | peak, GB | main memory, GB | `quality` (40 steps, 2 passes) | `fast` (6 steps) | |",
    "|---|---|---|---|---|---|---|",
)


def storage_rows() -> Iterator[str]:
    """What weights in fewer bytes need, on a card of 24 GB."""
    machine = named_machine("RTX 4090", None)
    for storage in (WeightStorage.FULL, WeightStorage.FP8, WeightStorage.INT8, WeightStorage.NF4):
        found = budget(machine, "quality", (512, 896), 81, Placement(storage=storage)).chosen
        assert found is not None
        yield (
            f"| `{storage}` | {found.placement.kind} | {found.peak / GIB:.1f} | {found.main_bytes / GIB:.0f} | "
            f"{duration(found.total_seconds)} |"
        )


# Files whose weights can stay as they are stored: their bytes and what most of them are.
FILES = {
    "bfloat16, 32.8 GB": bfloat16(16_395_544_384),
    "float8 with scales, 16.6 GB": Weights(
        parameters=16_395_544_384, nbytes=16_640_000_000, format="float8_e4m3fn", single_file=True
    ),
    "GGUF Q4_K, 9.3 GB": Weights(parameters=16_395_544_384, nbytes=9_300_000_000, format="GGUF", single_file=True),
}


def file_rows() -> Iterator[str]:
    """What is chosen for each file where nothing is said of weights, on cards of 8 to 32 GB."""
    free = Placement(storage=WeightStorage.AUTO)
    for name in ("RTX 4060", "RTX 4060 Ti 16 GB", "RTX 4090", "RTX 5090"):
        for told, weights in FILES.items():
            model = replace(MODEL, transformer=replace(MODEL.transformer, weights=weights))
            found = plan_budget(model, job("quality", (512, 896), 81), named_machine(name, None), free).chosen
            assert found is not None
            yield (
                f"| {name} | {told} | {found.placement} | {found.peak / GIB:.1f} | {found.main_bytes / GIB:.0f} | "
                f"{duration(found.total_seconds)} |"
            )


def switch_rows() -> Iterator[str]:
    """What each switch gives on a card of 24 GB, and what it does to the values."""
    machine = replace(named_machine("RTX 4090", None), memory=200 * GIB)
    plain = Placement(kind=PlacementKind.ENCODERS_FIRST)
    changes = (
        ("`--placement encoders-first`", plain, "none: the same values"),
        ("`--placement block-offload`", replace(plain, kind=PlacementKind.BLOCK_OFFLOAD), "none: the same values"),
        ("`--placement layer-offload`", replace(plain, kind=PlacementKind.LAYER_OFFLOAD), "none: the same values"),
        ("tokens 8192 at a time", replace(plain, token_chunk=8192), "none: the same arithmetic token by token"),
        (
            "autoencoder in tiles of 256 pixels",
            replace(plain, vae_tiled=True),
            "none: each tile sees as far as its convolutions reach; sums in another order, 4e-6",
        ),
        ("autoencoder in bfloat16", replace(plain, vae_bf16=True), "rounding of every layer; not measured here"),
        (
            "`--weights fp8`",
            replace(plain, storage=WeightStorage.FP8),
            "three bits of mantissa; not measured on the 14B",
        ),
        (
            "`--weights nf4`",
            replace(plain, storage=WeightStorage.NF4),
            "sixteen values a block of 64; not measured on the 14B",
        ),
    )
    base = requirement(MODEL, job("quality", (512, 896), 81), Placement(kind=PlacementKind.RESIDENT), machine)
    yield _switch_row("`--placement resident`", base.device_bytes, base.total_seconds, "–")
    for told, placement, costs in changes:
        found = requirement(MODEL, job("quality", (512, 896), 81), placement, machine)
        yield _switch_row(told, found.device_bytes, found.total_seconds, costs)


def _switch_row(told: str, peaks: dict[str, float], seconds: float, costs: str) -> str:
    return f"| {told} | {peaks['denoise'] / GIB:.1f} | {peaks['decode'] / GIB:.1f} | {duration(seconds)} | {costs} |"


def page() -> str:
    """The whole page."""
    lines = [
        "# Hardware: what the 14B needs on which card, and how long it takes",
        "",
        "Every number of this page is **predicted** by the planner (`python -m benchmarks.hardware --write`), none is measured",
        "on a card: operations and live bytes are closed forms that tests compare with the kernels and storages of this program;",
        "speeds are what vendors state, times the share of it that was measured elsewhere. Peaks include what a driver takes",
        f"({RESERVED / GIB:.1f} GB) and an allocator wastes; times are within ± 40 %, and ± 20 % once `scail2 calibrate` has",
        "measured a machine. Of a CPU that was not measured nobody states what it reaches: its times are guesses.",
        "",
        "```sh",
        'scail2 plan --reference hero.png --driving dance.mp4 --card "RTX 4090"   # the same for your job and another machine',
        "scail2 plan --reference hero.png --driving dance.mp4 --memory 16         # for any card of 16 GB",
        "```",
        "",
        "```sh needs-time",
        "scail2 calibrate   # measures this machine once, in under a minute",
        "```",
        "",
        "`scail2 plan` without a card reckons with this machine. It chooses the fastest placement that fits, shows the next",
        "best, and refuses what cannot fit with the nearest settings that do. Main memory counts: offloaded weights wait there.",
        "",
    ]
    for (height, width), frames in SIZES:
        lines += [f"## {width}x{height}, {frames} frames, weights in bfloat16", "", *HEAD]
        lines += [*card_rows((height, width), frames, Placement()), ""]
    lines += [
        "## What each switch gives, and what it costs",
        "",
        "On the speed of an RTX 4090, whether or not it would fit: 896x512, 81 frames, preset `quality`.",
        "",
        "| switch | denoising, GB | decoding, GB | time | quality |",
        "|---|---|---|---|---|",
        *switch_rows(),
        "",
        "## Weights in fewer bytes",
        "",
        "What is chosen for an RTX 4090 when the transformer's matrices are kept in another form.",
        "",
        "| weights | placement | peak, GB | main memory, GB | `quality` |",
        "|---|---|---|---|---|",
        *storage_rows(),
        "",
        "## Quantised files",
        "",
        "What is chosen when nothing is said of weights: they stay as they are stored, with the same values, where that lets a",
        "faster placement fit. 896x512, 81 frames.",
        "",
        "| card | file | placement | peak, GB | main memory, GB | `quality` |",
        "|---|---|---|---|---|---|",
        *file_rows(),
        "",
        "## Where the cards' numbers come from",
        "",
        "| card | memory, GiB | bfloat16, TFLOP/s | float8 | memory, GB/s | link, GB/s | source |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {card.name} | {card.memory:g} | {card.bf16:g} | {'–' if card.fp8 is None else f'{card.fp8:g}'} | "
        f"{card.bandwidth:g} | {card.link:g} | {card.source} |"
        for card in CARDS
    ]
    return "\n".join(lines) + "\n"


def figures() -> Iterator[Figure]:
    """For the runner: what is predicted of every card, size and preset."""
    for (height, width), frames in SIZES:
        for card in CARDS:
            for name in ("quality", "fast"):
                found = budget(named_machine(card.name, None), name, (height, width), frames, Placement()).chosen
                told = f"{card.name}, {width}x{height}x{frames}, {name}"
                if found is None:
                    yield Figure(name=f"{told}: does not fit", value=0.0, unit="GiB")
                    continue
                yield Figure(name=f"{told}: {found.placement}", value=found.peak / GIB, unit="GiB predicted")
                yield Figure(name=f"{told}: {found.placement}", value=found.total_seconds, unit="s predicted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} instead of printing it")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
