"""The table and the plot of an ablation experiment, and the page that the table is written into."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.evaluation.ablations import MEASURES, AblationResult
from scail2.files.documents import read_document
from scail2.files.staging import atomic_file

BEGIN, END = "<!-- ablations: begin -->", "<!-- ablations: end -->"
_WORDS = {1: "rises", -1: "falls", 0: "either"}


def result_json(result: AblationResult) -> dict[str, Any]:
    """A row as JSON."""
    return {
        "ablation": result.ablation.name,
        "measure": result.ablation.measure,
        "tasks": list(result.ablation.tasks),
        "published": result.published,
        "without": result.without,
        "difference": {"mean": result.difference.mean, "low": result.difference.low, "high": result.difference.high},
        "published_sign": result.ablation.sign,
        "measured_sign": result.difference.sign,
        "verdict": result.verdict,
        "clips": result.clips,
        "seeds": result.seeds,
    }


def markdown(results: Sequence[AblationResult], facts: Mapping[str, Any]) -> str:
    """The table, what was run, and what the measures are; no blank line at either end.

    Args:
        facts: what fixes and prices the experiment, told one in a line.
    """
    lines = [
        "| ablation | published | measure | as published | without | difference (95 %) | published sign | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        cells = (
            f"`{each.ablation.name}`",
            each.ablation.claim,
            f"`{each.ablation.measure}`",
            f"{each.published:.3f}",
            f"{each.without:.3f}",
            each.difference.told(3),
            _WORDS[each.ablation.sign],
            each.verdict,
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    shown = dict.fromkeys(each.ablation.measure for each in results)
    lines += ["", *(f"`{name}`: {MEASURES[name]}." for name in shown)]
    return "\n".join(lines)


def write_page(page: Path, table: str) -> None:
    """Puts the table between the page's two markers; everything else of the page stays as it is.

    Raises:
        InputError: the page does not have both markers, once each, in this order.
    """
    before, after = around_table(page)
    with atomic_file(page) as file:
        file.write(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}".encode())


def around_table(page: Path) -> tuple[str, str]:
    """What of a page stands before and after its place for the table; errors as in `write_page`."""
    text = read_document(page).decode("utf-8")
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended or BEGIN in rest or END in before + after:
        raise InputError(f"{page} has no place for the table: write the lines {BEGIN} and {END} where it belongs.")
    return before, after


def plot(results: Sequence[AblationResult], path: Path) -> None:
    """One panel for each ablation: both arms' means, and the interval of their difference around the arm without.

    Raises:
        ImportError: matplotlib (extra `plot`) is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(results))
    rows = math.ceil(len(results) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel, result in zip(panels, results, strict=False):
        gap, means = result.difference, (result.published, result.without)
        reach = [[gap.mean - gap.low], [gap.high - gap.mean]]
        panel.bar([0, 1], means, color=["tab:blue", "tab:orange"], width=0.6)
        panel.errorbar([1], [means[1]], yerr=reach, color="black", capsize=5)
        if MEASURES[result.ablation.measure].endswith("dB"):  # which has no zero to count from
            panel.set_ylim(min(means) - 2, max(means) + 1)
        panel.set_xticks([0, 1], ["as published", "without"], fontsize=8)
        panel.set_title(
            f"{result.ablation.name}\n{result.ablation.measure}: {result.verdict} (published: "
            f"{_WORDS[result.ablation.sign]})",
            fontsize=8,
        )
    for panel in panels[len(results) :]:
        panel.set_axis_off()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    with atomic_file(path) as file:
        file.write(drawn.getvalue())


def write_results(results: Sequence[AblationResult], facts: Mapping[str, Any], folder: Path) -> str:
    """Writes `table.json`, `table.md` and `table.png` into a folder; returns the Markdown."""
    table = markdown(results, facts)
    content = {"results": [result_json(each) for each in results], "facts": dict(facts)}
    with atomic_file(folder / "table.json") as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    with atomic_file(folder / "table.md") as file:
        file.write(f"{table}\n".encode())
    plot(results, folder / "table.png")
    return table
