"""A run as it was before it was worked on, to be put back when the work is refused before anything is rendered."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from scail2.errors import InputError
from scail2.files.ownership import LOCK
from scail2.files.storage import move_folder, names_in, open_plain, read_bytes, write_bytes
from scail2.runs.layout import entries

_JOURNAL = "journal.jsonl"
_SET_ASIDE = re.compile(r"masks-\d+")


class EarlierState:
    """The run's small files as they are now, where its masks are, and how long its journal is.

    The caller holds the run's lock. Before anything is rendered work touches nothing else: what it sets aside are the masks
    alone.

    Args:
        made: whether the folder was made for the run, so that there is none to go back to.
        changed: whether the run gets another request.

    Attributes:
        is_new: whether the run has not even a request yet.
    """

    def __init__(self, folder: Path, *, made: bool = False, changed: bool = False):
        self._folder = folder
        self._made = made
        self._changed = changed
        self._files = {relative: read_bytes(folder / relative) for relative in _documents(folder)}
        self._journal = os.path.getsize(folder / _JOURNAL) if _JOURNAL in os.listdir(folder) else None
        self._aside = set(names_in(folder / "superseded"))
        self._settled: dict[str, bytes] = {}
        self._had_masks = (folder / "masks").exists()
        self._had_aside = (folder / "superseded").exists()
        self.is_new = not (folder / "request.json").exists()

    def settle(self) -> None:
        """Notes the run as it is with the changed request: whoever works on it meanwhile would lose by `restore`."""
        self._settled = self._now()

    @property
    def is_settled(self) -> bool:
        """Whether nobody has worked on the run since `settle`."""
        return self._now() == self._settled

    def _now(self) -> dict[str, bytes]:
        length = os.path.getsize(self._folder / _JOURNAL) if _JOURNAL in os.listdir(self._folder) else -1
        documents = {relative: read_bytes(self._folder / relative) for relative in _documents(self._folder)}
        return documents | {_JOURNAL: str(length).encode()}

    def may_be_looked_at(self, refusal: InputError, *, planned: bool) -> bool:
        """Whether a refused plan stays, of a request that the run had or begins with: with the masks that were made, which may
        be painted on, or where a plan is what was asked for."""
        from scail2.runs.masking import RefusedPlanError  # with NumPy, which a status does without

        made = planned or (self._folder / "masks").exists()
        return isinstance(refusal, RefusedPlanError) and made and not self._changed

    def restore(self) -> None:
        """Puts everything back that refused work touched; a folder that was made for it is gone again."""
        masks, superseded = self._folder / "masks", self._folder / "superseded"
        for name in set(names_in(superseded)) - self._aside:
            if _SET_ASIDE.fullmatch(name):
                shutil.rmtree(masks, ignore_errors=True)
                move_folder(superseded / name, masks)
        if not self._had_masks and masks.exists():
            shutil.rmtree(masks)
        if not self._had_aside and superseded.exists() and not names_in(superseded):
            superseded.rmdir()
        for relative in set(_documents(self._folder)) - self._files.keys():
            (self._folder / relative).unlink()
        for relative, content in self._files.items():
            if not (self._folder / relative).exists() or read_bytes(self._folder / relative) != content:
                write_bytes(self._folder / relative, content)
        self._shorten_journal()
        if self._made and set(os.listdir(self._folder)) <= {LOCK}:
            (self._folder / LOCK).unlink(missing_ok=True)
            self._folder.rmdir()

    def _shorten_journal(self) -> None:
        path = self._folder / _JOURNAL
        if self._journal is None:
            path.unlink(missing_ok=True)
            return
        descriptor = open_plain(path, os.O_RDWR)
        os.ftruncate(descriptor, self._journal)
        os.close(descriptor)


def _documents(folder: Path) -> Iterator[str]:
    """Names of the run's own small files: those of the run and what is told of its masks, not the masks themselves."""
    for each in entries(folder):
        is_told = each.relative.startswith("masks/") and each.relative.count("/") == 1
        if (
            each.is_genuine
            and not (each.folder or each.temporary)
            and each.relative not in (LOCK, _JOURNAL, "drift.png")
            and ("/" not in each.relative or (is_told and each.path.suffix in (".json", ".png")))
        ):
            yield each.relative
