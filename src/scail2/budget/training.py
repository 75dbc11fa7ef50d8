"""What a training takes of each of its cards: bytes, seconds a step, hours in all; and what would fit where it does not.

Weights, gradients and moments are counted. What passes need beside them is linear in tokens: its factors were fitted to counts
of live storages of the 14B's blocks at two sizes and two widths of the feed-forward, and tests count again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from scail2.budget import memory
from scail2.budget.machines import CARDS, GIB, RESERVED, WASTED, Machine, named_machine
from scail2.budget.operations import Operations, PassKind, SequenceShape, transformer_pass
from scail2.budget.requirements import duration
from scail2.budget.shapes import TransformerShape, block_shapes
from scail2.errors import InputError
from scail2.request.placement import WeightStorage

_FLOAT, _HALF = 4, 2
# Bytes a token that a block's backward pass has beside its weights: for each of its channels, and of its feed-forward's.
_LORA, _FULL = (57.9, 7.1), (82.6, 4.6)
# Adapters on frozen weights: self-attention with its gradients; and the streams beside the few tokens of the rest.
_FROZEN, _STREAMS = 50.3, 4
# Of the bytes of a block in half precision, what autocast's copies take beside, and their gradients where they have some.
_CAST, _CAST_BACK = 0.75, 1.2
# Attention's backward pass is five products where its forward is two.
_ATTENTION_BACK = 2.5
_NUMBERS_A_MOMENT = 2  # AdamW
# Of the published adapters: ten layers of a block.
PUBLISHED_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")


class Recomputation(StrEnum):
    """What of a block's pass is computed again for the backward pass: nothing, all but attention, or all."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingWork:
    """What a training does in a step.

    Attributes:
        sequence: tokens of a sample; ``window`` those of a part of it, which is what all but ``whole_share`` of the
            micro-batches see.
        samples: of a micro-batch; ``accumulation`` micro-batches make a step.
        rank: of adapters; None trains all weights.
        adapted: inputs and outputs of the layers with adapters, added up over one block.
        frozen: the form in which matrices that are not trained are kept, as `scail2.training.frozen` does; None: float32.
        offload: they and the blocks' inputs lie in main memory.
        averaged: whether an average of the trained weights is kept.
        forwards: passes without gradients a sample, ``passes`` with them (preferences: 3 and 2).
    """

    sequence: SequenceShape
    steps: int
    window: SequenceShape | None = None
    whole_share: float = 0.0
    samples: int = 1
    accumulation: int = 1
    rank: int | None = None
    adapted: int = 0
    frozen: WeightStorage | None = None
    offload: bool = False
    token_chunk: int = 4096
    recomputation: Recomputation = Recomputation.FULL
    averaged: bool = False
    forwards: int = 0
    passes: int = 1
    half: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingNeeds:
    """What a training takes on ``cards`` cards, ``sequence`` of which share each sample's tokens.

    Attributes:
        device_bytes: of each card at its highest, by what they are for.
        main_bytes: of main memory for each process while it trains.
        disk_bytes: of one checkpoint.
        step_seconds: of a step.
    """

    cards: int
    sequence: int
    steps: int
    device_bytes: dict[str, float]
    main_bytes: float
    disk_bytes: float
    step_seconds: float

    @property
    def peak(self) -> float:
        """Bytes of a card at their highest."""
        return sum(self.device_bytes.values())

    @property
    def card_hours(self) -> float:
        """Hours of all steps, times the cards."""
        return self.step_seconds * self.steps / 3600 * self.cards

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, in GiB, seconds and hours."""
        return {
            "cards": self.cards,
            "sequence_parallel": self.sequence,
            "device_gib": {name: round(value / GIB, 3) for name, value in self.device_bytes.items()},
            "peak_gib": round(self.peak / GIB, 3),
            "main_memory_gib": round(self.main_bytes / GIB, 3),
            "checkpoint_gib": round(self.disk_bytes / GIB, 3),
            "step_seconds": round(self.step_seconds, 3),
            "hours": round(self.step_seconds * self.steps / 3600, 3),
            "card_hours": round(self.card_hours, 3),
        }


def training_needs(
    shape: TransformerShape, work: TrainingWork, machine: Machine, cards: int = 1, sequence: int = 1
) -> TrainingNeeds:
    """What a training takes; see `TrainingNeeds`."""
    reckoning = _Training(shape, work, machine, cards, sequence)
    return TrainingNeeds(
        cards=cards,
        sequence=sequence,
        steps=work.steps,
        device_bytes=reckoning.device_bytes(),
        main_bytes=reckoning.main_bytes(),
        disk_bytes=_FLOAT * reckoning.trained * (1 + _NUMBERS_A_MOMENT + work.averaged),
        step_seconds=reckoning.step_seconds(),
    )


@dataclass(frozen=True, slots=True)
class _Training:
    shape: TransformerShape
    work: TrainingWork
    machine: Machine
    cards: int
    sequence: int

    @property
    def trained(self) -> float:
        """Parameters that are trained."""
        if self.work.rank is None:
            return float(self.shape.parameters)
        return float(self.work.rank * self.work.adapted * self.shape.num_layers)

    @property
    def tokens(self) -> float:
        """Of a micro-batch, on one card."""
        return self.work.sequence.total * self.work.samples / self.sequence

    def device_bytes(self) -> dict[str, float]:
        """Bytes of a card by what they are for."""
        trained, shared = self.trained / self.cards, self.cards
        gradients, kept = self.gradients_and_kept()
        found = {
            "weights": self.weights(),
            "trained": trained * _FLOAT * (1 if self.work.rank is not None else 0),
            "gradients": gradients,
            "moments": trained * _FLOAT * _NUMBERS_A_MOMENT,
            "average": trained * _FLOAT if self.work.averaged else 0.0,
            "kept for the backward pass": kept,
            "a block's passes": self.working(),
        }
        if shared > 1:  # a block whole where it computes, the next one on its way, and one block's gradients
            block = self.shape.block_parameters
            gradients = _FLOAT * block if self.work.rank is None else 0
            found["blocks put together"] = 2 * block * (_HALF if self.work.half else _FLOAT) + gradients
        if self.machine.is_cpu:
            return found
        return found | {
            "driver and allocator": RESERVED
            + WASTED * (found["kept for the backward pass"] + found["a block's passes"])
        }

    def gradients_and_kept(self) -> tuple[float, float]:
        """At the worst moment: gradients of earlier micro-batches stay, of a single one they come as what is kept goes."""
        gradients, kept = _FLOAT * self.trained / self.cards, self.kept()
        groups, layers = self.cards // self.sequence, self.shape.num_layers
        if self.work.accumulation * self.work.samples > groups * self.work.samples or self.work.rank is not None:
            return gradients, kept
        blocks = _FLOAT * self.shape.block_parameters * (layers - 1) / self.cards
        late, early = (blocks, kept / layers), (0.0, kept)
        return max(late, early, key=sum)

    def weights(self) -> float:
        """All that are there while nothing computes, and of frozen ones the block that works."""
        shape, work = self.shape, self.work
        if work.frozen is None:
            return _FLOAT * shape.parameters / self.cards
        others = memory.other_bytes(shape, _HALF)
        block = memory.block_bytes(shape, _HALF)
        stored = memory.block_bytes(shape, _HALF, work.frozen)
        visiting = block + (stored if work.frozen is not WeightStorage.FULL else 0)
        return others + visiting + (0 if work.offload else shape.num_layers * stored)

    def kept(self) -> float:
        """The stream before every block, in float32; attention's results where they are kept."""
        width, layers = self.shape.dim, self.shape.num_layers
        number = _HALF if self.work.half else _FLOAT
        if self.work.frozen is not None:
            return self.tokens * width * _FLOAT * (1 if self.work.offload else layers)
        if self.work.recomputation is Recomputation.NONE:
            return (layers - 1) * self._graph()
        attention = number if self.work.recomputation is Recomputation.SELECTIVE else 0
        return self.tokens * width * layers * (_FLOAT + attention)

    def working(self) -> float:
        """One block with its gradients."""
        width = self.shape.dim
        if self.work.frozen is None:
            cast = _CAST_BACK if self.work.rank is None else _CAST
            copies = cast * memory.block_bytes(self.shape, _HALF) if self.work.half and self.cards == 1 else 0
            return self._graph() + copies
        share = min(1.0, self.work.token_chunk / self.work.sequence.total)
        rest = self.tokens * width * (_STREAMS * _FLOAT) + share * self._graph()
        return max(_FROZEN * width * self.tokens * self._wider(), rest)

    def _graph(self) -> float:
        """A block's whole graph with its gradients."""
        channels, inner = _FULL if self.work.rank is None else _LORA
        return self.tokens * (channels * self.shape.dim + inner * self.shape.ffn_dim) * self._wider()

    def _wider(self) -> float:
        """Float32 has twice the bytes in about two thirds of the tensors: the stream and norms are float32 already."""
        return 1.0 if self.work.half else 5 / 3

    def main_bytes(self) -> float:
        """Of one process: the model when it is loaded, or what waits there while it trains."""
        shape, work = self.shape, self.work
        loaded = memory.transformer_bytes(shape, _HALF if work.frozen is not None else _FLOAT)
        if work.frozen is None or not work.offload or self.machine.is_cpu:
            return loaded
        waiting = shape.num_layers * memory.block_bytes(shape, _HALF, work.frozen)
        return max(loaded, waiting + shape.num_layers * self.tokens * shape.dim * _FLOAT)

    def operations(self) -> Operations:
        """Of one sample, in the mean."""
        whole = self._operations(self.work.sequence)
        if self.work.window is None:
            return whole
        return whole * self.work.whole_share + self._operations(self.work.window) * (1 - self.work.whole_share)

    def _operations(self, sequence: SequenceShape) -> Operations:
        """Of one sample: forward passes, and each pass with gradients."""
        whole = transformer_pass(self.shape, sequence, PassKind(direct=False))
        products, attends = self._times()
        adapters = 2.0 * sequence.total * self.trained * 4 if self.work.rank is not None else 0.0
        done = Operations(whole.matmul * products + adapters, whole.attention * attends, 3 * whole.convolution)
        return done * self.work.passes + whole * self.work.forwards

    def _times(self) -> tuple[float, float]:
        """How often products and attention are computed for one pass with gradients."""
        if self.work.frozen is not None:
            # Forward, self-attention again to come to the rest, each part again with its graph, gradients of inputs.
            own, context = 4, 2 if self.shape.has_context else 0
            return 3 + own / (own + context + 2 * self.shape.ffn_dim / self.shape.dim), 3 + _ATTENTION_BACK
        again = 0 if self.work.recomputation is Recomputation.NONE else 1
        attends = 1 + (1 if self.work.recomputation is Recomputation.FULL else 0) + _ATTENTION_BACK
        return 2 + again + (1 if self.work.rank is None else 0), attends

    def step_seconds(self) -> float:
        """A step's samples, shared among groups of cards, and the optimiser."""
        rates = self.machine.rates
        groups = self.cards // self.sequence
        rounds = -(-self.work.accumulation * self.work.samples // groups)
        computed = duration(self.operations(), rates) / self.sequence
        if self.work.frozen is not None:
            stored = self.shape.num_layers * memory.block_bytes(self.shape, _HALF, self.work.frozen)
            if self.work.offload and not self.machine.is_cpu:
                inputs = self.work.sequence.total * self.shape.dim * _FLOAT * self.shape.num_layers
                computed += self.work.passes * 2 * (stored + inputs) / rates.link
            computed += (
                self.work.passes * 2 * 3 * self.shape.num_layers * stored / rates.bandwidth / self.shape.num_layers
            )
        return rounds * computed + 16 * self.trained / self.cards / rates.bandwidth


# ---- does it fit ---------------------------------------------------------------------------------------------------


def refuse_training(shape: TransformerShape, work: TrainingWork, machine: Machine, needs: TrainingNeeds) -> None:
    """Raises InputError where a card has no room, naming the nearest ways that have; main memory counts where it is known."""
    fits = needs.peak <= machine.memory and (machine.main_memory is None or needs.main_bytes <= machine.main_memory)
    if fits:
        return
    told = (
        f"This training needs {needs.peak / GIB:.1f} GB of each {machine.name}, which has {machine.memory / GIB:.1f} GB"
    )
    if machine.main_memory is not None and needs.main_bytes > machine.main_memory:
        told += f", and {needs.main_bytes / GIB:.0f} of {machine.main_memory / GIB:.0f} GB of main memory"
    advice = list(_advice(shape, work, machine, needs))
    raise InputError(f"{told}." + (f" What would fit: {'; '.join(advice)}." if advice else ""))


def _advice(shape: TransformerShape, work: TrainingWork, machine: Machine, needs: TrainingNeeds) -> Iterator[str]:
    def fits(changed: TrainingWork, on: Machine, cards: int, sequence: int) -> bool:
        return training_needs(shape, changed, on, cards, sequence).peak <= on.memory

    lean = replace(work, recomputation=Recomputation.FULL)
    if (
        work.frozen is None
        and work.recomputation is not Recomputation.FULL
        and fits(lean, machine, needs.cards, needs.sequence)
    ):
        yield "--checkpointing full"
    if work.frozen is None:
        for cards, sequence in sorted(_LAYOUTS, key=lambda each: (each[0], each[1])):
            if (
                (needs.cards, needs.sequence) < (cards, sequence)
                and cards >= needs.cards
                and shape.num_attention_heads % sequence == 0
                and fits(lean, machine, cards, sequence)
            ):
                yield f"--nproc {cards}" + (f" --sequence-parallel {sequence}" if sequence > 1 else "")
                break
        adapters = replace(lean, rank=work.rank or 32, adapted=work.adapted or adapted_channels(shape))
        frozen = replace(adapters, rank=32, frozen=WeightStorage.INT8, offload=True)
        if fits(frozen, machine, 1, 1):
            yield "the recipe finetune_lora_24gb on one card"
    for card in sorted(CARDS, key=lambda each: each.memory):
        if card.memory * GIB > machine.memory and fits(
            work, named_machine(card.name, None), needs.cards, needs.sequence
        ):
            yield f'--card "{card.name}"'
            break


_LAYOUTS = tuple((cards, sequence) for cards in (2, 4, 8, 16, 32, 64) for sequence in (1, 2, 4, 8) if sequence <= cards)


def adapted_channels(shape: TransformerShape, ends: tuple[str, ...] = PUBLISHED_LAYERS) -> int:
    """Inputs and outputs, added up, of a block's layers whose names end so."""
    wanted = tuple(f".{end}.weight" for end in ends)
    return sum(sum(sizes) for name, sizes in block_shapes(shape).items() if f".{name}".endswith(wanted))
