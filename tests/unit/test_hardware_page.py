"""docs/hardware.md is what the planner says today."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_planner_says():
    spec = importlib.util.spec_from_file_location("hardware", ROOT / "benchmarks" / "hardware.py")
    hardware = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hardware)
    page = hardware.page()
    assert (ROOT / "docs" / "hardware.md").read_text() == page, "run `python benchmarks/hardware.py --write`"
    first = page.split("## ")[1]
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in first.splitlines() if row.startswith("| ")}
    assert float(rows["RTX 4060"][2]) <= 8  # 8 GB are enough at 512p
    assert all(re.fullmatch(r"predicted \|", row[-1]) for name, row in rows.items() if name not in ("card",))
