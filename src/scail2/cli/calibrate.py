"""`scail2 calibrate`: how fast this machine is, measured once for every later plan; or how a model's blocks change."""

from typing import Annotated, Any

import typer

HELP = """Calibrate: measure this machine (products, attention, copies, a block, tiles of the autoencoders) in under a minute.

`scail2 plan` reckons with what was measured from then on, and learns from every run. Measure while nothing else works.

With --model, measure that model instead, for `--cache mag`: how large what its blocks add is at every noise level. One segment
of a bundled example is computed in as many steps as are asked for. It is kept on this machine and used from then on, before what
a model folder brings with it. (With --json > MODEL/magnitudes.json a model folder brings it with it.)
"""
_MODEL = "For --cache mag"


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("calibrate", help=HELP)(_verb)


def _verb(
    device: Annotated[str | None, typer.Option(help="What to measure: cpu, cuda, cuda:1 [default: as a run].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was measured as JSON on stdout.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Measure this model, not the machine.", rich_help_panel=_MODEL)
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="LoRA that will be fused, PATH[:STRENGTH].", rich_help_panel=_MODEL)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=2, max=1000, help="Noise levels to measure [default: 24].", rich_help_panel=_MODEL)
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH [default: the model's own].", rich_help_panel=_MODEL)
    ] = None,
) -> None:
    if model is None:
        _refuse_others(lora=lora, steps=steps, size=size)
        _measure_machine(device, as_json=as_json)
    else:
        _measure_model(model, lora or [], device, (steps or 24, size), as_json=as_json)


def _refuse_others(**given: object) -> None:
    from scail2.errors import InputError

    for name, value in given.items():
        if value:
            raise InputError(f"--{name} belongs to the measuring of a model: name it with --model.")


def _measure_machine(device: str | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    from scail2.budget.calibration import Calibration, calibrations, keep
    from scail2.budget.machines import this_machine
    from scail2.budget.measuring import both_formats
    from scail2.cli.terminal import Terminal, write_json
    from scail2.devices import default_device, find_device
    from scail2.files.public.installed import model_folder

    place = find_device(device or default_device())
    name = this_machine(str(place), model_folder()).name
    rates = both_formats(place, model_folder())
    # What runs have taught was taught about other rates.
    file = keep(name, Calibration(rates=rates))
    if as_json:
        write_json({"device": name, "rates": {kind: asdict(each) for kind, each in rates.items()}})
        return
    console = Terminal()
    console.say(f"{name}, measured for `scail2 plan` and kept in {file}:")
    for kind, each in rates.items():
        console.say(
            f"  {kind}: {each.matmul / 1e12:.3g} TFLOP/s in products, {each.attention / 1e12:.3g} in attention, "
            f"{each.convolution / 1e12:.3g} in convolutions; {each.bandwidth / 1e9:.3g} GB/s of memory, "
            f"{each.link / 1e9:.3g} GB/s to the device"
        )
    if others := sorted(calibrations().keys() - {name}):
        console.say(f"Also known: {', '.join(others)}.")


def _measure_model(
    model: str, loras: list[str], device: str | None, passes: tuple[int, str | None], *, as_json: bool
) -> None:
    from dataclasses import asdict

    from scail2.checkpoints.loading_bars import no_loading_bars
    from scail2.cli.options import parse_size
    from scail2.cli.terminal import Terminal, write_json
    from scail2.devices import default_device, find_device
    from scail2.loading.by_name import load_pipeline
    from scail2.loading.magnitudes import keep_magnitudes
    from scail2.loading.places import model_place, parse_lora
    from scail2.pipeline.magnitudes import measure_magnitudes
    from scail2.request.placement import PlacementKind

    steps, size = passes
    shape = None if size is None else parse_size(size)
    place, fused = model_place(model), [parse_lora(each) for each in loras]
    where = find_device(device or default_device())
    with no_loading_bars():
        pipe = load_pipeline(place, device=where, loras=fused, placement=PlacementKind.AUTO)
    found = measure_magnitudes(pipe, lambda: _example_segment(pipe, steps, shape))
    file = keep_magnitudes(place, fused, found)
    if as_json:
        write_json(asdict(found))
        return
    fall = 100 * (1 - found.ratios([found.timesteps[0], found.timesteps[-1]])[1])
    Terminal().say(
        f"{place.name}: what its blocks add falls by {fall:.0f} % from noise to picture; measured at {len(found.timesteps)} "
        f"noise levels for --cache mag and kept in {file}"
    )


def _example_segment(pipe: Any, steps: int, size: tuple[int, int] | None) -> None:
    """One segment of the bundled animation."""
    from importlib import resources

    import torch

    from scail2.video import VideoReader, read_image

    shape = size or (pipe.config.native_height, pipe.config.native_width)
    with resources.as_file(resources.files("scail2") / "assets" / "example" / "animation") as folder:
        segments = pipe.stream(
            read_image(folder / "reference.png"),
            VideoReader(folder / "driving.mp4", size=shape),
            read_image(folder / "reference_mask.png"),
            VideoReader(folder / "driving_mask.mkv"),
            mode="animation",
            prompt="",  # a model without text takes it for none
            num_inference_steps=steps,
            stop_segment=1,
            generator=torch.Generator("cpu").manual_seed(0),
        )
        for _ in segments:
            pass
