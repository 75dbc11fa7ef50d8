"""docs/hardware.md is what the planner says today."""

import re
from pathlib import Path

from benchmarks import hardware

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_planner_says():
    page = hardware.page()
    assert (ROOT / "docs" / "hardware.md").read_text() == page, "run `python -m benchmarks.hardware --write`"
    first = page.split("## ")[1]
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in first.splitlines() if row.startswith("| ")}
    assert float(rows["RTX 4060"][2]) <= 8  # 8 GB are enough at 512p
    assert all(re.fullmatch(r"predicted \|", row[-1]) for name, row in rows.items() if name not in ("card",))
