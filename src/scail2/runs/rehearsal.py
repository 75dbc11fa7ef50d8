"""A run tried in another place: with the masks and notes it has, and without touching it."""

import shutil
from pathlib import Path

from scail2.runs.layout import entries

_NOTES = {"request.json", "inputs.json", "stages.json", "plan.json", "model.json"}


def copy_prepared(run: Path, place: Path) -> None:
    """Copies what a run has prepared, its masks as they are painted now, into an empty folder; nothing that was rendered.

    Where there is no run yet, nothing is copied.
    """
    if not (run / "request.json").is_file():
        return
    for each in entries(run):
        inside = each.relative == "masks" or each.relative.startswith("masks/")
        if not each.is_genuine or each.temporary or not (inside or each.relative in _NOTES):
            continue
        if each.folder:
            (place / each.relative).mkdir()
        else:
            shutil.copy2(each.path, place / each.relative)
