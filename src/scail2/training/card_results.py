"""The evaluation section of a model card: whatever this package measured, as tables, each kind told by its content."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.files.documents import load_json

# Columns of a card's table of puppets.
_MEASURES = ("character_psnr", "hand_psnr", "head_psnr", "background_psnr", "limb_iou", "frame_difference_correlation")
_BENCH = ("ssim", "psnr", "lpips", "fvd")


def results(paths: Sequence[Path]) -> str:
    """Markdown of result files: `scail2 evaluate --json` (both protocols), `judgement.json`, `scail2 judge votes --json`.

    Raises:
        InputError: a file is none of these.
    """
    if not paths:
        return "Not measured."
    parts: dict[str, list[str]] = {}
    heads: dict[str, tuple[str, str]] = {}
    for path in paths:
        content = load_json(path, dict[str, Any])
        found = next((name for name, (recognises, *_) in _KINDS.items() if recognises(content)), None)
        try:
            _, head, rows, told = _KINDS[found or ""]
            parts.setdefault(found or "", []).extend(rows(path.name, content))
        except (KeyError, TypeError, AttributeError, ValueError):  # none of these kinds, or not whole
            raise InputError(f"{path} holds no results: give JSON of scail2 evaluate or scail2 judge.") from None
        heads[found or ""] = (head, told)
    sections = []
    for name, lines in parts.items():
        head, told = heads[name]
        columns = head.count("|") - 1
        sections.append("\n".join([head, "|---" * columns + "|", *lines, "", told]))
    return "\n\n".join(sections)


def cell(value: Any) -> str:
    """Text that stays inside a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _number(value: Any, digits: int = 3) -> str:
    return "–" if not isinstance(value, int | float) or isinstance(value, bool) else f"{value:.{digits}f}"


def _tasks(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        name: each
        for name, each in content.items()
        if isinstance(each, Mapping) and "clips" in each and name not in ("settings", "studio_bench")
    }


def _puppet_rows(file: str, content: Mapping[str, Any]) -> Iterator[str]:
    for name, each in _tasks(content).items():
        cells = [_number(each.get(measure)) for measure in _MEASURES]
        yield f"| {cell(file)} | {cell(name)} | {each['clips']} | " + " | ".join(cells) + " |"


def _bench_rows(file: str, content: Mapping[str, Any]) -> Iterator[str]:
    bench = content["studio_bench"]
    intervals = bench.get("intervals") if isinstance(bench.get("intervals"), Mapping) else {}
    cells = []
    for name in _BENCH:
        text = _number(bench.get(name))
        low, high = (*(intervals.get(name) or ()), None, None)[:2]
        cells.append(text if low is None or high is None else f"{text} ({_number(low)} … {_number(high)})")
    yield f"| {cell(file)} | {bench.get('clips', '–')} | " + " | ".join(cells) + " |"


def _judged_rows(file: str, content: Mapping[str, Any]) -> Iterator[str]:
    judge = content["settings"].get("judge", {}) if isinstance(content["settings"], Mapping) else {}
    model = judge.get("model", "–") if isinstance(judge, Mapping) else "–"
    for system, dimensions in content["systems"].items():
        for dimension, each in dimensions.items():
            mean = each["mean"]
            span = f"{_number(mean['mean'], 2)} ({_number(mean['low'], 2)} … {_number(mean['high'], 2)})"
            yield f"| {cell(file)} | {cell(model)} | {cell(system)} | {cell(dimension)} | {span} | {_number(each['spread'], 2)} |"


def _vote_rows(file: str, content: Mapping[str, Any]) -> Iterator[str]:
    for each in content["votes"]:
        shares = " / ".join(_number(100 * each[name]["mean"], 1) for name in ("win", "tie", "lose"))
        margin = each["margin"]
        span = f"{_number(margin['mean'], 2)} ({_number(margin['low'], 2)} … {_number(margin['high'], 2)})"
        who = f"{cell(each['system'])} | {cell(each['against'])} | {cell(each['question'])}"
        yield f"| {cell(file)} | {who} | {shares} | {span} | {each['votes']} by {each['people']} |"


_Kind = tuple[Callable[[Mapping[str, Any]], bool], str, Callable[[str, Mapping[str, Any]], Iterator[str]], str]
_KINDS: Mapping[str, _Kind] = {
    "bench": (
        lambda content: isinstance(content.get("studio_bench"), Mapping),
        "| file | clips | SSIM | PSNR dB | LPIPS | FVD |",
        _bench_rows,
        "By `scail2 evaluate --protocol studio-bench`: clips of our own, each driven by itself, with 95 % intervals.",
    ),
    "judged": (
        lambda content: {"systems", "comparisons", "settings"} <= content.keys(),
        "| file | judge | system | dimension | score, 1 to 5 (95 %) | spread of repeats |",
        _judged_rows,
        "By `scail2 judge films`: scores of a vision-language model, to be read only beside each other.",
    ),
    "votes": (
        lambda content: isinstance(content.get("votes"), list),
        "| file | system | against | question | win / tie / lose % | win − lose (95 %) | votes |",
        _vote_rows,
        "By people, on the blind page of `scail2 judge page`.",
    ),
    "puppets": (
        lambda content: bool(_tasks(content)),
        "| file | task | clips | " + " | ".join(_MEASURES) + " |",
        _puppet_rows,
        "By `scail2 evaluate`: drawn puppets that no training uses, PSNR in dB.",
    ),
}
