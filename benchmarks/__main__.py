"""One runner for everything that is measured.

    python -m benchmarks [NAME ...] [--shared] [--results FILE.json]

Without names all scenarios of this machine run. Each scenario's figures are printed and written as they come
(`benchmarks/results/`, one file a machine); one that fails is noted with its error and does not stop the rest.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import (
    forward,
    gpu,
    hardware,
    jobs,
    loading,
    memory,
    placements,
    precision,
    prediction,
    prices,
    service_load,
)
from benchmarks.results import Figure, Results


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """Something that can be measured: gives its figures one after the other."""

    name: str
    about: str
    measure: Callable[[], Iterator[Figure]]


SCENARIOS = {
    each.name: each
    for each in (
        Scenario(name="start-up", about="imports and loading", measure=jobs.start_up),
        Scenario(name="job-81", about="81 frames with the embedded model", measure=partial(jobs.whole_job, 81)),
        Scenario(name="job-400", about="400 frames with the embedded model", measure=partial(jobs.whole_job, 400)),
        Scenario(name="plan", about="planning 60 s of 1080p", measure=jobs.plan),
        Scenario(name="forward", about="one pass beside stock Wan", measure=forward.figures),
        Scenario(name="forward-bf16", about="the same in bfloat16", measure=partial(forward.figures, "bfloat16")),
        Scenario(name="memory", about="peak memory of long runs", measure=memory.figures),
        Scenario(name="loading", about="peak memory of loading a checkpoint", measure=loading.figures),
        Scenario(name="precision", about="half precision against float32", measure=precision.figures),
        Scenario(name="placements", about="each placement's bytes beside the prediction", measure=placements.figures),
        Scenario(name="prediction", about="runs beside what was predicted, calibrated", measure=prediction.figures),
        Scenario(name="prices", about="what each switch costs in quality and time", measure=prices.figures),
        Scenario(name="hardware", about="what the planner predicts of every card", measure=hardware.figures),
        Scenario(name="service-load", about="the service under fifty clients", measure=service_load.figures),
        Scenario(name="gpu", about="the 14B on random weights, or its toy on a CPU", measure=gpu.figures),
    )
}


def measure(scenario: Scenario, results: Results) -> bool:
    """Runs one scenario; whether it came to its end."""
    found: list[Figure] = []
    error = None
    print(f"{scenario.name}: {scenario.about}", flush=True)
    try:
        for figure in scenario.measure():
            found.append(figure)
            print(f"  {figure.name:44s} {figure.value:10.3f} {figure.unit}", flush=True)
            results.add(scenario.name, found)
    except Exception as problem:  # whatever it is, the other scenarios can be measured
        error = f"{type(problem).__name__}: {problem} {getattr(problem, 'stderr', '') or ''}".strip()[-2000:]
        print(f"  failed: {error}", flush=True)
    results.add(scenario.name, found, error)
    return error is None


def main(arguments: list[str] | None = None) -> int:
    """0 when every scenario was measured, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--shared", action="store_true", help="other programs work on this machine meanwhile: say so")
    parser.add_argument("--results", type=Path, help="file to write [default: benchmarks/results/MACHINE.json]")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in SCENARIOS]:
        parser.error(f"there is no scenario {', '.join(unknown)}; choose from {', '.join(SCENARIOS)}")
    results = Results(given.results, shared=given.shared)
    measured = [measure(SCENARIOS[name], results) for name in given.names or SCENARIOS]
    print(results.path)
    return 0 if all(measured) else 1


if __name__ == "__main__":
    sys.exit(main())
