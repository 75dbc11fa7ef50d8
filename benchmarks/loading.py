"""Peak memory of loading a checkpoint, as a multiple of its weights.

    python -m benchmarks.loading [--gigabytes 2.1] [--quick] [--out FILE.json]

Generates a SCAIL-2 checkpoint of random weights (the 14B's width, as many layers as the size asks for) in every dialect
in turn, loads each in a fresh process and reports the peak resident set (VmHWM of Linux, reset before the load).
Subtracted is what that process holds before it opens the file, after importing everything a load needs. After loading
every parameter is read once, so that mapped files are counted in full. `ratio` is the rest over the bytes of the
loaded parameters; the last line repeats the worst. `--quick` stops after the official files.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import torch

import scail2
from benchmarks.results import Figure
from scail2.checkpoints.dialects import view_transformer
from scail2.checkpoints.official_names import to_official_name
from scail2.checkpoints.tensor_files import open_tensor_file, write_safetensors
from scail2.checkpoints.transformer_files import convert_transformer
from scail2.models.transformer import SCAIL2Transformer3DModel

MIB = 2**20


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def load_once(path: str, dtype: str) -> dict:
    """What a user's process does; runs in a process of its own."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    baseline = memory("VmRSS")
    start = time.process_time()
    transformer = scail2.load_transformer(path, dtype=getattr(torch, dtype, None))
    seconds = time.process_time() - start
    for parameter in transformer.parameters():
        parameter.data.view(torch.uint8)[..., ::64].max()  # touches every page
    weights = sum(value.nbytes for value in transformer.state_dict().values())
    return {"baseline": baseline, "peak": memory("VmHWM"), "weights": weights, "seconds": seconds}


# ---- checkpoints --------------------------------------------------------------------------------------------------


def shapes_of(gigabytes: float) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 14B's width with just enough layers for so many bytes in bfloat16."""
    for layers in range(1, 41):
        with torch.device("meta"):
            model = SCAIL2Transformer3DModel(num_layers=layers)
        shapes = {to_official_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
        if 2 * sum(torch.Size(shape).numel() for shape in shapes.values()) >= gigabytes * 1e9:
            return shapes
    raise SystemExit("At most the 40 layers of the 14B.")


def write_bf16(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random weights in published names."""
    generator = torch.Generator().manual_seed(0)
    plan = {name: (shape, torch.bfloat16) for name, shape in shapes.items()}
    write_safetensors(path, plan, lambda name, _: torch.empty(shapes[name]).uniform_(-0.05, 0.05, generator=generator))


def write_fp8(source: Path, path: Path) -> None:
    """ComfyUI's fp8-scaled: 8-bit matrices in the blocks, a scale beside each."""
    view = view_transformer(open_tensor_file(source))
    matrices = {name for name in view if name.startswith("blocks.") and len(view.shapes[name]) == 2}
    plan = {name: (view.shapes[name], torch.float8_e4m3fn if name in matrices else torch.bfloat16) for name in view}
    plan |= {name.replace(".weight", ".scale_weight"): ((), torch.float32) for name in matrices}
    plan["scaled_fp8"] = ((2,), torch.float8_e4m3fn)
    scale = torch.tensor(0.05 / 448)

    def read(name: str, dtype: torch.dtype) -> torch.Tensor:
        if name == "scaled_fp8":
            return torch.zeros(2, dtype=dtype)
        if name.endswith(".scale_weight"):
            return scale
        return view.load(name, torch.float32) / scale if name in matrices else view.read(name)

    write_safetensors(path, plan, read)


def write_gguf(source: Path, path: Path) -> None:
    """Q8_0 matrices, float32 for the rest."""
    view, writer = view_transformer(open_tensor_file(source)), gguf.GGUFWriter(path, "wan")
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name in view:
        value = view.load(name, torch.float32).numpy()
        quantised = name.startswith("blocks.") and value.ndim == 2
        writer.add_tensor(
            name, gguf.quants.quantize(value, q8) if quantised else value, raw_dtype=q8 if quantised else None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_training(source: Path, path: Path) -> None:
    """The training branch's file: state under `module`, projections of the attentions fused."""
    view = view_transformer(open_tensor_file(source))
    fused = {"self_attn": {"q": "query_key_value", "k": None, "v": None}, "cross_attn": {"k": "key_value", "v": None}}
    state = {}
    for name in view:
        module, _, leaf = name.rpartition(".")
        owner, _, part = module.rpartition(".")
        parts = fused.get(owner.rpartition(".")[2], {})
        if part not in parts:
            state[name] = view.read(name)
        elif parts[part]:
            state[f"{owner}.{parts[part]}.{leaf}"] = torch.cat([view.read(f"{owner}.{each}.{leaf}") for each in parts])
    torch.save({"module": state}, path)


def cases(folder: Path, shapes: dict[str, tuple[int, ...]]) -> list[tuple[str, str, str, Callable[[Path], None]]]:
    """Title, file name, type to load as ("" for the file's own), and how the file is made; the first two are kept."""
    bf16, fp32 = folder / "official_bf16.safetensors", folder / "official_fp32.safetensors"
    return [
        ("official bf16", bf16.name, "", lambda path: write_bf16(path, shapes)),
        (
            "official fp32",
            fp32.name,
            "",
            lambda path: (
                convert_transformer(SCAIL2Transformer3DModel, bf16, path, to="official", torch_dtype=torch.float32)
                and None
            ),
        ),
        ("official fp32 as bf16", fp32.name, "bfloat16", lambda path: None),
        ("training .pt fp32 as bf16", "training.pt", "bfloat16", lambda path: write_training(fp32, path)),
        ("comfy fp8-scaled", "comfy_fp8.safetensors", "", lambda path: write_fp8(bf16, path)),
        ("gguf q8_0", "q8_0.gguf", "", lambda path: write_gguf(bf16, path)),
        (
            "diffusers bf16",
            "diffusers",
            "",
            lambda path: convert_transformer(SCAIL2Transformer3DModel, bf16, path, to="diffusers") and None,
        ),
    ]


def measure(path: Path, dtype: str) -> dict:
    """Loads in a fresh process with one thread."""
    command = [sys.executable, "-m", "benchmarks.loading", "--load", str(path), "--dtype", dtype]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def measured(gigabytes: float, *, quick: bool) -> Iterator[tuple[str, dict]]:
    """Every case with what loading it took; its file is made before and gone afterwards."""
    shapes = shapes_of(gigabytes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, filename, dtype, write in cases(folder, shapes)[: 3 if quick else None]:
            path = folder / filename
            write(path)
            result = measure(path, dtype)
            yield title, result | {"ratio": (result["peak"] - result["baseline"]) / result["weights"]}
            if filename not in ("official_bf16.safetensors", "official_fp32.safetensors"):
                subprocess.run(["rm", "-r", str(path)], check=True)


def figures(gigabytes: float = 2.1) -> Iterator[Figure]:
    """Peak over weights of every dialect, and CPU seconds."""
    for title, result in measured(gigabytes, quick=False):
        yield Figure(name=title, value=result["ratio"], unit="peak / weights")
        yield Figure(name=title, value=result["seconds"], unit="CPU s")


def main() -> None:
    """Prints one line a dialect and the worst ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.1, help="least size of the checkpoint in bfloat16")
    parser.add_argument("--quick", action="store_true", help="only the official safetensors")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load_once(arguments.load, arguments.dtype)))
        return
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}")
    results = dict(measured(arguments.gigabytes, quick=arguments.quick))
    for title, result in results.items():
        print(
            f"{title:26} weights {result['weights'] / MIB:6.0f} MiB, peak {result['peak'] / MIB:6.0f} MiB, of which "
            f"imports {result['baseline'] / MIB:4.0f} MiB; {result['seconds']:5.1f} s of CPU; ratio: {result['ratio']:.3f}",
            flush=True,
        )
    print(f"worst ratio: {max(result['ratio'] for result in results.values()):.3f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
