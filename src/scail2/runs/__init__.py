"""Runs: an animation or replacement as a folder of stages that can be inspected, stopped, resumed and corrected."""

from scail2.runs.directory import RunDirectory
from scail2.runs.journal import RunEvent
from scail2.runs.status import RunStatus

__all__ = ["RunDirectory", "RunEvent", "RunStatus"]
