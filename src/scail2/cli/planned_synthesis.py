"""`scail2 synthesize --plan`: pairs by the loop that a plan describes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from scail2.execution.crew import Crew

# Options of a synthesis without a plan; with one they are the plan's.
_IN_THE_PLAN = (
    "recipe", "frames", "size", "fps", "split", "salt", "domain", "poses", "pairs_per_shard", "seed",
)  # fmt: skip


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was on the command line (or in its environment variable), not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def refuse_what_the_plan_says(context: typer.Context) -> None:
    """Raises InputError for options whose place is the plan."""
    from scail2.errors import InputError

    given = [name for name in _IN_THE_PLAN if is_given(context, name)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"With --plan, {named} cannot be given on the command line: say it in the plan.")


def synthesize_by_plan(
    path: Path, out: Path, pairs: int | None, crew: "Crew", resume: bool, figures: Path | None
) -> None:
    """Works a plan off, and reports.

    Args:
        pairs: instead of the plan's number.
        figures: file for what the stages did.
    """
    import dataclasses

    from scail2.cli.options import must_exist
    from scail2.cli.stages import stage_display
    from scail2.cli.terminal import Terminal
    from scail2.files.storage import write_json
    from scail2.request.paths import refuse_overwriting
    from scail2.synthesis.plan import load_plan
    from scail2.synthesis.report import read_report
    from scail2.synthesis.work import PlanWork, carry_out

    must_exist(path, "--plan")
    plan = load_plan(path)
    if pairs is not None:
        plan = dataclasses.replace(plan, pairs=pairs)
    refuse_overwriting([out], [("plan", path)])
    work = PlanWork(plan=plan, folder=out.absolute(), where=str(path))
    console = Terminal()
    source = f"measured by scail2 synthesize --plan {path.name}, {crew.workers} workers, {plan.in_flight} pairs in flight in each"
    with stage_display(console, "synthesizing", figures, source) as shown:
        summary = carry_out(work, crew=crew, resume=resume, progress=shown.progress, listen=shown.listen)
    report = read_report(work.folder, plan.budget)
    told: dict[str, Any] = {
        "plan": path.name,
        "written": summary.written,
        "missing": summary.missing,
        **report.to_json(),
    }
    write_json(work.folder / "report.json", told)
    console.say(f"{summary.written} pairs written, {summary.shards} shards in {summary.directory}")
    for line in report.lines():
        console.say(line)
    for key, reason in summary.skipped.items():
        console.say(f"skipped {key}: {reason}")
    from scail2.cli.crew import tell_missing

    tell_missing(console, summary)
