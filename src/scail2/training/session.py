"""From a recipe's configuration to a running trainer, and from its checkpoint back to a pipeline folder."""

import logging
import re
from pathlib import Path

import torch
from torch import nn

from scail2.checkpoints.lora import apply_loras
from scail2.checkpoints.lora_export import write_lora
from scail2.checkpoints.model_folder import forget_origin
from scail2.checkpoints.transformer_files import unrounded_weights
from scail2.data.dataset import LatentDataset
from scail2.errors import InputError
from scail2.loading.components import load_autoencoder
from scail2.loading.places import parse_lora
from scail2.models.component_folders import load_component_folder
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.training.config import LoRAConfig, TrainConfig
from scail2.training.frozen import keep_frozen
from scail2.training.latent_batches import LatentBatches
from scail2.training.objectives.dpo import PreferenceObjective
from scail2.training.objectives.supervised import FlowMatchingObjective, Objective
from scail2.training.parallel import ParallelContext
from scail2.training.recomputation import checkpoint_blocks
from scail2.training.run_folder import exported_folder, refuse_change, training_folder
from scail2.training.sheets import ContactSheets
from scail2.training.state import is_state, latest_state, load_weights, state_step
from scail2.training.trainer import Trainer

logger = logging.getLogger(__name__)


def load_trainable(config: TrainConfig) -> SCAIL2Transformer3DModel:
    """The transformer of ``config.model``, LoRAs fused as asked, with adapters when the recipe wants them.

    In fp32, or as ``config.frozen`` says.
    """
    check_frozen(config)
    folder = Path(config.model) / "transformer"
    if not folder.is_dir():
        raise InputError(f"No transformer in {config.model}; give a diffusers folder with --model.")
    transformer = load_component_folder(SCAIL2Transformer3DModel, folder, torch_dtype=_weights_dtype(config))
    if config.fused:
        fused = [parse_lora(each) for each in config.fused]
        apply_loras(transformer, fused, reversible=False, unrounded=unrounded_weights(folder, transformer.dtype))
    if config.lora is not None:
        from peft import LoraConfig

        transformer.requires_grad_(False)
        adapter = LoraConfig(
            r=config.lora.rank,
            lora_alpha=_alpha(config.lora),
            target_modules=_in_blocks(config.lora.target_modules),
            init_lora_weights="gaussian",
        )
        torch.manual_seed(config.seed)
        transformer.add_adapter(adapter)
        finish_adapters(transformer)
    if config.frozen is not None:
        keep_frozen(transformer, config.frozen)
    if config.gradient_checkpointing:
        checkpoint_blocks(transformer, keep_attention=config.selective_checkpointing)
    return transformer


def finish_adapters(transformer: nn.Module) -> None:
    """Adapters are fp32, whatever they sit on, and take their inputs as they come: autocast brings both into one type."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in transformer.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.cast_input_dtype_enabled = False  # which would keep every input a second time, in fp32
    for adapter in (each for each in transformer.parameters() if each.requires_grad):
        adapter.data = adapter.data.float()


def check_frozen(config: TrainConfig) -> None:
    """Raises `InputError` where weights could not be kept as ``config.frozen`` says."""
    if config.frozen is None:
        return
    if config.lora is None:
        raise InputError("The recipe keeps weights frozen but trains no adapters: give it a LoRAConfig.")
    if config.gradient_checkpointing or config.compile_blocks:
        raise InputError(
            "A recipe with frozen weights fetches and recomputes its blocks itself: no checkpointing, no --compile."
        )


def _weights_dtype(config: TrainConfig) -> torch.dtype:
    return torch.float32 if config.frozen is None else config.frozen.precision.torch_dtype


def _alpha(lora: LoRAConfig) -> float:
    return lora.rank if lora.alpha is None else lora.alpha


def _in_blocks(ends: tuple[str, ...]) -> str:
    """peft's pattern for modules of the blocks whose names end so: elsewhere there are layers of the same names."""
    return rf"blocks\.\d+\.(?:.*\.)?(?:{'|'.join(re.escape(end) for end in ends)})"


def build_trainer(
    config: TrainConfig,
    directory: Path,
    *,
    start_from: Path | None = None,
    device: str | None = None,
    change: bool = False,
    context: ParallelContext | None = None,
) -> Trainer:
    """Assembles a trainer over cached latents.

    Args:
        config: the run.
        directory: its folder; a newer checkpoint there wins over ``start_from``.
        start_from: another run's folder or checkpoint whose weights, averages and optimiser moments begin this run.
        device: where to train; None takes `default_device`.
        change: whether a run that has checkpoints may go on with other settings, data or model than it had.
        context: the processes that train together; None is this one, on ``device``.

    Raises:
        InputError: this machine has no such device, data or checkpoint do not fit, or the run would be changed unasked.
    """
    config.check()
    if not change:
        refuse_change(directory, config)
    context = context or ParallelContext.detect(device)
    if config.frozen is not None and context.world_size > 1:
        raise InputError(
            f"The recipe {config.name} is for one card; several share the weights by themselves: finetune_lora."
        )
    stride = context.share(config.accumulation, config.data.batch_size).stride
    batches = LatentBatches(LatentDataset(config.data.shards), config.data, config.seed, stride=stride)
    if context.speaks:
        batches.tell_of_empty_captions()
    with context.in_turn():
        transformer = load_trainable(config)
        objective = _objective(config, transformer, batches, context)
        sheets = contact_sheets(config, batches.dataset, transformer)
        if config.compile_blocks:  # now, since sharding makes other classes of the blocks
            transformer.compile_repeated_blocks()
        trainer = Trainer(config, objective, transformer, batches, directory, context=context, sheets=sheets)
    if start_from is not None and latest_state(directory / "checkpoints") is None:
        trainer.start_from(_checkpoint_of(start_from))
    return trainer


def _objective(
    config: TrainConfig, transformer: nn.Module, batches: LatentBatches, context: ParallelContext
) -> Objective:
    torch.manual_seed(config.seed)
    if config.preference is not None:
        return PreferenceObjective(transformer, config, batches.empty_prompt)
    return FlowMatchingObjective(transformer, config, batches.part_channels, batches.empty_prompt, context.whole_tokens)


def contact_sheets(
    config: TrainConfig, training: LatentDataset, transformer: SCAIL2Transformer3DModel
) -> ContactSheets | None:
    """What draws the run's contact sheets; None where the recipe wants none.

    Raises:
        InputError: the model has no autoencoder, or the samples to show were not cached for this model.
    """
    if config.sheets.every <= 0:
        return None
    folder = Path(config.model) / "vae"
    if not folder.is_dir():
        raise InputError(
            f"No autoencoder in {folder}, which contact sheets need; complete the model, or pass --sheets 0."
        )
    dataset = training if config.sheets.shards is None else LatentDataset(config.sheets.shards)
    sheets = ContactSheets(load_autoencoder(folder), dataset, config.sheets)
    channels, halved = transformer.config.out_channels, transformer.config.driving_downsample
    for latents in (sample.latents for sample in sheets.samples):
        _, found, _, height, width = latents.target.shape
        if found != channels or latents.driving.shape[-2:] != (height // halved, width // halved):
            raise InputError(
                f"The samples for contact sheets do not fit the model: it takes {channels} latent channels and driving "
                f"videos at 1/{halved} size, {latents.keys[0]} has {found} channels and {tuple(latents.driving.shape[-2:])} "
                f"driving for {(height, width)} video latents; cache them for this model (--sheet-data), or pass --sheets 0."
            )
    return sheets


def export_transformer(config: TrainConfig, directory: Path, output: Path) -> Path:
    """Writes the averaged weights of a run's newest checkpoint as a diffusers transformer folder.

    Adapters become a folder with one LoRA file in the published names, which `--lora`, `load_lora_weights` and other programs
    read; the path of that file is returned, otherwise the folder's. An earlier export is replaced; anything else at ``output``
    moves to `superseded/` beside it.
    """
    transformer = load_trainable(config)
    checkpoint = latest_state(directory / "checkpoints")
    if checkpoint is None:
        raise InputError(f"{directory} holds no checkpoint yet; train first.")
    load_weights(checkpoint, transformer)
    _refuse_overflown(transformer, checkpoint)
    with exported_folder(output) as folder:
        if config.lora is None:
            transformer.save_pretrained(folder)
            forget_origin(folder)
        else:
            adapters = {name: p.detach() for name, p in transformer.named_parameters() if p.requires_grad}
            told = {"recipe": config.name, "steps": str(state_step(checkpoint)), "rank": str(config.lora.rank)}
            write_lora(folder / f"{config.name}.safetensors", adapters, alpha=_alpha(config.lora), metadata=told)
    return output if config.lora is None else output / f"{config.name}.safetensors"


def _refuse_overflown(transformer: nn.Module, checkpoint: Path) -> None:
    """Weights that are no numbers any more are no result."""
    wrong = [name for name, value in transformer.named_parameters() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise InputError(
            f"{checkpoint} holds {len(wrong)} tensors that are not finite ({wrong[0]} …): the training overflowed. Lower --rate, "
            "and begin anew or go on from an earlier checkpoint."
        )


def train_to_end(config: TrainConfig, output: Path, *, device: str | None = None) -> Path:
    """Trains in a folder of its own until all steps are done, unless they are, and exports; returns the export.

    Raises:
        KeyboardInterrupt: somebody stopped it; the folder has a checkpoint to go on from.
    """
    with training_folder(output, config) as place:
        exported = place / ("adapter" if config.lora else "transformer")
        state = latest_state(place / "checkpoints")
        if state is None or state_step(state) < config.steps:
            logger.info("training %s, seed %d", config.name, config.seed)
            trainer = build_trainer(config, place, device=device)
            trainer.run()
            if trainer.step < config.steps:
                raise KeyboardInterrupt
            export_transformer(config, place, exported)
        elif not exported.is_dir():
            export_transformer(config, place, exported)
        return exported


def _checkpoint_of(path: Path) -> Path:
    state = path if is_state(path) else latest_state(path / "checkpoints")
    if state is None:
        raise InputError(f"{path} holds no checkpoint to start from.")
    return state


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    kept_apart = getattr(module, "frozen_numbers", 0)
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes) + kept_apart
