"""A training as the command line asks for it: from a configuration to an exported folder, by one process or one of several."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scail2.errors import InputError
from scail2.training.config import TrainConfig

if TYPE_CHECKING:
    from scail2.training.parallel import ParallelContext


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """What is trained, where to, and from where; the fields are `build_trainer`'s. It can be sent to other processes."""

    config: TrainConfig
    output: Path
    start_from: Path | None = None
    device: str | None = None
    change: bool = False


def carry_out(job: TrainingJob, context: "ParallelContext", say: Callable[[str], None]) -> None:
    """Trains, and exports what was trained.

    Args:
        context: a `ParallelContext`; of several processes only the one that speaks exports and says anything.
        say: told what begins and what came of it, a line each.
    """
    from scail2.training.session import build_trainer, count_parameters, export_transformer

    config = job.config
    if not Path(config.data.shards).exists():  # before a folder is made
        raise InputError(
            f"There are no samples at {config.data.shards}: make them with `scail2 cache` or `scail2 preferences` and "
            "`scail2 cache`, or name those that are there with --data."
        )
    with context.folder(job.output, config, job.start_from) as folder:
        trainer = build_trainer(config, folder, start_from=job.start_from, change=job.change, context=context)
        if context.speaks:
            trained, total = count_parameters(trainer.transformer)
            say(f"{config.name}: training {trained:,} of {total:,} parameters on {context.told}")
        checkpoint = trainer.run()
        step = trainer.step
        del trainer  # its memory is the export's
        if context.speaks:
            exported = export_transformer(config, folder, folder / ("adapter" if config.lora else "transformer"))
            say(f"step {step}: checkpoint {checkpoint}, averaged weights {exported}")
