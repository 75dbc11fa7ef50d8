"""`scail2 calibrate`: how fast this machine is, measured once for every later plan."""

from typing import Annotated

import typer

HELP = """Calibrate: measure this machine (products, attention, copies, a block, tiles of the autoencoders) in under a minute.

`scail2 plan` reckons with what was measured from then on, and learns from every run. Measure while nothing else works.
"""


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("calibrate", help=HELP)(_verb)


def _verb(
    device: Annotated[str | None, typer.Option(help="What to measure: cpu, cuda, cuda:1 [default: as a run].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The rates as JSON on stdout.")] = False,
) -> None:
    from dataclasses import asdict

    from scail2.budget.calibration import Calibration, calibrations, keep
    from scail2.budget.machines import this_machine
    from scail2.budget.measuring import both_formats
    from scail2.cli.terminal import Terminal, write_json
    from scail2.devices import default_device, find_device
    from scail2.files.public.installed import model_folder

    place = find_device(device or default_device())
    name = this_machine(place.type, model_folder()).name
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
