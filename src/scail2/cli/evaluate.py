"""`scail2 evaluate`: how good a checkpoint is on puppets it has never seen."""

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

# A sheet with more rows is not looked at; clips beyond these are measured and forgotten.
_SHEET_ROWS = 12


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("evaluate")(evaluate)


def evaluate(
    context: typer.Context,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHECKPOINT]",
            help="Pipeline folder or file (default: the embedded one); with --protocol studio-bench your folder of clips.",
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="puppets, or studio-bench: your own clips, each driven by itself.")
    ] = "puppets",
    model: Annotated[str | None, typer.Option(help="studio-bench: the model, as for animate.")] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="PATH[:X]", help="LoRA file to fuse into the model; repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="test, holdout, validation or train.")] = "test",
    salt: Annotated[str, typer.Option(help="Draws another, disjoint world of the same split.")] = "",
    clips: Annotated[int, typer.Option(min=1, help="Clips of each task.")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all measures here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for contact sheets, plot and report.json.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks (may be repeated).")] = None,
    frames: Annotated[
        int | None, typer.Option(min=5, help="Frames per clip, puppets' 4k+1 (default: 17; own clips whole).")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels, one number or HEIGHTxWIDTH (default: 128; own clips by the model).")
    ] = None,
    domain: Annotated[str, typer.Option(help="Which puppets: nano, nano-animals, nano-robots or full.")] = "nano",
    preset: Annotated[str | None, typer.Option(help="Sampling preset (default: the checkpoint's).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps, instead of the preset's.")] = None,
    variant: Annotated[str, typer.Option(help="Recipe whose switches the inputs follow, e.g. nano+no_slots.")] = "nano",
    seed: Annotated[int, typer.Option(min=0, help="Noise of clip n comes from seed + n.")] = 0,
    lpips: Annotated[
        Path | None,
        typer.Option(
            help="Weights of LPIPS, or the network as TorchScript (a program, which is run), adds that measure."
        ),
    ] = None,
    video_features: Annotated[
        Path | None, typer.Option(help="TorchScript video features (I3D; a program, which is run), adds FVD.")
    ] = None,
    timed: Annotated[bool, typer.Option("--timed", help="Write wall-clock times into the JSON, too.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … (default: the best there is).")] = None,
) -> None:
    """Evaluate a checkpoint on held-out puppets: table, plot, contact sheets and JSON, copying baselines beside it.

    With --protocol studio-bench on your own clips, each driven by itself: SSIM, PSNR, and LPIPS and FVD with your networks.
    """
    from scail2.cli.options import need, parse_size
    from scail2.cli.progress import counted_progress
    from scail2.cli.terminal import Terminal

    if protocol == "studio-bench":
        settings: dict[str, Any] = {"preset": preset, "num_inference_steps": steps, "device": device, "frames": frames}
        settings |= {"seed": seed, "lora": tuple(lora) if lora else None}
        _refuse_options_of_puppets(context)
        studio_bench(checkpoint, out, json_file, model, size, (lpips, video_features), settings)
        return
    _check_protocol(protocol, model)
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
    shape = parse_size(size or "128")
    inputs = _inputs(checkpoint, lpips, video_features, lora or [])
    shown: dict[EvaluationTask, list[MeasuredClip]] = {task: [] for task in tasks}
    done = itertools.count(1)
    with claimed_outputs(json_file, out, inputs, timed=timed) as outputs:
        pipe = _load(checkpoint, device, lora or [])
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
                frames=frames or 17,
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


def _inputs(
    checkpoint: str | None, lpips: Path | None, features: Path | None, loras: list[str]
) -> list[tuple[str, Path]]:
    """Everything that is read, named for messages."""
    from scail2.loading.places import parse_lora

    given = [("checkpoint", checkpoint), ("LPIPS", lpips), ("video feature", features)]
    found = [(name, Path(path)) for name, path in given if path is not None]
    return found + [("LoRA", parse_lora(each)[0]) for each in loras]


def _refuse_options_of_puppets(context: typer.Context) -> None:
    """Options that mean nothing for one's own clips are refused, not passed over."""
    for name in ("split", "salt", "clips", "task", "domain", "variant", "timed"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter("it belongs to --protocol puppets.", param_hint=f"--{name}")


def _check_protocol(protocol: str, model: str | None) -> None:
    if protocol != "puppets":
        raise typer.BadParameter(f"{protocol} is no protocol: puppets or studio-bench.", param_hint="--protocol")
    if model is not None:
        told = "it belongs to --protocol studio-bench; name the checkpoint without it."
        raise typer.BadParameter(told, param_hint="--model")


def studio_bench(
    clips: str | None,
    out: Path | None,
    json_file: Path | None,
    model: str | None,
    size: str | None,
    networks: tuple[Path | None, Path | None],
    settings: dict[str, Any],
) -> None:
    """Renders and measures the clips of a folder; OUT keeps runs and films, and the command goes on where it was stopped."""
    from scail2.checkpoints.model_folder import check_model
    from scail2.cli.options import parse_size
    from scail2.cli.terminal import Terminal
    from scail2.errors import InputError

    if clips is None or out is None:
        raise InputError(
            "Name your folder of clips and where the films go: scail2 evaluate --protocol studio-bench CLIPS --out FOLDER."
        )
    check_model(model)
    from scail2.evaluation.networks import GivenNetworks
    from scail2.evaluation.own_clips import BENCHES, MEASURES, REPORT, find_clips, run_bench, write_measures
    from scail2.files.ownership import check_file, claimed_folder
    from scail2.request.paths import refuse_overwriting

    found = find_clips(Path(clips))
    chosen = {name: value for name, value in settings.items() if value is not None}
    if model is not None:
        chosen["model"] = model
    if size is not None:
        chosen["height"], chosen["width"] = parse_size(size)
    inputs = [("clips", Path(clips)), *(("network", path) for path in networks if path is not None)]
    refuse_overwriting([path for path in (out, json_file) if path is not None], inputs)
    if json_file is not None:
        check_file(json_file, MEASURES)
    given = GivenNetworks.load(*networks)
    console = Terminal()
    with claimed_folder(out, BENCHES) as folder:
        report = run_bench(
            found,
            folder,
            networks=given,
            observe=lambda score: console.say(f"{score.name}: PSNR {score.measures['psnr']:.2f} dB"),
            **chosen,
        )
        report.write(folder / REPORT)
    if json_file is not None:
        write_measures(report, json_file)
    console.print(report.table())
    console.say(f"films, runs and {REPORT}: {out}")


def _load(checkpoint: str | None, device: str | None, loras: list[str]):
    """The pipeline to be measured; the embedded one in one number format on every CPU, so that measures are compared."""
    import torch

    from scail2.checkpoints.loading_bars import no_loading_bars
    from scail2.devices import default_device, find_device
    from scail2.loading.by_name import load_pipeline

    place = find_device(device or default_device())
    dtype = torch.float32 if checkpoint is None and place.type == "cpu" else None
    with no_loading_bars():
        pipe = load_pipeline(checkpoint, device=place, dtype=dtype, loras=loras)
    pipe.set_progress_bar_config(disable=True)  # one bar for all clips, not one a clip
    return pipe


def _task(name: str):
    from scail2.errors import InputError
    from scail2.evaluation.clips import EvaluationTask

    try:
        return EvaluationTask(name)
    except ValueError:
        raise InputError(f"unknown task {name!r}: choose from {', '.join(EvaluationTask)}") from None
