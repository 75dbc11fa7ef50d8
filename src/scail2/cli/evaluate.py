"""`scail2 evaluate`: how good a checkpoint is on puppets it has never seen."""

import itertools
from pathlib import Path
from typing import Annotated

import typer

# A sheet with more rows is not looked at; clips beyond these are measured and forgotten.
_SHEET_ROWS = 12


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("evaluate")(evaluate)


def evaluate(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Pipeline folder or file (default: the embedded one).")
    ] = None,
    split: Annotated[str, typer.Option(help="test, holdout, validation or train.")] = "test",
    salt: Annotated[str, typer.Option(help="Draws another, disjoint world of the same split.")] = "",
    clips: Annotated[int, typer.Option(min=1, help="Clips of each task.")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all measures here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for contact sheets, plot and report.json.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks (may be repeated).")] = None,
    frames: Annotated[int, typer.Option(min=5, help="Frames per clip, 4k+1.")] = 17,
    size: Annotated[str, typer.Option(help="Pixels, one number or HEIGHTxWIDTH.")] = "128",
    domain: Annotated[str, typer.Option(help="How varied the puppets are: nano or full.")] = "nano",
    preset: Annotated[str | None, typer.Option(help="Sampling preset (default: the checkpoint's).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps, instead of the preset's.")] = None,
    variant: Annotated[str, typer.Option(help="Recipe whose switches the inputs follow, e.g. nano+no_slots.")] = "nano",
    seed: Annotated[int, typer.Option(min=0, help="Noise of clip n comes from seed + n.")] = 0,
    lpips: Annotated[
        Path | None, typer.Option(help="TorchScript LPIPS network (a program, which is run), adds that measure.")
    ] = None,
    video_features: Annotated[
        Path | None, typer.Option(help="TorchScript video features (I3D; a program, which is run), adds FVD.")
    ] = None,
    timed: Annotated[bool, typer.Option("--timed", help="Write wall-clock times into the JSON, too.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … (default: the best there is).")] = None,
) -> None:
    """Evaluate a checkpoint on held-out puppets: table, plot, contact sheets and JSON, copying baselines beside it."""
    from scail2.cli.options import need, parse_size
    from scail2.cli.progress import counted_progress
    from scail2.cli.terminal import Terminal

    need("skia", "data", "drawing the test clips")
    if out is not None:
        need("matplotlib", "plot", "the plot in --out")
    from scail2.checkpoints.model_folder import check_model

    check_model(checkpoint)
    from scail2.evaluation.clips import EvaluationTask
    from scail2.evaluation.networks import GivenNetworks
    from scail2.evaluation.outputs import claimed_outputs
    from scail2.evaluation.protocols import MeasuredClip, evaluate_pipeline

    console = Terminal()
    tasks = tuple(EvaluationTask) if not task else tuple(_task(name) for name in task)
    options = {name: value for name, value in (("preset", preset), ("num_inference_steps", steps)) if value is not None}
    networks = GivenNetworks.load(lpips, video_features)
    shape = parse_size(size)
    given = [("checkpoint", checkpoint), ("LPIPS", lpips), ("video feature", video_features)]
    inputs = [(name, Path(path)) for name, path in given if path is not None]
    shown: dict[EvaluationTask, list[MeasuredClip]] = {task: [] for task in tasks}
    done = itertools.count(1)
    with claimed_outputs(json_file, out, inputs, timed=timed) as outputs:
        pipe = _load(checkpoint, device)
        with counted_progress(console, "evaluating") as progress:

            def observe(measured: MeasuredClip) -> None:
                if len(shown[measured.task]) < _SHEET_ROWS:
                    shown[measured.task].append(measured)
                progress(next(done), clips * len(tasks))

            report = evaluate_pipeline(
                pipe,
                split,
                clips,
                salt=salt,
                tasks=tasks,
                domain=domain,
                frames=frames,
                size=shape,
                variant=variant,
                seed=seed,
                networks=networks,
                observe=observe,
                **options,
            )
        outputs.write(report, shown)
    console.print(report.table())
    if json_file is not None:
        console.say(f"measures: {json_file}")
    if out is not None:
        console.say(f"contact sheets, plot and report: {out}")


def _load(checkpoint: str | None, device: str | None):
    """The pipeline to be measured; the embedded one in one number format on every CPU, so that measures are compared."""
    import torch

    from scail2.checkpoints.loading_bars import no_loading_bars
    from scail2.devices import default_device, find_device
    from scail2.loading.by_name import load_pipeline

    place = find_device(device or default_device())
    dtype = torch.float32 if checkpoint is None and place.type == "cpu" else None
    with no_loading_bars():
        pipe = load_pipeline(checkpoint, device=place, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)  # one bar for all clips, not one a clip
    return pipe


def _task(name: str):
    from scail2.errors import InputError
    from scail2.evaluation.clips import EvaluationTask

    try:
        return EvaluationTask(name)
    except ValueError:
        raise InputError(f"unknown task {name!r}: choose from {', '.join(EvaluationTask)}") from None
