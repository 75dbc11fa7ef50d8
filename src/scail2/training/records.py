"""The log of a training run: one JSON object a line, contact sheets, and TensorBoard where it is installed."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from scail2.files.documents import DocumentError, decode, parse_json
from scail2.files.staging import atomic_file


class TrainingRecord:
    """Appends numbers to ``log.jsonl`` and, with the ``train`` extra, to TensorBoard event files in ``tensorboard/``."""

    def __init__(self, directory: Path, *, from_step: int) -> None:
        self._path = directory / "log.jsonl"
        self._drop_after(from_step)
        self._file = self._path.open("a", buffering=1)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            with _nameless_host():
                self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, **numbers: float) -> None:
        """Records the numbers of one step."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, pixels: np.ndarray) -> None:
        """Writes ``samples/step-N.png`` from uint8 ``(H, W, 3)``."""
        with atomic_file(self._path.parent / "samples" / f"step-{step:07d}.png") as file:
            Image.fromarray(pixels).save(file, format="PNG")
        if self._board is not None:
            self._board.add_image("samples", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _drop_after(self, step: int) -> None:
        # A resumed run repeats the steps after its last checkpoint; their first account is removed.
        if not self._path.exists():
            return
        lines = self._path.read_text(errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line, self._path) <= step]
        with atomic_file(self._path) as file:
            file.write("".join(line + "\n" for line in kept).encode())


@contextmanager
def _nameless_host() -> Iterator[None]:
    """TensorBoard puts the machine's name into its files' names, which are shared: there it is called ``host``."""
    from tensorboard.summary.writer import event_file_writer

    true = event_file_writer.socket
    event_file_writer.socket = SimpleNamespace(gethostname=lambda: "host")
    try:
        yield
    finally:
        event_file_writer.socket = true


def _step_of(line: str, path: Path) -> float:
    """The step of a line; infinity for one that a crash cut short or that is none of ours, which is then dropped."""
    try:
        return decode(parse_json(line, dict[str, Any], path, nonfinite=True).get("step"), int, path, "step")
    except DocumentError:
        return math.inf
