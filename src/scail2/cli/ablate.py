"""`scail2 ablate`: the published ablations at small scale, from a plan to one table."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from scail2.data.ablations import Ablation, Arm
    from scail2.evaluation.ablations import AblationResult, ArmClip
    from scail2.execution.tasks import Watch
    from scail2.training.ablations import Experiment

_SHOWN = 2  # clips of each task that are put side by side


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("ablate")(ablate)


def ablate(
    plan: Annotated[Path, typer.Argument(help="TOML file: which ablations, seeds, and at what scale.")],
    out: Annotated[Path, typer.Option(help="Folder of the experiment: caches, runs, measures, table, pictures.")],
    page: Annotated[
        Path | None, typer.Option(help="Page that the table is written into, between its two markers.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 uses every core.")] = 0,
) -> None:
    """Train every arm of the plan with every seed, measure all on the same held-out puppets, and write one table.

    Interrupt it when you like and run the same command again: what is done stays, a training goes on from its last checkpoint.
    More ablations and seeds may be added to the plan later.
    """
    from scail2.cli.options import must_exist, need
    from scail2.cli.terminal import Terminal

    need("skia", "data", "drawing puppets")
    need("matplotlib", "plot", "the plot of the table")
    must_exist(page, "--page")
    from scail2.data.ablations import AblationPlan
    from scail2.evaluation.ablation_report import around_table, write_page, write_results
    from scail2.files.ownership import claimed_folder
    from scail2.request.paths import refuse_overwriting
    from scail2.training.ablations import EXPERIMENTS, Experiment

    if page is not None:
        around_table(page)  # now, not hours later
    chosen = AblationPlan.load(plan)
    refuse_overwriting([out], [("plan", plan)])
    console = Terminal()
    with claimed_folder(out, EXPERIMENTS) as folder:
        experiment = Experiment(chosen, folder)
        experiment.claim()
        _prepare(experiment, workers or os.cpu_count() or 1, console)
        _work(experiment, workers or os.cpu_count() or 1, console)
        results = [_result(experiment, each) for each in chosen.chosen]
        table = write_results(results, _facts(experiment), folder)
        for each in chosen.chosen:
            _picture(experiment, each)
        if page is not None:
            write_page(page, table)
    for result in results:
        console.say(
            f"{result.ablation.name}: {result.ablation.measure} {result.published:.3f} as published, {result.without:.3f} "
            f"without, {result.difference.told(3)}: {result.verdict}"
        )
    console.say(f"table, plot and pictures: {out}")


def _prepare(experiment: "Experiment", workers: int, console: Any) -> None:
    """The start, every cache, and the one pre-training."""
    import torch

    from scail2.cli.libraries import quiet_process
    from scail2.execution.crew import Crew

    experiment.make_start()
    caches = dict.fromkeys(experiment.latents(arm) for arm in (None, *experiment.plan.arms))
    for arm in (None, *experiment.plan.arms):
        if experiment.latents(arm) in caches:
            del caches[experiment.latents(arm)]
            experiment.cache(arm, workers=Crew(workers=workers, start=quiet_process))
            console.say(f"samples: {experiment.latents(arm).name}")
    threads = torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        experiment.train(None)
    finally:
        torch.set_num_threads(threads)
    console.say("pre-training done")


def _work(experiment: "Experiment", workers: int, console: Any) -> None:
    """Trains and measures every arm and seed, those first that others follow."""
    from scail2.cli.libraries import quiet_process
    from scail2.data.ablations import Stage
    from scail2.execution.crew import Crew, run_for_rank
    from scail2.execution.tasks import Message, Outcome, Settled

    crew = Crew(workers=workers, start=quiet_process)
    for first in (True, False):
        jobs = [(arm, seed) for seed in experiment.plan.seeds for arm in experiment.plan.arms]
        tasks = _ArmTasks(experiment, tuple(job for job in jobs if (job[0].stage is Stage.PAIRS) is first))

        def tell(message: Message, jobs: tuple[tuple["Arm", int], ...] = tasks.jobs) -> None:
            if isinstance(message, Settled) and message.outcome is Outcome.MADE:
                arm, seed = jobs[message.number]
                console.say(f"trained and measured: {arm.name}, seed {seed}")

        run_for_rank(tasks, range(len(tasks.jobs)), crew, tell)


@dataclass(frozen=True)
class _ArmTasks:
    """Arms and seeds as work for a crew: each leaves the measures of a trained arm."""

    experiment: "Experiment"
    jobs: tuple[tuple["Arm", int], ...]

    def prepare(self) -> None:
        import torch

        torch.set_num_threads(1)

    def place(self, number: int) -> Path:
        return self.experiment.measures(*self.jobs[number])

    def is_done(self, number: int) -> bool:
        return _is_measured(self.experiment, *self.jobs[number])

    def perform(self, number: int, watch: "Watch") -> None:
        from scail2.errors import InputError

        arm, seed = self.jobs[number]
        name = f"{arm.name}, seed {seed}"
        if (reason := watch.begin(name)) is not None:
            raise InputError(f"The training of {name} cannot go on: {reason}")
        _train_and_measure(self.experiment, arm, seed)
        watch.end(name)


def _train_and_measure(experiment: "Experiment", arm: "Arm", seed: int) -> None:
    import json

    from scail2.evaluation.ablations import measure_arm
    from scail2.files.staging import atomic_file

    experiment.train(arm, seed)
    clips = list(measure_arm(experiment.pipeline(arm, seed), experiment.plan, arm))
    rows = [
        {
            "name": clip.name,
            "task": clip.task,
            "measures": {n: None if v != v else v for n, v in clip.measures.items()},
        }
        for clip in clips
    ]
    with atomic_file(experiment.measures(arm, seed)) as file:
        file.write((json.dumps(rows, indent=1) + "\n").encode())


def _measured(experiment: "Experiment", arm: "Arm", seed: int) -> list["ArmClip"]:
    """An arm's measured clips; none where it was not measured."""
    from scail2.evaluation.ablations import ArmClip, StoredClip
    from scail2.files.documents import load_json

    path = experiment.measures(arm, seed)
    stored = load_json(path, list[StoredClip]) if path.is_file() else []
    nan = float("nan")
    return [
        ArmClip(row.name, row.task, {n: nan if value is None else value for n, value in row.measures.items()})
        for row in stored
    ]


def _is_measured(experiment: "Experiment", arm: "Arm", seed: int) -> bool:
    """Whether an arm was measured in every task that the plan asks of it now."""
    return {clip.task for clip in _measured(experiment, arm, seed)} >= set(experiment.plan.tasks_of(arm))


def _result(experiment: "Experiment", ablation: "Ablation") -> "AblationResult":
    from scail2.evaluation.ablations import compare

    sides = [
        [_measured(experiment, arm, seed) for seed in experiment.plan.seeds]
        for arm in (ablation.published, ablation.without)
    ]
    return compare(ablation, *sides)


def _facts(experiment: "Experiment") -> dict[str, Any]:
    plan = experiment.plan
    world, training = plan.world, plan.training
    return {
        "seeds": ", ".join(map(str, plan.seeds)),
        "network": f"{experiment.parameters():,} parameters",
        "puppets": f"{world.frames} frames of {world.size}x{world.size}, {world.clips} held-out clips of each task",
        "pre-training": f"{plan.pretraining.steps} steps of {plan.pretraining.batch_size}",
        "each arm": f"{training.steps} steps of {training.batch_size}, {world.samples} cached samples",
        "preference arms": f"{plan.preferences.steps} steps of {plan.preferences.batch_size} pairs",
        "training, hours of one core": f"{experiment.core_hours():.2f}",
    }


def _picture(experiment: "Experiment", ablation: "Ablation") -> None:
    """`pictures/NAME.png`: the first clips of each task, a row as published and below it a row without."""
    from PIL import Image

    from scail2.data.contact_sheet import contact_sheet
    from scail2.evaluation.ablations import shown_rows
    from scail2.files.staging import atomic_file

    path = experiment.folder / "pictures" / f"{ablation.name}.png"
    seed = experiment.plan.seeds[0]
    arms = [(arm, experiment.pipeline(arm, seed)) for arm in (ablation.published, ablation.without)]
    sides = [shown_rows(pipe, experiment.plan, arm, ablation.tasks, _SHOWN) for arm, pipe in arms]
    rows = [row for pair in zip(*sides, strict=True) for row in pair]
    with atomic_file(path) as file:
        Image.fromarray(contact_sheet(rows)).save(file, format="PNG")
