"""`scail2 train`: run a training recipe over cached latents."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scail2.cli.terminal import say, show_log
from scail2.errors import InputError

if TYPE_CHECKING:
    from scail2.training.job import TrainingJob


class Checkpointing(StrEnum):
    """What of the forward pass is not kept but computed again."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("train")(train)


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Recipe: nano, nano_finish, nano_continue, nano_lora, nano_dpo, finetune, finetune_512p, finetune_lora, "
            "finetune_lora_24gb, stage1 or dpo."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, log and the exported transformer.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder of cached latent shards (default: the recipe's).")] = None,
    model: Annotated[str | None, typer.Option(help="Diffusers folder to start from (default: the recipe's).")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH[:X]",
            help="LoRA file that becomes part of the model's weights before the training; repeatable.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples in a micro-batch.")] = None,
    rate: Annotated[
        float,
        typer.Option(min=1e-6, max=1e6, help="Multiply the recipe's learning rates; below 1 to disturb weights less."),
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random draw.")] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Begin with the weights and optimiser of another run's folder or checkpoint.")
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    sheets: Annotated[
        int | None, typer.Option(min=0, help="Steps between contact sheets in OUTPUT/samples; 0: none.")
    ] = None,
    sheet_data: Annotated[
        str | None, typer.Option(help="Folder of cached latents the sheets show (default: the training data).")
    ] = None,
    change: Annotated[
        bool, typer.Option("--change", help="Go on in OUTPUT with another seed, rate, data or model than before.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Device, for example cuda:1 or mps (default: the GPU, else the CPU).")
    ] = None,
    nproc: Annotated[
        int,
        typer.Option(min=1, help="Processes of this machine that train together, one on each GPU; cards of --plan."),
    ] = 1,
    sequence_parallel: Annotated[
        int,
        typer.Option(
            min=1, help="So many of the processes share each sequence of tokens; divides --nproc and the heads."
        ),
    ] = 1,
    checkpointing: Annotated[
        Checkpointing | None,
        typer.Option(
            help="What the backward pass computes again: nothing, all but attention, or all (default: the recipe's)."
        ),
    ] = None,
    compile_blocks: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Compile the blocks.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it takes of each card, how long and at what cost; train nothing.")
    ] = False,
    card: Annotated[str | None, typer.Option(metavar="NAME", help='--plan for cards such as "H100".')] = None,
    memory: Annotated[float | None, typer.Option(metavar="GB", help="--plan for cards with so much memory.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="--plan: price of a card for an hour.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxHxFRAMES", help="--plan for samples of that size, not those of --data.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="--plan: as JSON on stdout.")] = False,
) -> None:
    """Train; run the same command again to resume. Ctrl-C ends after the step, with a checkpoint."""
    from scail2.checkpoints.model_folder import check_model
    from scail2.cli.options import must_exist

    check_model(model)
    must_exist(data, "--data")
    must_exist(start_from, "--start-from")
    from scail2.training.job import TrainingJob
    from scail2.training.recipes import recipe as find_recipe
    from scail2.training.recipes import with_overrides

    config = with_overrides(
        find_recipe(recipe),
        shards=data,
        model=model,
        fused=tuple(_with_whole_path(each) for each in lora) if lora else None,
        steps=steps,
        batch_size=batch_size,
        rate=rate,
        seed=seed,
        checkpoint_every=checkpoint_every,
        compile_blocks=compile_blocks,
        gradient_checkpointing=None if checkpointing is None else checkpointing != Checkpointing.NONE,
        selective_checkpointing=None if checkpointing is None else checkpointing == Checkpointing.SELECTIVE,
        sheets_every=sheets,
        sheets_shards=sheet_data,
    )
    if plan:
        from scail2.cli.training_plan import Cards, plan_training

        cards = Cards(count=nproc, sequence=sequence_parallel, card=card, memory=memory, price=price, device=device)
        plan_training(config, cards, size, as_json=as_json)
        return
    if output is None:
        raise InputError(
            "A training needs a folder for its checkpoints: give --output, or --plan to see what it would take."
        )
    job = TrainingJob(config=config, output=output, start_from=start_from, device=device, change=change)
    _train_as_asked(job, nproc, sequence_parallel)


def _train_as_asked(job: "TrainingJob", nproc: int, sequence: int) -> None:
    """By this process, by others that are started for it, or as one of torchrun's."""
    from scail2.training.distributed.layout import Layout, Place, check_machine, device_kind
    from scail2.training.job import carry_out

    place = Place.in_environment()
    begin_rank(0 if place is None else place.rank)
    if place is None and nproc == sequence == 1:
        from scail2.training.parallel import ParallelContext

        carry_out(job, ParallelContext.detect(job.device), say)
        return
    layout = Layout(nproc if place is None else place.processes, sequence)
    layout.check(job.config)
    if place is not None:
        from scail2.training.distributed.rank import train_as_one_of

        if nproc not in (1, place.processes):
            raise InputError(f"torchrun has started {place.processes} processes: leave --nproc {nproc} away.")
        train_as_one_of(job, layout, place, say)
        return
    from scail2.training.distributed.launch import launch

    check_machine(nproc, device_kind(job.device))
    launch(job, layout, begin_rank, "scail2.cli.preloaded")


def begin_rank(rank: int) -> None:
    """A training process's log: one of them writes what all would, the others what goes wrong."""
    show_log(logging.INFO if rank == 0 else logging.ERROR, "%(asctime)s %(message)s")


def _with_whole_path(lora: str) -> str:
    """PATH[:X] as it is understood from any folder, for a run's records."""
    from scail2.loading.places import parse_lora

    path, strength = parse_lora(lora)
    return f"{Path(path).resolve()}:{strength:g}"
