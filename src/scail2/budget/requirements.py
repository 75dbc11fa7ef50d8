"""What a workload takes on a machine under a placement: bytes at their highest, and seconds of every stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from scail2.budget import autoencoders, memory
from scail2.budget.machines import ATTENTION_SPEED, GIB, RESERVED, WASTED, Machine, Rates
from scail2.budget.operations import (
    Operations,
    SequenceShape,
    image_encoding,
    segment_denoising,
    text_encoding,
    video_decoding,
    video_encoding,
)
from scail2.budget.shapes import ModelShape
from scail2.request.placement import AUTOENCODER_TILE, Placement, PlacementKind, WeightStorage
from scail2.request.speed import AttentionKernel, StepCache, attending_steps

# Python, its libraries and the frames that are being read and written.
_PROGRAM = 0.63 * GIB
# float8 and 4-bit weights are brought into the computed type before each product: bytes read and written for each.
_UNPACKED = 3.0
# Seconds of importing libraries.
_STARTING = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is to be rendered.

    Attributes:
        size: (height, width) in pixels.
        segments: padded frames of each segment.
        overlap: frames every segment but the first takes over; ``continues``: the first one, too.
        steps, passes: of the sampler, and passes a step (2 with guidance).
        itemsize: bytes of a number in the type that the networks compute in.
        prompts: how many are encoded.
        lora_bytes: of the LoRAs' files, which are fused when the model is loaded.
        attention: the kernel that attends (`scail2.budget.machines.ATTENTION_SPEED`).
        compiled: whether the transformer's blocks are compiled.
        cache: what steps reuse of earlier ones.
    """

    size: tuple[int, int]
    segments: tuple[int, ...]
    overlap: int
    steps: int
    passes: int
    itemsize: int = 2
    prompts: int = 1
    additional_references: int = 0
    lora_bytes: int = 0
    attention: AttentionKernel = AttentionKernel.AUTO
    compiled: bool = False
    cache: StepCache = StepCache.OFF
    continues: bool = False

    @property
    def frames(self) -> int:
        """Output frames, padding included."""
        return sum(self.segments) - self.overlap * (len(self.segments) - 1 + self.continues)

    @property
    def is_plain(self) -> bool:
        """Whether its steps take what the formulas say: what compiling, caches and other kernels save is not known."""
        plain = ATTENTION_SPEED[self.attention] == 1
        return plain and not self.compiled and self.cache is StepCache.OFF

    def only(self, segments: Sequence[int]) -> Self:
        """What rendering these segments alone takes, rising numbers of them."""
        frames = tuple(self.segments[index] for index in segments)
        return replace(self, segments=frames, continues=self.continues or segments[0] > 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """What a workload takes under one placement.

    Attributes:
        device_bytes: of each stage at its highest, the reserve of driver and allocator included.
        main_bytes: of main memory at its highest; ``pinned_bytes`` of it page-locked.
        working_bytes: of a CPU's memory at its highest without the weights, which are mapped from their files.
        disk_bytes: of the run's folder and the film.
        seconds: of each stage, over all segments.
    """

    placement: Placement
    device_bytes: dict[str, float]
    main_bytes: float
    pinned_bytes: float
    working_bytes: float
    disk_bytes: float
    seconds: dict[str, float]

    @property
    def peak(self) -> float:
        """Bytes of the device at their highest."""
        return max(self.device_bytes.values())

    @property
    def total_seconds(self) -> float:
        """All stages."""
        return sum(self.seconds.values())

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, in GiB and seconds."""
        return {
            "placement": self.placement.to_json(),
            "placed": str(self.placement),
            "device_gib": {name: round(value / GIB, 3) for name, value in self.device_bytes.items()},
            "peak_gib": round(self.peak / GIB, 3),
            "main_memory_gib": round(self.main_bytes / GIB, 3),
            "pinned_gib": round(self.pinned_bytes / GIB, 3),
            "disk_gib": round(self.disk_bytes / GIB, 4),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "total_seconds": round(self.total_seconds, 3),
        }


def requirement(model: ModelShape, workload: Workload, placement: Placement, machine: Machine) -> Requirement:
    """What a workload takes under a placement that is chosen (not ``auto``)."""
    reckoning = _Reckoning(model, workload, placement, machine)
    return Requirement(
        placement=placement,
        device_bytes=reckoning.device_bytes(),
        main_bytes=reckoning.main_bytes(),
        pinned_bytes=reckoning.waiting() if placement.offloads and placement.pinned and not machine.is_cpu else 0,
        working_bytes=reckoning.working_bytes(),
        disk_bytes=_disk_bytes(workload),
        seconds=reckoning.seconds(),
    )


def _disk_bytes(workload: Workload) -> float:
    """Lossless frames compress to about half; the float history of each segment and the film come on top."""
    pixels = workload.size[0] * workload.size[1]
    return pixels * (3 * workload.frames * 0.5 + 12 * workload.overlap * len(workload.segments) + 0.1 * workload.frames)


class _Reckoning:
    """One workload under one placement."""

    def __init__(self, model: ModelShape, workload: Workload, placement: Placement, machine: Machine):
        self.model, self.workload, self.placement, self.machine = model, workload, placement, machine
        self.vae_itemsize = 2 if placement.vae_bf16 else 4
        self.tile = AUTOENCODER_TILE if placement.vae_tiled else None
        longest = max(workload.segments)
        self.longest = longest
        self.sequence = self._sequence(longest)
        # diffusers' offloading calls blocks as they are, and so do chunks, compilation and step caches.
        hooked = placement.offloads or placement.token_chunk is not None
        self.direct = not (hooked or workload.compiled or workload.cache is not StepCache.OFF)

    def _sequence(self, frames: int) -> SequenceShape:
        return SequenceShape.of(
            self.model.transformer,
            self.model.autoencoder,
            self.workload.size,
            frames,
            self.workload.additional_references,
        )

    # ---- bytes ------------------------------------------------------------------------------------------------------

    def weights(self) -> float:
        """Of the transformer, as it is kept."""
        return memory.transformer_bytes(self.model.transformer, self.workload.itemsize, self.placement.storage)

    def waiting(self) -> float:
        """Of the transformer's blocks, that wait in main memory while others work."""
        shape = self.model.transformer
        return shape.num_layers * memory.block_bytes(shape, self.workload.itemsize, self.placement.storage)

    def resident_transformer(self) -> float:
        """Of the transformer's weights, that are on the device while it works."""
        shape, size, storage = self.model.transformer, self.workload.itemsize, self.placement.storage
        unpacked = 0.0 if storage is WeightStorage.FULL else memory.largest_matrix(shape, size)
        if self.placement.kind is PlacementKind.BLOCK_OFFLOAD:
            blocks = min(shape.num_layers, 1 + self.placement.prefetched_blocks)
            return memory.other_bytes(shape, size) + blocks * memory.block_bytes(shape, size, storage) + unpacked
        if self.placement.kind is PlacementKind.LAYER_OFFLOAD:
            return memory.largest_layer(shape, size) + memory.largest_matrix(shape, size) + unpacked
        return self.weights() + unpacked

    def encoder_weights(self) -> dict[str, float]:
        """Of text and image encoder, while each works: streamed where the transformer is."""
        found, size = {}, self.workload.itemsize
        if (text := self.model.text_encoder) is not None:
            embedding = text.vocab_size * text.d_model
            block = (text.weights.parameters - embedding) / max(1, text.num_layers)
            streamed = embedding + 2 * block if self.placement.offloads else text.weights.parameters
            found["text"] = streamed * size
        if (image := self.model.image_encoder) is not None:
            found["image"] = image.weights.parameters * size * (0.2 if self.placement.offloads else 1)
        return found

    def device_bytes(self) -> dict[str, float]:
        """Bytes of the device in every stage."""
        resident = 0.0
        if not self.placement.frees_encoders:
            vae = self.model.autoencoder.weights.parameters * self.vae_itemsize
            resident = sum(self.encoder_weights().values()) + self.resident_transformer() + vae
        reserved = 0.0 if self.machine.is_cpu else RESERVED
        return {
            name: reserved + max(resident, weights) + active * (1 + (0 if self.machine.is_cpu else WASTED))
            for name, (weights, active) in self.stages().items()
        }

    def stages(self) -> dict[str, tuple[float, float]]:
        """Bytes of the weights that every stage works with, and of what it computes."""
        model, workload = self.model, self.workload
        vae = model.autoencoder.weights.parameters * self.vae_itemsize
        encoders = self.encoder_weights()
        work: dict[str, tuple[float, float]] = {}
        if model.text_encoder is not None:
            work["text"] = (encoders["text"], memory.text_peak(model.text_encoder, workload.itemsize))
        if model.image_encoder is not None:
            work["image"] = (encoders["image"], memory.image_peak(model.image_encoder, workload.itemsize))
        transformer = self.resident_transformer()
        denoise = memory.pass_peak(
            model.transformer,
            self.sequence,
            workload.itemsize,
            on_cpu=self.machine.is_cpu,
            token_chunk=self.placement.token_chunk,
            direct=self.direct,
        )
        if self.direct:
            denoise += memory.memory_bytes(model.transformer, self.sequence, workload.itemsize, workload.passes)
        denoise += memory.step_cache_bytes(model.transformer, self.sequence, workload.cache, workload.passes)
        work["encode"] = (vae + transformer, self.encoding())
        work["denoise"] = (vae + transformer, denoise)
        work["decode"] = (vae + transformer, self.decoding())
        return work

    def encoding(self) -> float:
        """Bytes beside the weights: of the driving video, and of the pictures and the history that are larger but shorter."""
        vae, size, ratio = self.model.autoencoder, self.workload.size, self.model.transformer.driving_downsample
        history = self.workload.overlap if len(self.workload.segments) > 1 or self.workload.continues else 1
        clips = (((size[0] // ratio, size[1] // ratio), self.longest), (size, 1), (size, history))
        return max(
            autoencoders.encoding_peak(vae, each, frames, self.vae_itemsize, tile=self.tile) for each, frames in clips
        )

    def decoding(self) -> float:
        """Bytes beside the weights; what is decoded leaves a device that is not the CPU."""
        vae, size = self.model.autoencoder, self.workload.size
        peak = autoencoders.decoding_peak(vae, size, self.longest, self.vae_itemsize, tile=self.tile)
        if self.machine.is_cpu and vae.base_dim is not None:
            peak += autoencoders.picture_bytes(size, self.longest, self.vae_itemsize)
        return peak

    def main_bytes(self) -> float:
        """Bytes of main memory: what waits there, and what passes through when it is loaded."""
        frames = self.frame_bytes()
        if self.machine.is_cpu:
            return _PROGRAM + frames + self.peak_on_cpu()
        # Weights are loaded in the computed type, LoRAs fused into them one parameter after the other, then they are quantised.
        whole, encoders = self.weights(), self.encoder_weights().values()
        if self.placement.storage is not WeightStorage.STORED:
            whole = memory.transformer_bytes(self.model.transformer, self.workload.itemsize)
        beside = sum(encoders) if self.placement.kind is PlacementKind.RESIDENT else 0
        loading = max(whole + self.workload.lora_bytes + beside, *encoders, 0)
        return _PROGRAM + frames + loading

    def working_bytes(self) -> float:
        """Of `main_bytes` on a CPU what no file could give back."""
        return _PROGRAM + self.frame_bytes() + max(active for _, active in self.stages().values())

    def frame_bytes(self) -> float:
        """Bytes of a segment's driving frames and film."""
        return 2 * autoencoders.picture_bytes(self.workload.size, self.longest, 4)

    def peak_on_cpu(self) -> float:
        """On a CPU both memories are one."""
        return max(self.device_bytes().values())

    # ---- seconds ----------------------------------------------------------------------------------------------------

    def seconds(self) -> dict[str, float]:
        """Seconds of every stage over the whole workload."""
        model, workload, rates, vae = self.model, self.workload, self.machine.rates, self.model.autoencoder
        found = {"load": self._loading()}
        if model.text_encoder is not None:
            copied = model.text_encoder.weights.parameters * workload.itemsize / rates.link
            found["text"] = workload.prompts * duration(text_encoding(model.text_encoder), rates) + copied
        if model.image_encoder is not None:
            found["image"] = duration(image_encoding(model.image_encoder), rates)
        encode, denoise, decode = 0.0, 0.0, 0.0
        ratio = model.transformer.driving_downsample
        driving = (workload.size[0] // ratio, workload.size[1] // ratio)
        # Most segments of a long video are alike.
        kinds = Counter((frames, workload.continues or number > 0) for number, frames in enumerate(workload.segments))
        for (frames, continues), count in kinds.items():
            encode += count * frames * workload.size[0] * workload.size[1] / rates.pixels
            encode += count * self._vae_seconds(video_encoding(vae, driving, frames, tile=self.tile))
            if continues:
                history = video_encoding(vae, workload.size, workload.overlap, tile=self.tile)
                encode += count * self._vae_seconds(history)
            new = frames - workload.overlap if continues else frames
            decode += count * self._vae_seconds(video_decoding(vae, workload.size, frames, new, tile=self.tile))
            denoise += count * self._denoising(frames)
        pictures = 1 + workload.additional_references
        encode += pictures * self._vae_seconds(video_encoding(vae, workload.size, 1, tile=self.tile))
        host = workload.frames * (workload.size[0] * workload.size[1] / rates.host_pixels + 1 / rates.host_frames)
        return found | {"encode": encode, "denoise": denoise, "decode": decode, "host": host}

    def _loading(self) -> float:
        parts = (self.model.transformer, self.model.autoencoder, self.model.text_encoder, self.model.image_encoder)
        stored = self.workload.lora_bytes + sum(part.weights.nbytes for part in parts if part is not None)
        moved = 0.0 if self.machine.is_cpu else (self.weights() + sum(self.encoder_weights().values()))
        return _STARTING + stored / self.machine.rates.disk + moved / self.machine.rates.link

    def _vae_seconds(self, operations: Operations) -> float:
        rates = self.machine.rates
        speed = rates.convolution if self.placement.vae_bf16 else rates.single
        if self.model.autoencoder.base_dim is None:
            speed = rates.refiner or speed
        return (
            operations.convolution / speed + operations.matmul / rates.matmul + operations.attention / rates.attention
        )

    def _denoising(self, frames: int) -> float:
        """A pass takes as long as its arithmetic, or as the weights that have to come while it works."""
        shape, workload, rates = self.model.transformer, self.workload, self.machine.rates
        sequence = self._sequence(frames)
        attending = attending_steps(workload.steps) if workload.cache is StepCache.TAYLORSEER else None
        operations = segment_denoising(
            shape, sequence, steps=workload.steps, passes=workload.passes, direct=self.direct, attending=attending
        )
        passes = workload.steps * workload.passes
        if not self.machine.is_cpu:
            rates = replace(rates, attention=rates.attention * ATTENTION_SPEED[workload.attention])
        computed = duration(operations, rates)
        if self.placement.storage is not WeightStorage.FULL:
            matrices = shape.num_layers * memory.block_bytes(shape, workload.itemsize)
            computed += passes * _UNPACKED * matrices / rates.bandwidth
        if not self.placement.offloads or self.machine.is_cpu:
            return computed
        link = rates.link if self.placement.pinned else rates.link / 3
        copied = passes * self.waiting() / link
        if self.placement.prefetched_blocks and self.placement.kind is PlacementKind.BLOCK_OFFLOAD:
            return max(computed, copied) + self.waiting() / shape.num_layers / link * passes
        return computed + copied


def duration(operations: Operations, rates: Rates) -> float:
    """Seconds of operations in the computed type."""
    return (
        operations.matmul / rates.matmul
        + operations.attention / rates.attention
        + operations.convolution / rates.convolution
    )
