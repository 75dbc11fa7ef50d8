"""Measures this machine with the package's own parts: products, attention, a block, copies, tiles of the autoencoders."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from scail2.budget.machines import DISK, Rates
from scail2.budget.operations import PassKind, SequenceShape, transformer_pass, video_decoding
from scail2.budget.shapes import AutoencoderShape, TransformerShape
from scail2.conditions import ConditionGeometry, encode_driving
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.transformer import SCAIL2Transformer3DModel

# Repetitions of each measurement, of which the median counts, after one that does not.
_TIMES = 3
# A network of a few blocks as wide as the embedded one for CPUs, as the 14B for other devices, and its video's latents.
_SMALL = TransformerShape(
    num_attention_heads=8, attention_head_dim=64, in_channels=68, out_channels=64, ffn_dim=1536, num_layers=2,
    text_dim=None, image_dim=None, driving_downsample=1,
)  # fmt: skip
_LARGE = TransformerShape(num_layers=1)
_EMBEDDED = AutoencoderShape(base_dim=None, z_dim=64, refiner_widths=(48, 96, 128), refiner_blocks=(1, 2, 2))


def measure(
    device: torch.device, dtype: torch.dtype, folder: Path, clock: Callable[[], float] = time.perf_counter
) -> Rates:
    """Rates of a device in a number format, in a few seconds.

    Args:
        folder: where models are kept: reading is measured there.
        clock: seconds; a machine that is shared is measured by the seconds of its processor instead.
    """
    timed = _Timer(device, clock)
    small = device.type == "cpu"
    shape, size, frames = (_SMALL, (128, 128), 17) if small else (_LARGE, (512, 896), 17)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        matmul, attention = _products(timed, dtype, small), _attention(timed, dtype, small)
        factor = _block_factor(timed, dtype, shape, (size, frames), (matmul, attention))
        refined, pixels = _refiner(timed), _pixels(timed)
        single, half = _tile(timed, torch.float32), _tile(timed, dtype)
    return Rates(
        matmul=matmul / factor,
        attention=attention / factor,
        convolution=half,
        single=single,
        refiner=refined,
        pixels=pixels,
        bandwidth=_bandwidth(timed),
        link=_link(timed),
        disk=_disk(folder, clock),
        measured=True,
    )


class _Timer:
    """Median seconds of a call on a device."""

    def __init__(self, device: torch.device, clock: Callable[[], float]):
        self.device, self._clock = device, clock

    def __call__(self, run: Callable[[], Any]) -> float:
        run()
        found = []
        for _ in range(_TIMES):
            self._wait()
            started = self._clock()
            run()
            self._wait()
            found.append(self._clock() - started)
        return max(sorted(found)[_TIMES // 2], 1e-9)

    def _wait(self) -> None:
        if self.device.type in ("cuda", "xpu", "mps"):
            getattr(torch, self.device.type).synchronize()


def _products(timed: _Timer, dtype: torch.dtype, small: bool) -> float:
    rows, width, inner = (704, 512, 1536) if small else (8192, 5120, 13824)
    left = torch.randn(rows, width, device=timed.device, dtype=dtype)
    right = torch.randn(inner, width, device=timed.device, dtype=dtype)
    return 2.0 * rows * width * inner / timed(lambda: F.linear(left, right))


def _attention(timed: _Timer, dtype: torch.dtype, small: bool) -> float:
    heads, tokens, width = (8, 704, 64) if small else (40, 8192, 128)
    query, key, value = torch.randn(3, 1, heads, tokens, width, device=timed.device, dtype=dtype).unbind()
    return 4.0 * heads * tokens**2 * width / timed(lambda: F.scaled_dot_product_attention(query, key, value))


def _block_factor(
    timed: _Timer,
    dtype: torch.dtype,
    shape: TransformerShape,
    video: tuple[tuple[int, int], int],
    rates: tuple[float, float],
) -> float:
    """How many times longer a pass takes than its products and attention: norms, rotations, copies."""
    network, inputs = small_network(shape, dtype, timed.device), pass_inputs(shape, *video, timed.device)
    seconds = timed(lambda: network(**inputs))
    sequence = SequenceShape.of(shape, AutoencoderShape(), *video)
    done = transformer_pass(shape, sequence, PassKind(first=True, first_of_segment=True))
    return max(1.0, seconds / ((done.matmul + done.convolution) / rates[0] + done.attention / rates[1]))


def small_network(shape: TransformerShape, dtype: torch.dtype, device: torch.device) -> SCAIL2Transformer3DModel:
    """A transformer of that shape with random weights, its float32 parts float32."""
    words = {name: getattr(shape, name) for name in shape.__dataclass_fields__ if name != "weights"}
    with torch.device(device):
        network = SCAIL2Transformer3DModel(**words).eval()
    kept = set(SCAIL2Transformer3DModel._keep_in_fp32_modules)
    for path, module in network.named_modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            own = torch.float32 if kept & {*path.split("."), leaf} else dtype
            setattr(module, leaf, torch.nn.Parameter(parameter.detach().to(own), requires_grad=False))
    return network


def pass_inputs(
    shape: TransformerShape, size: tuple[int, int], frames: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Keyword arguments of one forward pass for a video of ``size`` pixels, zeros."""
    latents, (height, width) = 1 + (frames - 1) // 4, (side // 8 for side in size)
    small = height // shape.driving_downsample, width // shape.driving_downsample

    def zeros(*sizes: int) -> torch.Tensor:
        return torch.zeros(1, *sizes, device=device)

    given = {
        "hidden_states": zeros(shape.out_channels, latents, height, width),
        "timestep": torch.full((1,), 500.0, device=device),
        "reference_latents": zeros(shape.out_channels, 1, height, width),
        "reference_masks": zeros(shape.mask_channels, 1, height, width),
        "driving_latents": zeros(shape.out_channels, latents, *small),
        "driving_masks": zeros(shape.mask_channels, latents, *small),
    }
    if shape.text_dim is not None:
        given["encoder_hidden_states"] = zeros(shape.text_length, shape.text_dim)
    if shape.image_dim is not None:
        given["encoder_hidden_states_image"] = zeros(shape.image_length, shape.image_dim)
    return given


def _tile(timed: _Timer, dtype: torch.dtype) -> float:
    """Convolutions of the size of the Wan autoencoder's finest level, as many as a CPU does in a second."""
    side, channels = (64, 96) if timed.device.type == "cpu" else (256, 96)
    frames = torch.randn(1, channels, 4, side, side, device=timed.device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, 3, device=timed.device, dtype=dtype)
    seconds = timed(lambda: F.conv3d(frames, weight, padding=1))
    return 2.0 * 27 * channels**2 * 4 * side**2 / seconds


def _refiner(timed: _Timer) -> float:
    """The embedded model's decoder: mostly its refiner's convolutions."""
    decoder = AutoencoderPatchTransform(
        z_dim=64,
        num_static_channels=44,
        refiner_widths=_EMBEDDED.refiner_widths,
        refiner_blocks=_EMBEDDED.refiner_blocks,
    )
    decoder = decoder.to(timed.device).eval()
    latents = torch.zeros(1, 64, 3, 16, 16, device=timed.device)
    return video_decoding(_EMBEDDED, (128, 128), 9).total / timed(lambda: decoder.decode(latents))


def _pixels(timed: _Timer) -> float:
    """Pixels a second of a driving video and its masks on their way into latents, the autoencoder's own work left out."""
    coder = AutoencoderPatchTransform(z_dim=64, num_static_channels=44).to(timed.device).eval()
    frames = torch.zeros(1, 3, 17, 128, 128)
    masks = torch.zeros(1, 17, 128, 128, 3, dtype=torch.uint8)
    geometry = ConditionGeometry(driving_downsample=1)
    seconds = timed(lambda: encode_driving(coder, geometry, driving=frames, driving_mask=masks))
    return 17 * 128 * 128 / seconds


def _bandwidth(timed: _Timer) -> float:
    """Bytes a second read and written by a copy within the device."""
    source = torch.empty(2**25, dtype=torch.float32, device=timed.device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / timed(lambda: target.copy_(source))


def _link(timed: _Timer) -> float:
    """Bytes a second from page-locked main memory to the device; on a CPU, of a copy."""
    source = torch.empty(2**25, dtype=torch.float32)
    if timed.device.type == "cuda":
        source = source.pin_memory()
    target = torch.empty_like(source, device=timed.device)
    return source.nbytes / timed(lambda: target.copy_(source))


def _disk(folder: Path, clock: Callable[[], float]) -> float:
    """Bytes a second of reading the largest weight file there is, up to 256 MiB of it; a guess where there is none."""
    files = sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_size) if folder.is_dir() else []
    if not files or files[-1].stat().st_size < 2**26:
        return DISK
    started, done = time.perf_counter(), 0
    with files[-1].open("rb", buffering=0) as file:
        while done < 2**28 and (piece := file.read(2**24)):
            done += len(piece)
    return done / max(time.perf_counter() - started, 1e-6)


def both_formats(
    device: torch.device, folder: Path, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Rates]:
    """Rates by number format: float32, and bfloat16 where the device multiplies it natively."""
    from scail2.devices import has_native_bf16

    found = {"float32": measure(device, torch.float32, folder, clock)}
    if has_native_bf16(device):
        found["bfloat16"] = measure(device, torch.bfloat16, folder, clock)
    return found
