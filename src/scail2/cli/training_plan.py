"""`scail2 train … --plan`: memory of a card, time of a step and cost of a recipe, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scail2.budget.machines import GIB, Machine, told_within
from scail2.budget.operations import SequenceShape
from scail2.budget.shapes import AutoencoderShape, ModelShape, TransformerShape
from scail2.budget.training import Recomputation, TrainingNeeds, TrainingWork, adapted_channels, training_needs
from scail2.errors import InputError, short

if TYPE_CHECKING:
    from scail2.training.config import TrainConfig

# Published sizes: what is reckoned with where nothing was cached. One recipe is that of the larger one.
_USUAL, _LARGER = (81, 512, 896), (81, 704, 1280)
_AT_704P = ("finetune",)
# Preferences: the reference's errors of both videos and the rejected one's, then both videos with gradients.
_FORWARDS, _PASSES = 3, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Cards:
    """On what it is to be trained.

    Attributes:
        count: cards, one process each; ``sequence`` of them share each sample's tokens.
        card: by name; None with ``memory`` None for this machine.
        memory: GB of a card.
        price: of a card's hour, in whatever currency.
    """

    count: int = 1
    sequence: int = 1
    card: str | None = None
    memory: float | None = None
    price: float | None = None
    device: str | None = None

    def machine(self) -> Machine:
        """Of one card."""
        if self.card is not None or self.memory is not None:
            from scail2.cli.plan import other_machine

            found = other_machine(self.card, self.memory)
            assert found is not None
            return found
        from scail2.budget.calibration import measured_machine
        from scail2.devices import default_device, find_device

        return measured_machine(str(find_device(self.device or default_device())), Path.cwd(), 2)


def plan_training(config: TrainConfig, cards: Cards, size: str | None, *, as_json: bool) -> None:
    """Shows what a training takes; raises InputError where a card has no room for it, naming what would have."""
    from scail2.cli.terminal import write_json
    from scail2.loading.facts import size_step

    shape, autoencoder, usual, notes = _model(config)
    step_h, step_w = size_step(ModelShape(transformer=shape, autoencoder=autoencoder))
    clip, told = _clip(config, size, usual, (step_w, step_h, autoencoder.scale_factor_temporal))
    if cards.count % cards.sequence or shape.num_attention_heads % cards.sequence:
        raise InputError(
            f"{cards.sequence} cards cannot share sequences: the number must divide the {cards.count} cards and the model's "
            f"{shape.num_attention_heads} heads."
        )
    work = work_of(config, shape, autoencoder, clip)
    machine = cards.machine()
    needs = training_needs(shape, work, machine, cards.count, cards.sequence)
    if cards.count > 1:
        notes.append("what the cards send each other is not in the time")
    facts = {
        "recipe": config.name,
        "machine": machine.name,
        "memory_gib": round(machine.memory / GIB, 2),
        "steps": config.steps,
        "samples_a_step": config.data.batch_size * config.accumulation,
        "frames": clip[0],
        "height": clip[1],
        "width": clip[2],
        "size_from": told,
        "tokens": work.sequence.total,
        "within": machine.within,
        "needs": needs.to_json(),
        "cost": None if cards.price is None else round(needs.card_hours * cards.price, 2),
        "notes": notes,
    }
    if as_json:
        write_json(facts)
    else:
        _show(facts, needs, machine)
    from scail2.budget.training import refuse_training

    refuse_training(shape, work, machine, needs)


def work_of(
    config: TrainConfig, shape: TransformerShape, autoencoder: AutoencoderShape, clip: tuple[int, int, int]
) -> TrainingWork:
    """A recipe on clips of so many frames, height and width, in the words of the budget."""
    frames, height, width = clip
    sequence = SequenceShape.of(shape, autoencoder, (height, width), frames)
    cut, window = None, config.data.window
    if window is not None and (short_clip := (window - 1) * autoencoder.scale_factor_temporal + 1) < frames:
        cut = SequenceShape.of(shape, autoencoder, (height, width), short_clip)
    lora, frozen = config.lora, config.frozen
    again = Recomputation.FULL if config.gradient_checkpointing else Recomputation.NONE
    if config.gradient_checkpointing and getattr(config, "selective_checkpointing", False):
        again = Recomputation.SELECTIVE
    return TrainingWork(
        sequence=sequence,
        window=cut,
        whole_share=config.data.whole_share,
        steps=config.steps,
        samples=config.data.batch_size,
        accumulation=config.accumulation,
        rank=None if lora is None else lora.rank,
        adapted=0 if lora is None else adapted_channels(shape, lora.target_modules),
        frozen=None if frozen is None else frozen.storage,
        offload=frozen is not None and frozen.offload,
        token_chunk=4096 if frozen is None else frozen.token_chunk,
        recomputation=again,
        averaged=config.ema_decay > 0,
        forwards=_FORWARDS if config.preference is not None else 0,
        passes=_PASSES if config.preference is not None else 1,
        half=config.precision != "float32",
    )


Clip = tuple[int, int, int]  # frames, height, width


def _model(config: TrainConfig) -> tuple[TransformerShape, AutoencoderShape, Clip, list[str]]:
    """The networks' sizes, of the model's configurations, and its usual clip; the published 14B's where it is not here."""
    folder, usual = Path(config.model), _LARGER if config.name in _AT_704P else _USUAL
    if (folder / "model_index.json").is_file():
        from scail2.loading.facts import open_model

        found = open_model(folder)
        usual = (found.words["segment_frame_length"], found.words["native_height"], found.words["native_width"])
        return found.shape.transformer, found.shape.autoencoder, usual, []
    if (folder / "transformer" / "config.json").is_file():
        from scail2.checkpoints.model_folder import read_config
        from scail2.files.documents import decode

        place = folder / "transformer"
        shape = decode(read_config(place), TransformerShape, place / "config.json", unknown=True)
        return shape, AutoencoderShape(), usual, []
    return (
        TransformerShape(),
        AutoencoderShape(),
        usual,
        [f"{config.model} is not here: reckoned with the published 14B"],
    )


def _clip(config: TrainConfig, size: str | None, usual: Clip, steps: tuple[int, int, int]) -> tuple[Clip, str]:
    """Frames, height and width of a sample, and where they are from."""
    if size is not None:
        numbers = size.lower().split("x")
        if len(numbers) != 3 or not all(each.isdecimal() and 0 < int(each) <= 8192 for each in numbers):
            raise InputError(f"--size is {short(size)}; it must be WIDTHxHEIGHTxFRAMES, such as 896x512x81.")
        width, height, frames = map(int, numbers)
        _refuse_size((width, height, frames), steps)
        return (frames, height, width), "as asked"
    shards = Path(config.data.shards)
    if shards.is_dir():
        from scail2.data.dataset import LatentDataset

        # Caches of early versions do not say how large their samples are.
        shapes = [shape for _, shape, _ in LatentDataset(shards).buckets if all(shape)]
        if shapes:
            return max(shapes, key=lambda each: each[0] * each[1] * each[2]), f"the largest sample in {shards}"
    return usual, f"assumed: nothing is cached in {shards}"


def _refuse_size(clip: tuple[int, int, int], steps: tuple[int, int, int]) -> None:
    """Raises InputError where width, height or frames (but for the first) are no multiples of the model's steps."""
    width, height, frames = clip
    step_w, step_h, step_t = steps
    near = (max(1, round(width / step_w)) * step_w, max(1, round(height / step_h)) * step_h)
    count = round((frames - 1) / step_t) * step_t + 1
    if (*near, count) != clip:
        raise InputError(
            f"--size is {width}x{height}x{frames} (width x height x frames), but the model's steps are {step_w}, {step_h} and "
            f"{step_t}n+1; the nearest is {near[0]}x{near[1]}x{count}."
        )


def _show(facts: dict[str, Any], needs: TrainingNeeds, machine: Machine) -> None:
    from rich.table import Table
    from rich.text import Text

    from scail2.cli.progress import duration
    from scail2.cli.terminal import Terminal, visible

    parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in needs.device_bytes.items() if value >= 0.05 * GIB)
    shared = f", {needs.sequence} sharing each sample" if needs.sequence > 1 else ""
    within, cost = told_within(machine.within), facts["cost"]
    rows = [
        ("recipe", f"{facts['recipe']}: {facts['steps']} steps of {facts['samples_a_step']} samples"),
        (
            "sample",
            f"{facts['width']}x{facts['height']}, {facts['frames']} frames ({facts['size_from']}): {facts['tokens']} tokens",
        ),
        ("on", f"{needs.cards} x {machine.name}{shared}"),
        ("needs", f"{needs.peak / GIB:.1f} of {machine.memory / GIB:.1f} GB of each: {parts or 'less than 0.1 GB'}"),
        (
            "beside",
            f"{needs.main_bytes / GIB:.0f} GB of main memory a process, {needs.disk_bytes / GIB:.1f} GB a checkpoint",
        ),
        (
            "time",
            f"{duration(needs.step_seconds)} a step, {duration(needs.step_seconds * needs.steps)} in all{within}; "
            f"{needs.card_hours:.1f} hours of a card" + ("" if cost is None else f", which cost {cost:.2f}"),
        ),
        *(("note", each) for each in facts["notes"]),
    ]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(visible(value)))
    Terminal().print(table)
