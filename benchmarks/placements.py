"""What is on the device at once under each placement, counted, beside what the budget predicts: a 14B scaled down to 2 GB.

    python -m benchmarks placements    # 1.03 billion bfloat16 weights, one pass of 128x128x17

The real classes run on the CPU. Counted are the bytes of weights that offloading has put onto the device at a time, and of
every tensor that lives during a pass (allocations inside kernels are not seen), so the numbers do not depend on the machine.
A test does the same with a smaller network and fails beyond a tenth.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.hooks.group_offloading import ModuleGroup

from benchmarks.results import Figure
from scail2 import SCAIL2Transformer3DModel
from scail2.budget import memory
from scail2.budget.operations import SequenceShape
from scail2.budget.shapes import AutoencoderShape, TransformerShape
from scail2.loading.placing import offload_transformer, store_weights
from scail2.models.chunked import take_tokens_in_chunks
from scail2.request.placement import Placement, PlacementKind, WeightStorage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_costs import Costs

CPU = torch.device("cpu")
SCALED = TransformerShape(num_attention_heads=16, attention_head_dim=128, ffn_dim=5504, num_layers=16)
RESIDENT = Placement(kind=PlacementKind.RESIDENT)
PLACEMENTS = [
    RESIDENT,
    replace(RESIDENT, token_chunk=64),
    replace(RESIDENT, storage=WeightStorage.FP8),
    replace(RESIDENT, storage=WeightStorage.INT8),
    replace(RESIDENT, kind=PlacementKind.BLOCK_OFFLOAD, prefetched_blocks=0),
    replace(RESIDENT, kind=PlacementKind.BLOCK_OFFLOAD, prefetched_blocks=0, token_chunk=64),
    replace(RESIDENT, kind=PlacementKind.LAYER_OFFLOAD),
]


def inputs(shape: TransformerShape, size: tuple[int, int], frames: int) -> dict:
    """Of one pass, without prompt and CLIP embeddings of real encoders: random numbers of their shapes."""
    random = torch.Generator().manual_seed(0)
    latents, height, width = 1 + (frames - 1) // 4, size[0] // 8, size[1] // 8

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(1, *sizes, generator=random).to(torch.bfloat16)

    return {
        "hidden_states": normal(16, latents, height, width).float(),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": normal(shape.text_length, shape.text_dim),
        "encoder_hidden_states_image": normal(shape.image_length, shape.image_dim),
        "reference_latents": normal(16, 1, height, width),
        "reference_masks": normal(28, 1, height, width),
        "driving_latents": normal(16, latents, height // 2, width // 2),
        "driving_masks": normal(28, latents, height // 2, width // 2),
        "mode": "animation",
    }


def build(shape: TransformerShape) -> torch.nn.Module:
    """The network without weights; its positions are no weights and are computed."""
    words = {name: getattr(shape, name) for name in shape.__dataclass_fields__ if name != "weights"}
    with torch.device("meta"):
        model = SCAIL2Transformer3DModel(**words)
    model.rope = type(model.rope)(shape.attention_head_dim, 10000.0, 120, 120, 2)
    return model.eval().requires_grad_(False)


def random_weights(shape: TransformerShape) -> dict[str, torch.Tensor]:
    """In bfloat16, and float32 where the network keeps that; every placement is given the same tensors."""
    random, model = torch.Generator().manual_seed(0), build(shape)
    islands = set(model._keep_in_fp32_modules)
    kinds = {name: torch.float32 if islands & set(name.split(".")) else torch.bfloat16 for name in model.state_dict()}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return {
        name: torch.empty(shapes[name], dtype=kind).uniform_(-0.03, 0.03, generator=random)
        for name, kind in kinds.items()
    }


class WeightsThere:
    """Bytes of weights on the device: those outside of offloaded groups always, groups while they visit."""

    def __init__(self, model: torch.nn.Module, groups: list[ModuleGroup]) -> None:
        self.sizes = {id(group): sum(map(nbytes, tensors(group))) for group in groups}
        grouped = {id(each) for group in groups for each in tensors(group)}
        own = [each for each in (*model.parameters(), *model.buffers()) if id(each) not in grouped]
        self.now = self.peak = sum(map(nbytes, own))
        self.there: set[int] = set()

    def change(self, group: ModuleGroup, comes: bool) -> None:
        key = id(group)
        if comes and key not in self.there:
            self.there.add(key)
            self.now += self.sizes.get(key, 0)
        elif not comes and key in self.there:
            self.there.discard(key)
            self.now -= self.sizes.get(key, 0)
        self.peak = max(self.peak, self.now)


def tensors(group: ModuleGroup) -> list[torch.Tensor]:
    inside = [each for module in group.modules for each in (*module.parameters(), *module.buffers())]
    return list({id(each): each for each in (*inside, *group.parameters, *group.buffers)}.values())


def nbytes(tensor: torch.Tensor) -> int:
    inner = [getattr(tensor, name) for name in getattr(tensor, "tensor_data_names", ())]
    return sum(each.nbytes for each in inner) if inner else tensor.nbytes


@contextmanager
def watched(model: torch.nn.Module) -> Iterator[WeightsThere]:
    """Counts the weights on the device from here on."""
    registries = [getattr(each, "_diffusers_hook", None) for each in model.modules()]
    hooks = [hook for registry in registries if registry is not None for hook in registry.hooks.values()]
    groups = list({id(hook.group): hook.group for hook in hooks if hasattr(hook, "group")}.values())
    there = WeightsThere(model, groups)
    originals = {name: getattr(ModuleGroup, name) for name in ("onload_", "offload_")}

    def recorded(name: str):
        def change(group: ModuleGroup):
            there.change(group, name == "onload_")
            return originals[name](group)

        return change

    for name in originals:
        setattr(ModuleGroup, name, recorded(name))
    try:
        yield there
    finally:
        for name, original in originals.items():
            setattr(ModuleGroup, name, original)


def predicted(shape: TransformerShape, sequence: SequenceShape, placement: Placement) -> tuple[float, float]:
    """Weights and activations in the budget's closed form."""
    largest = memory.largest_matrix(shape, 2)
    unpacked = 0.0 if placement.storage is WeightStorage.FULL else largest
    if placement.kind is PlacementKind.BLOCK_OFFLOAD:
        weights = memory.other_bytes(shape, 2) + memory.block_bytes(shape, 2, placement.storage)
    elif placement.kind is PlacementKind.LAYER_OFFLOAD:
        weights = memory.largest_layer(shape, 2)
    else:
        weights = memory.transformer_bytes(shape, 2, placement.storage)
    hooked = placement.offloads or placement.token_chunk is not None
    active = memory.pass_peak(shape, sequence, 2, on_cpu=True, token_chunk=placement.token_chunk, direct=not hooked)
    return weights + unpacked, active


def measure(model: torch.nn.Module, placement: Placement, given: dict) -> tuple[torch.Tensor, float, float]:
    """The pass's result, and peaks of weights and of activations."""
    store_weights(model, placement.storage, CPU)
    if placement.token_chunk is not None:
        take_tokens_in_chunks(model.blocks, placement.token_chunk, lambda: False)
    if placement.offloads:
        offload_transformer(model, CPU, placement)
    with watched(model) as there, torch.no_grad(), Costs() as costs:
        result = model(**given, return_dict=False)[0]
        kept = 0
        if placement.storage is WeightStorage.FP8:
            # Its weights, cast to and fro on use, are made anew by the first pass, and are no activations in the second.
            kept = costs.peak = costs.live
            model(**given)
    return result, there.peak, costs.peak - kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One placement: bytes of weights and of a pass, counted and predicted, and how far the result is off."""

    placement: Placement
    weights: float
    active: float
    told_weights: float
    told_active: float
    off: float

    @property
    def ratio(self) -> float:
        """Counted over predicted."""
        return (self.weights + self.active) / (self.told_weights + self.told_active)


def measured(
    shape: TransformerShape,
    size: tuple[int, int],
    frames: int,
    chunk: int,
    placements: Iterable[Placement] = PLACEMENTS,
) -> Iterator[Measured]:
    """Every placement in turn, with the same weights and inputs; chunks of ``chunk`` tokens."""
    sequence = SequenceShape.of(shape, AutoencoderShape(), size, frames)
    given = inputs(shape, size, frames)
    expected, state = None, random_weights(shape)
    for placement in placements:
        placement = replace(placement, token_chunk=placement.token_chunk and chunk)
        model = build(shape)
        model.load_state_dict(state, assign=True)
        result, weights, active = measure(model, placement, given)
        expected = result if expected is None else expected
        told_weights, told_active = predicted(shape, sequence, placement)
        off = 0.0 if torch.equal(result, expected) else float(torch.dist(result, expected) / expected.norm())
        yield Measured(
            placement=placement,
            weights=weights,
            active=active,
            told_weights=told_weights,
            told_active=told_active,
            off=off,
        )


def figures() -> Iterator[Figure]:
    """For the runner."""
    for each in measured(SCALED, (128, 128), 17, 64):
        name = str(each.placement)
        yield Figure(name=f"{name}: weights", value=each.weights / 2**20, unit="MiB")
        yield Figure(name=f"{name}: pass", value=each.active / 2**20, unit="MiB")
        yield Figure(name=f"{name}: together", value=each.ratio, unit="of the prediction")
        yield Figure(name=f"{name}: result", value=each.off, unit="off, relative")
