"""What ComfyUI gives besides the node interface: its output folder, its progress bar, its stop button.

Assumed of ComfyUI: ``folder_paths.get_output_directory()``, ``comfy.utils.ProgressBar(total)`` with ``update_absolute``, and
``comfy.model_management.throw_exception_if_processing_interrupted()``.
"""

from pathlib import Path
from typing import Any

import folder_paths


def runs_folder() -> Path:
    """Where runs are kept: ``scail2`` in ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory()) / "scail2"


class Listener:
    """Shows a run's events as ComfyUI's progress, and stops it when the user does."""

    def __init__(self) -> None:
        from comfy import model_management, utils

        self._bar = utils.ProgressBar(1000)
        self._check = model_management.throw_exception_if_processing_interrupted

    def __call__(self, event: Any) -> None:
        self._check()
        facts = event.facts
        if event.name == "step":
            share = (facts["segment"] + facts["step"] / facts["steps"]) / facts["segments"]
            self._bar.update_absolute(round(1000 * share), 1000)
