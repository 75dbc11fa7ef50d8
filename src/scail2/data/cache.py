"""Training triplets → cached latents in shards, made by `conditions.build` exactly as at inference.

A cache is a folder: `cache.json` says how it was made, `shard-00000.tar` … hold the samples. Sample number and seed fix
every pixel, and a shard is whole or absent: an interrupted run continues with the missing shards.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from scail2 import conditions
from scail2.data.coverage import latent_coverage
from scail2.data.pairs import MotionPair
from scail2.data.recipe import SampleKind, TripletRecipe
from scail2.data.shards import DamagedSample, ShardWriter, index_path
from scail2.data.triplets import TrainingTriplet, draw_triplet
from scail2.errors import InputError

FORMAT = 1


class PairSource(Protocol):
    """Where motion pairs come from; picklable, and a pure function of its arguments."""

    @property
    def num_parts(self) -> int:
        """Part classes of the clips' part maps (0: it has none)."""

    def pair(self, kind: SampleKind, index: int, generator: np.random.Generator) -> MotionPair:
        """A pair that can become a sample of that kind; raises DamagedSample for one that cannot be read."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that fix the source's output; part of the cache's identity."""


class Embedder(Protocol):
    """Adds what text and image encoders say about a sample (`prompt_embeds`, `image_embeds`, without batch)."""

    def __call__(self, triplet: TrainingTriplet) -> dict[str, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class CacheJob:
    """Everything that fixes a cache's content, and what its workers need. Picklable.

    Attributes:
        autoencoder: folder of the autoencoder (diffusers layout).
        driving_downsample: 2 where the model takes driving frames at half size, 1 at full size.
        samples: total number of samples.
        samples_per_shard: rounded to whole pairs.
    """

    source: PairSource
    recipe: TripletRecipe
    autoencoder: Path
    samples: int
    driving_downsample: int = 2
    samples_per_shard: int = 64
    seed: int = 0

    @property
    def pairs_per_shard(self) -> int:
        """Pairs in a full shard."""
        return max(1, self.samples_per_shard // self.recipe.samples_per_pair)

    @property
    def num_shards(self) -> int:
        """Shards of the complete cache."""
        return -(-self.num_pairs // self.pairs_per_shard)

    @property
    def num_pairs(self) -> int:
        """Pairs drawn for `samples` samples."""
        return -(-self.samples // self.recipe.samples_per_pair)

    def pairs_of(self, shard: int) -> range:
        """Pair numbers of one shard."""
        return range(shard * self.pairs_per_shard, min(self.num_pairs, (shard + 1) * self.pairs_per_shard))

    def describe(self) -> dict[str, Any]:
        """What a continued run must agree in (the number of samples may grow)."""
        return {
            "format": FORMAT,
            "source": self.source.describe(),
            "recipe": self.recipe.to_json(),
            "autoencoder": _weights_fingerprint(self.autoencoder),
            "driving_downsample": self.driving_downsample,
            "samples_per_shard": self.samples_per_shard,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class CacheSummary:
    """What a run left behind."""

    directory: Path
    shards: int
    written: int
    skipped: dict[str, str]


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 `(T, H, W, 3)` → float `(1, 3, T, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float().div_(127.5).sub_(1.0)[None]


def encode_triplet(
    vae: nn.Module, geometry: conditions.ConditionGeometry, triplet: TrainingTriplet, num_parts: int = 0
) -> dict[str, Tensor]:
    """The tensors of one cached sample (no batch axis; `docs/data.md` lists shapes and types).

    Latents are normalised and stored as float16, masks and coverages as uint8 with 255 for 1.
    """
    inputs = conditions.build(
        vae,
        geometry,
        mode=triplet.mode,
        reference=to_pixels(triplet.reference[None])[:, :, 0],
        reference_mask=torch.from_numpy(triplet.reference_mask)[None],
        driving=to_pixels(triplet.driving),
        driving_mask=torch.from_numpy(triplet.driving_mask)[None],
    )
    tensors = {
        "target": conditions.encode_video(vae, to_pixels(triplet.target))[0].half(),
        "reference": inputs.reference_latents[0].half(),
        "driving": inputs.driving_latents[0].half(),
        "reference_mask": _as_bytes(inputs.reference_masks[0]),
        "driving_mask": _as_bytes(inputs.driving_masks[0]),
        "character": torch.from_numpy(latent_coverage(triplet.region.astype(np.uint8), 1)),
    }
    if triplet.hand_boxes is not None:
        tensors["hand_boxes"] = torch.from_numpy(triplet.hand_boxes).half()
    if num_parts:
        reference_parts = None if triplet.reference_parts is None else triplet.reference_parts[None]
        maps = (("target", triplet.target_parts), ("driving", triplet.driving_parts), ("reference", reference_parts))
        for name, parts in maps:
            if parts is not None:
                tensors[f"parts_{name}"] = torch.from_numpy(latent_coverage(parts, num_parts))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _as_bytes(unit: Tensor) -> Tensor:
    return (unit * 255).round().to(torch.uint8)


def sample_record(triplet: TrainingTriplet) -> dict[str, Any]:
    """The JSON beside a cached sample's tensors."""
    return {
        "mode": triplet.mode.value,
        "position_mode": triplet.position_mode.value,
        "kind": triplet.kind.value,
        "slots": list(triplet.slots),
        "caption": triplet.caption,
        **triplet.meta,
    }


def write_cache(
    job: CacheJob,
    directory: str | Path,
    *,
    workers: int = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    embedder: Embedder | None = None,
) -> CacheSummary:
    """Writes all shards that are not there yet.

    Args:
        workers: processes; 1 works in this one (needed for an `embedder`, which holds models).
        resume: continue a cache begun with the same job; its number of samples may have grown by whole shards.
        progress: called with (samples done, samples in total).

    Raises:
        InputError: the folder holds something else, or another job's shards.
    """
    directory = Path(directory)
    _claim(directory, job, resume)
    wanted = [n for n in range(job.num_shards) if not shard_path(directory, n).exists()]
    per_pair = job.recipe.samples_per_pair
    done = job.num_pairs - sum(len(job.pairs_of(n)) for n in wanted)
    tick = _Ticker(progress, done * per_pair, job.num_pairs * per_pair)
    if workers <= 1:
        maker = _SampleMaker(job, embedder)
        for number in wanted:
            maker.write_shard(directory, number, tick.one)
    else:
        if embedder is not None:
            raise InputError("an embedder holds models and works in one process: use workers=1")
        _in_processes(job, directory, wanted, workers, tick)
    return _summary(directory, job, written=sum(len(job.pairs_of(n)) for n in wanted) * per_pair)


def shard_path(directory: Path, number: int) -> Path:
    """Name of a cache's shard."""
    return directory / f"shard-{number:05d}.tar"


class _Ticker:
    def __init__(self, progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
        self.progress, self.done, self.total = progress, done, total
        self.one(0)

    def one(self, count: int = 1) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)


class _SampleMaker:
    """Holds what a worker needs and turns pair numbers into samples."""

    def __init__(self, job: CacheJob, embedder: Embedder | None = None) -> None:
        self.job, self.embedder = job, embedder
        self.vae = load_autoencoder(job.autoencoder)
        self.geometry = conditions.ConditionGeometry(driving_downsample=job.driving_downsample)

    def write_shard(self, directory: Path, number: int, tick: Callable[[int], None]) -> None:
        with ShardWriter(shard_path(directory, number)) as writer:
            for pair_number in self.job.pairs_of(number):
                self._write_pair(writer, pair_number)
                tick(self.job.recipe.samples_per_pair)

    def _write_pair(self, writer: ShardWriter, number: int) -> None:
        job = self.job
        generator = np.random.default_rng([job.seed, number])
        kind = job.recipe.draw_kind(generator)
        for side in range(job.recipe.samples_per_pair):
            key = f"{number:07d}{'ab'[side]}"
            try:
                if side == 0:
                    pair = job.source.pair(kind, number, generator)
                triplet = draw_triplet(pair, kind, job.recipe, generator, swapped=side == 1)
            except (DamagedSample, InputError) as error:
                writer.skip(key, f"{kind}: {error}")
                if side == 0:
                    return
                continue
            tensors = encode_triplet(self.vae, self.geometry, triplet, job.source.num_parts)
            if self.embedder is not None:
                tensors |= self.embedder(triplet)
            writer.write(key, sample_record(triplet), {"safetensors": save(tensors)})


def load_autoencoder(folder: Path) -> nn.Module:
    """The autoencoder in a diffusers folder, of the class its config names (ours or diffusers').

    Raises:
        InputError: no such folder, or a class that is not an autoencoder of ours or diffusers'.
    """
    import diffusers

    from scail2.models import autoencoder

    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"no autoencoder in {folder}: it needs config.json and weights in diffusers' layout")
    name = json.loads(config.read_text()).get("_class_name", "")
    cls = getattr(autoencoder, name, None) or (getattr(diffusers, name, None) if name.startswith("Auto") else None)
    if cls is None:
        raise InputError(f"{config}: {name!r} is no autoencoder class of scail2 or diffusers")
    return cls.from_pretrained(folder, torch_dtype=torch.float32).eval()


# Worker processes: one maker each, made once; a shared counter carries progress back.
_worker: dict[str, Any] = {}


def _start_worker(job: CacheJob, counter: Any) -> None:
    torch.set_num_threads(1)
    _worker.update(maker=_SampleMaker(job), counter=counter)


def _shard_task(directory: Path, number: int) -> int:
    def tick(count: int) -> None:
        with _worker["counter"].get_lock():
            _worker["counter"].value += count

    _worker["maker"].write_shard(directory, number, tick)
    return number


def _in_processes(job: CacheJob, directory: Path, wanted: list[int], workers: int, tick: _Ticker) -> None:
    context = get_context("spawn")  # forking a process that has used torch's threads can hang
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(
        min(workers, max(1, len(wanted))), mp_context=context, initializer=_start_worker, initargs=(job, counter)
    )
    try:
        waiting: set[Future[int]] = {pool.submit(_shard_task, directory, number) for number in wanted}
        seen = 0
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            tick.one(counter.value - seen)
            seen = counter.value
        tick.one(counter.value - seen)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _claim(directory: Path, job: CacheJob, resume: bool) -> None:
    """Makes the folder this job's: writes its description, or checks that the one there is the same."""
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".*.part"):  # of a killed run
        leftover.unlink(missing_ok=True)
    path = directory / "cache.json"
    described = json.loads(json.dumps(job.describe()))
    if path.exists():
        if not resume:
            raise InputError(f"{directory} already holds a cache: continue it with --resume or choose another folder")
        old = json.loads(path.read_text())
        changed = [key for key in described if old.get(key) != described[key]]
        if changed:
            raise InputError(f"{directory} was made with another {', '.join(changed)}: choose another folder")
        return
    if any(directory.glob("*.tar")):
        raise InputError(f"{directory} holds shards but no cache.json: choose an empty folder")
    part = directory / ".cache.json.part"
    part.write_text(json.dumps(described, indent=1))
    os.replace(part, path)


def _summary(directory: Path, job: CacheJob, written: int) -> CacheSummary:
    skipped: dict[str, str] = {}
    for number in range(job.num_shards):
        path = index_path(shard_path(directory, number))
        if path.exists():
            skipped |= json.loads(path.read_text()).get("skipped", {})
    return CacheSummary(directory, job.num_shards, written, skipped)


def _weights_fingerprint(folder: Path) -> str:
    """Identity of an autoencoder: its config and weight file's bytes."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
